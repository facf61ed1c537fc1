import { resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { errnoError, VfioError, type VfioErrorCode } from '@vfio/core';
import type { Io } from '../io.js';
import { paint } from '../output.js';
import type { FromServer, HostOptions, ServeJob, ServeTarget, ToServer } from '../serve/messages.js';

export interface ServeOptions {
  readonly json?: boolean;
  readonly socketPath: readonly string[];
  readonly fd?: number;
  readonly socketMode?: number;
  readonly socketGroup?: string;
  readonly driver?: string;
  readonly threads: number;
  readonly trace?: string;
  readonly compat?: string;
  readonly host: HostOptions;
}

/** Pairs each address with its socket. @throws EINVAL where they do not pair. */
export function serveTargets(addresses: readonly string[], options: ServeOptions): ServeTarget[] {
  const { socketPath, fd, driver } = options;
  if (fd !== undefined) {
    if (addresses.length !== 1 || socketPath.length > 0) {
      throw errnoError('EINVAL', '--fd serves one function and goes without --socket-path', { op: 'serve' });
    }
    return [{ address: addresses[0] ?? '', driver, socket: { fd } }];
  }
  if (socketPath.length !== addresses.length) {
    throw errnoError(
      'EINVAL',
      `${addresses.length} functions and ${socketPath.length} --socket-path: each function needs one, in the same order`,
      { op: 'serve' },
    );
  }
  return addresses.map((address, index) => ({
    address,
    driver,
    socket: {
      path: resolve(socketPath[index] ?? ''),
      ...(options.socketMode === undefined ? {} : { mode: options.socketMode }),
      ...(options.socketGroup === undefined ? {} : { group: options.socketGroup }),
    },
  }));
}

/** The device argument of a QEMU command line for a socket. */
export function qemuDevice(path: string): string {
  return `-device '${JSON.stringify({ driver: 'vfio-user-pci', socket: { type: 'unix', path } })}'`;
}

/** Functions to threads, as evenly as they come. On the emulated host each thread has a host of its own. */
export function splitTargets(targets: readonly ServeTarget[], threads: number): ServeTarget[][] {
  const groups: ServeTarget[][] = Array.from({ length: Math.min(threads, targets.length) }, () => []);
  for (const [index, target] of targets.entries()) groups[index % groups.length]?.push(target);
  return groups;
}

/** `vfio serve`: serves functions until it is asked to end. Resolves when every thread has ended in order. */
export async function serve(addresses: readonly string[], options: ServeOptions, io: Io): Promise<void> {
  const targets = serveTargets(addresses, options);
  const jobs = splitTargets(targets, options.threads).map(
    (part): ServeJob => ({
      cwd: io.cwd,
      targets: part,
      compat: options.compat,
      traceFile: options.trace === undefined ? undefined : resolve(options.trace),
      hostOptions: options.host,
    }),
  );
  let ready = 0;
  let failure: VfioError | undefined;
  const workers: Worker[] = [];
  const stop = (): void => {
    const message: ToServer = { type: 'stop' };
    for (const worker of workers) worker.postMessage(message);
  };
  const ended = jobs.map((job) => {
    const worker = new Worker(new URL('./serve/worker.js', import.meta.url), { workerData: job });
    workers.push(worker);
    worker.on('message', (message: FromServer) => {
      if (message.type === 'ready') {
        ready++;
        if (ready === jobs.length) announce(targets, options, io);
      } else if (message.type === 'failed') {
        failure ??= new VfioError((message.code ?? 'ERR_VFIO_STATE') as VfioErrorCode, message.message, {
          op: 'serve',
        });
        if (message.stack !== undefined) failure.stack = message.stack;
        stop();
      } else {
        report(message, options.json === true, io);
      }
    });
    return new Promise<void>((done, reject) => worker.once('exit', () => done()).once('error', reject));
  });
  io.signal.addEventListener('abort', stop, { once: true });
  if (io.signal.aborted) stop();
  try {
    await Promise.all(ended);
  } finally {
    io.signal.removeEventListener('abort', stop);
  }
  if (failure !== undefined) throw failure;
}

function report(message: Exclude<FromServer, { type: 'ready' | 'failed' }>, json: boolean, io: Io): void {
  if (json) {
    io.out(`${JSON.stringify(message)}\n`);
    return;
  }
  switch (message.type) {
    case 'listening':
      io.out(`${paint(io, 'bold', message.address)}  driver ${message.driver}, ops ${message.ops}\n`);
      break;
    case 'attached':
      io.out(`${message.address}  client attached (${message.peer})\n`);
      break;
    case 'detached':
      io.out(`${message.address}  client gone: ${message.reason}\n`);
      break;
    case 'warning':
      io.err(
        `${message.address === undefined ? '' : `${message.address}  `}${paint(io, 'yellow', 'warning')}: ${message.message}\n`,
      );
      break;
  }
}

function announce(targets: readonly ServeTarget[], options: ServeOptions, io: Io): void {
  const paths = targets.flatMap(({ socket }) => ('path' in socket ? [socket.path] : []));
  if (options.json === true) {
    io.out(`${JSON.stringify({ type: 'ready', qemu: paths.map(qemuDevice) })}\n`);
    return;
  }
  if (paths.length > 0) {
    io.out('\nQEMU 10.1 or newer, with memory that can be shared:\n');
    io.out(
      '  qemu-system-x86_64 -M q35,memory-backend=m -object memory-backend-memfd,id=m,size=1G,share=on -m 1G \\\n',
    );
    io.out(`${paths.map((path) => `    ${qemuDevice(path)}`).join(' \\\n')}\n\n`);
  }
  io.out(
    `${paint(io, 'yellow', 'note')}: a migration by the VMM loses the device's state without a word; see the README.\n`,
  );
}
