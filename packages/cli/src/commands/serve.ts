import { resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { deviceSetKey, type PciFunction } from '@vfio/core';
import { createDemoHost, DEMO } from '@vfio/emulated';
import { makePulse, PulseWatcher } from '@vfio/vfio-user';
import { enableVirtualFunctions, type HostSetup, setupFor } from '../host-setup.js';
import type { Io } from '../io.js';
import { paint } from '../output.js';
import { CallsToThread } from '../serve/control/calls-to-thread.js';
import type { AnswerMessage } from '../serve/control/messages.js';
import type { ControlServer } from '../serve/control/server.js';
import { fileDrive } from '../serve/host.js';
import type { FromServer, HostOptions, ServeJob, ServeTarget, ToServer } from '../serve/messages.js';
import { errorOf } from '../serve/plain-error.js';
import { type QemuDevice, qemuCommandLine, qemuDevice } from '../serve/qemu.js';
import { findFunction } from '../session.js';
import { UsageError } from '../usage-error.js';

export interface ServeOptions {
  readonly json?: boolean;
  readonly socketPath: readonly string[];
  readonly fd?: number;
  readonly incoming?: string;
  readonly socketMode?: number;
  readonly socketGroup?: string;
  readonly driver?: string;
  readonly threads: number;
  readonly trace?: string;
  readonly compat?: string;
  readonly controlPath?: string;
  /** Of the command, for clients of the control socket. */
  readonly version: string;
  readonly host: HostOptions;
  readonly setup: HostSetup;
}

/** What `vfio serve --json` shows, one a line: schemas/serve.json. */
export type ServeEvent =
  | Exclude<FromServer, AnswerMessage | { readonly type: 'ready' | 'failed' }>
  | {
      readonly type: 'ready';
      /** What QEMU is to be given for each socket file: `-device` and the JSON of this. */
      readonly devices: readonly QemuDevice[];
      /** Ready for a shell; null where no socket is a file. */
      readonly commandLine: string | null;
      /** The control socket; null where there is none. */
      readonly control: string | null;
      readonly note: string;
    };

/** Said with every server, because QEMU does not say it. */
const MIGRATION_NOTE =
  'do not migrate a guest that has such a device: QEMU moves the guest and loses the state of the device without a word';

/** Milliseconds in one operation after which a thread is told to hang: its functions and their guests stand still. A guest's
 * access is given up after 5 seconds. */
const HANG_MS = 1000;

/** sun_path of a Unix socket, without its NUL. */
const MAX_SOCKET_PATH = 107;

/** Pairs each function with its socket. @throws {@link UsageError} where they do not pair. */
export function serveTargets(functions: readonly PciFunction[], options: ServeOptions, cwd: string): ServeTarget[] {
  const { socketPath, fd, incoming, driver, socketMode, socketGroup, host } = options;
  const addresses = functions.map((fn) => fn.address);
  const twice = addresses.find((address, index) => addresses.indexOf(address) !== index);
  if (twice !== undefined) throw new UsageError(`${twice} is named twice, and one function has one server`);
  if (host.nvmeFile !== undefined && fileDrive(functions) === undefined) {
    throw new UsageError(
      `--nvme-file is for ${DEMO.nvme} and virtual functions of ${DEMO.nvmeSriov}, which are not among the functions`,
    );
  }
  if (host.nvmeSize !== undefined && host.nvmeFile === undefined) {
    throw new UsageError('--nvme-size is the size of what --nvme-file names, and there is none');
  }
  if (incoming !== undefined) {
    if (
      addresses.length !== 1 ||
      socketPath.length > 0 ||
      fd !== undefined ||
      socketMode !== undefined ||
      socketGroup !== undefined
    ) {
      throw new UsageError('--incoming takes one function over with its socket, and goes with no other socket option');
    }
    if (incoming === '') throw new UsageError('--incoming is empty');
    const path = socketPathOf(incoming, cwd);
    return addresses.map((address) => ({ address, driver, socket: { incoming: { path } } }));
  }
  if (fd !== undefined) {
    if (addresses.length !== 1 || socketPath.length > 0 || socketMode !== undefined || socketGroup !== undefined) {
      throw new UsageError('--fd serves one function on a socket that is there, and goes with no other socket option');
    }
    return addresses.map((address) => ({ address, driver, socket: { fd } }));
  }
  if (socketPath.length !== addresses.length) {
    throw new UsageError(
      `functions: ${addresses.length}, --socket-path: ${socketPath.length}; each function needs one, in the same order`,
    );
  }
  if (socketPath.includes('')) throw new UsageError('--socket-path is empty');
  const paths = socketPath.map((path) => socketPathOf(path, cwd));
  for (const [index, path] of paths.entries()) {
    if (paths.indexOf(path) !== index) throw new UsageError(`two functions on one socket: ${path}`);
  }
  return addresses.map((address, index) => ({
    address,
    driver,
    socket: {
      path: paths[index] ?? '',
      ...(socketMode === undefined ? {} : { mode: socketMode }),
      ...(socketGroup === undefined ? {} : { group: socketGroup }),
    },
  }));
}

/** Where the control socket goes. @throws {@link UsageError} */
export function controlSocket(
  targets: readonly ServeTarget[],
  { controlPath }: ServeOptions,
  cwd: string,
): string | undefined {
  if (controlPath === undefined) return undefined;
  if (controlPath === '') throw new UsageError('--control-path is empty');
  const path = socketPathOf(controlPath, cwd);
  const isTaken = ({ socket }: ServeTarget): boolean =>
    'incoming' in socket ? socket.incoming.path === path : 'path' in socket && socket.path === path;
  if (targets.some(isTaken)) throw new UsageError(`the control socket and a function on one socket: ${path}`);
  return path;
}

/** The absolute path of a socket. @throws {@link UsageError} where no socket can have it */
function socketPathOf(path: string, cwd: string): string {
  const absolute = resolve(cwd, path);
  const length = Buffer.byteLength(absolute);
  if (length <= MAX_SOCKET_PATH) return absolute;
  throw new UsageError(`socket path of ${length} bytes, at most ${MAX_SOCKET_PATH} can be: ${absolute}`);
}

/** What a function shares with others, by name: its physical function, and the slot or bus that is reset as one. */
export const sharedBy = (fn: PciFunction): string[] => [(fn.physfn ?? fn).address, deviceSetKey(fn)];

/**
 * Functions to threads, as evenly as can be: those that share state, also by way of a third, stay together, since a device
 * lives in one thread with its PF and its reset set. Returns the indexes.
 */
export function splitFunctions(functions: readonly PciFunction[], threads: number): number[][] {
  const groups: { readonly shares: Set<string>; readonly members: number[] }[] = [];
  for (const [index, fn] of functions.entries()) {
    const merged = { shares: new Set(sharedBy(fn)), members: [index] };
    for (const group of groups.filter(({ shares }) => sharedBy(fn).some((key) => shares.has(key)))) {
      for (const key of group.shares) merged.shares.add(key);
      merged.members.push(...group.members);
      groups.splice(groups.indexOf(group), 1);
    }
    groups.push(merged);
  }
  const parts: number[][] = Array.from({ length: Math.min(threads, groups.length) }, () => []);
  for (const { members } of groups.sort((a, b) => b.members.length - a.members.length)) {
    parts.reduce((least, part) => (part.length < least.length ? part : least)).push(...members);
  }
  return parts.map((part) => part.sort((a, b) => a - b));
}

/** `vfio serve`: serves functions until it is asked to end. Resolves when every thread has ended in order. */
export async function serve(addresses: readonly string[], options: ServeOptions, io: Io): Promise<void> {
  // Tells what is where; each thread makes a host of its own.
  const host = createDemoHost();
  await enableVirtualFunctions(host, options.setup);
  const functions = addresses.map((address) => findFunction(host, address));
  const targets = serveTargets(functions, options, io.cwd);
  const controlPath = controlSocket(targets, options, io.cwd);
  const jobs = splitFunctions(functions, options.threads).map((part): ServeJob => {
    const mine = targets.filter((_, index) => part.includes(index));
    const mineFunctions = functions.filter((_, index) => part.includes(index));
    // Of the threads only the one that serves the drive may have its file open.
    const nvmeDrive = fileDrive(mineFunctions);
    const hasFile = nvmeDrive !== undefined && nvmeDrive === fileDrive(functions);
    return {
      cwd: io.cwd,
      script: io.script,
      targets: mine,
      compat: options.compat,
      traceFile: options.trace === undefined ? undefined : resolve(io.cwd, options.trace),
      hostOptions: hasFile ? { ...options.host, nvmeDrive } : {},
      setup: setupFor(options.setup, mineFunctions),
      pulse: makePulse(),
    };
  });
  let ready = 0;
  let failure: Error | undefined;
  let control: ControlServer | undefined;
  let isEnding = false;
  const workers: Worker[] = [];
  const stop = (): void => {
    isEnding = true;
    control?.close();
    const message: ToServer = { type: 'stop' };
    for (const worker of workers) worker.postMessage(message);
  };
  const fail = (error: Error): void => {
    failure ??= error;
    stop();
  };
  const calls = new Map<string, CallsToThread>();
  const onReady = async (): Promise<void> => {
    if (controlPath !== undefined && !isEnding) control = await listenControl(controlPath, calls, options, io);
    // It may have been asked to end meanwhile.
    if (isEnding) control?.close();
    else tell(readyEvent(targets, control?.path ?? null), options, io);
  };
  const ended = jobs.map((job) => {
    const worker = new Worker(new URL('./serve/worker.js', import.meta.url), { workerData: job });
    workers.push(worker);
    const thread = new CallsToThread((message) => worker.postMessage(message));
    for (const { address } of job.targets) calls.set(address, thread);
    worker.on('message', (message: FromServer) => {
      switch (message.type) {
        case 'failed':
          fail(errorOf(message, 'serve'));
          break;
        case 'ready':
          if (++ready === jobs.length) onReady().catch(fail);
          break;
        case 'progress':
        case 'result':
        case 'error':
          thread.onAnswer(message);
          break;
        default:
          tell(message, options, io);
      }
    });
    worker.on('error', fail);
    const watcher = watch(job, options, io);
    return new Promise<void>((done) => worker.once('exit', () => done())).finally(() => {
      watcher.stop();
      thread.end('the thread that served the function has ended');
    });
  });
  io.signal.addEventListener('abort', stop, { once: true });
  if (io.signal.aborted) stop();
  await Promise.all(ended);
  control?.close();
  io.signal.removeEventListener('abort', stop);
  if (failure !== undefined) throw failure;
}

/** Only where it is asked for: what a control socket needs is not loaded otherwise. */
async function listenControl(
  path: string,
  functions: ReadonlyMap<string, CallsToThread>,
  options: ServeOptions,
  io: Io,
): Promise<ControlServer> {
  const [{ ControlServer }, { METHODS }] = await Promise.all([
    import('../serve/control/server.js'),
    import('../serve/methods/index.js'),
  ]);
  return await ControlServer.listen(path, {
    version: options.version,
    methods: Object.keys(METHODS),
    functions,
    warn: (message) => tell({ type: 'warning', address: null, message }, options, io),
  });
}

/** Tells when a thread does not come back from an operation. It cannot tell itself. */
function watch({ pulse, targets }: ServeJob, options: ServeOptions, io: Io): PulseWatcher {
  const address = targets.length === 1 ? (targets[0]?.address ?? null) : null;
  return new PulseWatcher(pulse, HANG_MS, (what, _socket, milliseconds) => {
    const message = `${what} has not come back for ${milliseconds} ms: what this thread serves stands still`;
    tell({ type: 'warning', address, message }, options, io);
  });
}

function readyEvent(targets: readonly ServeTarget[], control: string | null): Extract<ServeEvent, { type: 'ready' }> {
  const devices = targets.flatMap(({ socket }) => ('path' in socket ? [qemuDevice(socket.path)] : []));
  const commandLine = devices.length === 0 ? null : qemuCommandLine(devices);
  return { type: 'ready', devices, commandLine, control, note: MIGRATION_NOTE };
}

function tell(event: ServeEvent, options: ServeOptions, io: Io): void {
  if (options.json === true) {
    io.out(`${JSON.stringify(event)}\n`);
    return;
  }
  switch (event.type) {
    case 'listening': {
      const ops = event.ops === event.driver ? '' : `, ops ${event.ops}`;
      io.out(
        `${paint(io, 'bold', event.address)}  driver ${event.driver}${ops}, on ${event.socket ?? 'the given fd'}\n`,
      );
      break;
    }
    case 'waiting':
      io.out(
        `${paint(io, 'bold', event.address)}  driver ${event.driver}, waits for a client of another server on ${event.incoming}\n`,
      );
      break;
    case 'ready':
      if (event.commandLine !== null) {
        io.out(`\nFor QEMU 10.1 or newer, with memory that can be shared:\n\n${event.commandLine}\n\n`);
      }
      if (event.control !== null) io.out(`control socket: ${event.control}\n`);
      io.out(`${paint(io, 'yellow', 'note')}: ${event.note}\n`);
      io.out(`${paint(io, 'yellow', 'note')}: Ctrl-C or SIGTERM ends it\n`);
      break;
    case 'attached':
      io.out(`${event.address}  client attached: ${event.peer}${event.pid === null ? '' : `, pid ${event.pid}`}\n`);
      break;
    case 'detached':
      io.out(`${event.address}  client gone: ${event.reason}\n`);
      break;
    case 'warning':
      io.err(
        `${event.address === null ? '' : `${event.address}  `}${paint(io, 'yellow', 'warning')}: ${event.message}\n`,
      );
      break;
  }
}
