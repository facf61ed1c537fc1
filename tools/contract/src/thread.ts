import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { toClient, type VfioDeviceProvider } from '@vfio/core';
import type { ContractSubject } from '@vfio/testing';
import { VfioUserBlockingClient } from '@vfio/vfio-user';
import { build } from 'tsup';
import { wholeFunction } from './whole-device.js';

const ADDON = fileURLToPath(new URL('../../../packages/native/build/Release/vfio_native.node', import.meta.url));

/**
 * The device with all abilities, served in a thread of its own: what the client that blocks needs. A worker reads no
 * TypeScript, so its program is bundled first.
 */
export class ServedInThread {
  readonly #folder: string;
  readonly #worker: Worker;
  readonly #path: string;

  private constructor(folder: string, worker: Worker, path: string) {
    this.#folder = folder;
    this.#worker = worker;
    this.#path = path;
  }

  static async start(): Promise<ServedInThread> {
    const folder = await mkdtemp(join(tmpdir(), 'vfio-contract-'));
    await build({
      config: false,
      silent: true,
      entry: { thread: fileURLToPath(new URL('./served-thread.ts', import.meta.url)) },
      outDir: folder,
      format: 'esm',
      outExtension: () => ({ js: '.mjs' }),
      platform: 'node',
      target: 'node20',
      splitting: false,
      noExternal: [/^@vfio\//],
      external: ['node-gyp-build'],
      esbuildOptions: (options) => {
        options.conditions = ['@vfio/source'];
      },
    });
    const path = join(folder, 'socket');
    const worker = new Worker(join(folder, 'thread.mjs'), {
      workerData: { path },
      env: { ...process.env, VFIO_NATIVE_PATH: process.env['VFIO_NATIVE_PATH'] ?? ADDON },
    });
    await once(worker, 'message');
    return new ServedInThread(folder, worker, path);
  }

  /** The device at the other end, as a local one: the base of another. */
  get provider(): VfioDeviceProvider {
    const { fn } = wholeFunction();
    return { function: fn, name: 'vfio-user', open: async () => VfioUserBlockingClient.connect(this.#path, fn) };
  }

  /** Opens what stands on {@link provider}. */
  async open(device: VfioDeviceProvider): Promise<ContractSubject> {
    const opened = await device.open();
    return {
      device: toClient(opened),
      close: async () => {
        // The server is done with a client only when its device is closed: what it held counts until then.
        const detached = once(this.#worker, 'message');
        await opened.close();
        await detached;
      },
    };
  }

  async stop(): Promise<void> {
    const ended = once(this.#worker, 'exit');
    this.#worker.postMessage('stop');
    await ended;
    await rm(this.#folder, { recursive: true });
  }
}
