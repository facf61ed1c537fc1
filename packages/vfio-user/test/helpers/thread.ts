import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { build } from 'tsup';
import type { VfioUserServerOptions } from '../../src/index.js';
import { socketPath } from './raw-client.js';
import { cleanup } from './serve.js';

/** What a thread is to serve, and where. */
export interface ThreadJob {
  readonly path: string;
  readonly device: 'edu' | 'migratable' | 'scripted';
  readonly options?: VfioUserServerOptions;
}

const ADDON = fileURLToPath(new URL('../../../native/build/Release/vfio_native.node', import.meta.url));

let bundle: Promise<string> | undefined;

/** The thread's program as JavaScript: a worker has nothing that reads TypeScript. Made once, for all tests of a file. */
async function makeBundle(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-thread-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
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
    external: ['vitest', 'tsup', 'node-gyp-build'],
    esbuildOptions: (options) => {
      options.conditions = ['@vfio/source'];
    },
  });
  return join(folder, 'thread.mjs');
}

/** Serves a device in a thread of its own, until the test ends. */
export async function serveInThread(device: ThreadJob['device'], options: VfioUserServerOptions = {}) {
  bundle ??= makeBundle();
  const socket = socketPath();
  cleanup(socket.remove);
  const job: ThreadJob = { path: socket.path, device, options };
  const worker = new Worker(await bundle, {
    workerData: job,
    env: { ...process.env, VFIO_NATIVE_PATH: process.env['VFIO_NATIVE_PATH'] ?? ADDON },
  });
  const ended = once(worker, 'exit');
  cleanup(async () => {
    worker.postMessage('stop');
    await ended;
  });
  await once(worker, 'message');
  return { path: socket.path };
}
