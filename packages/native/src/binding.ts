import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VfioError } from '@vfio/uapi';

/** A mapping as the addon knows it; only the addon looks inside. */
export interface NativeMappingHandle {
  /** The mapped bytes. Length 0 after `unmap`. */
  readonly buffer: ArrayBuffer;
}

/** A watched descriptor (libuv poll handle) as the addon knows it. */
export interface NativeWatcher {
  /** Calls back with the ready events (1 readable, 2 writable) or a negative errno, until stopped. */
  start(events: number): number;
  stop(): number;
  ref(): void;
  unref(): void;
  /** Idempotent. The descriptor stays the caller's. */
  close(): void;
}

/** The addon's half of a `MessageLoop`; see loop.ts for the meaning of each call. */
export interface NativeLoop {
  /** Words shared with `step`: 32 of state (LOOP_SLOT), 253 received descriptors, 253 descriptors for the reply. */
  readonly shared: ArrayBuffer;
  /** Where replies are built. */
  readonly tx: ArrayBuffer;
  /** A bound function: needs no `this`. The event's kind is the first word of `shared`. */
  readonly step: { (): void; (timeoutUs: number): void };
  addSocket(fd: number, maxMessage: number, maxFds: number, maxQueued: number): number;
  addListener(fd: number): number;
  addEventFd(fd: number): number;
  addTimer(): number;
  setTimer(id: number, delayUs: number, intervalUs: number): number;
  /** Receive buffer of a socket, or a negative errno. */
  buffer(id: number): ArrayBuffer | number;
  fd(id: number): number;
  remove(id: number, closeFd: boolean): number;
  pause(id: number): number;
  resume(id: number): number;
  drain(id: number, on: boolean): number;
  send(id: number, bytes: Uint8Array, offset: number, length: number, fds: Int32Array | null, fdCount: number): number;
  sendTx(id: number, length: number, fds: Int32Array | null, fdCount: number): number;
  watchMapping(handle: NativeMappingHandle, socket: number): number;
  start(onReady: () => void): number;
  stop(): number;
  ref(): void;
  unref(): void;
  stats(out: Float64Array): number;
  wakeFd(): number;
  close(): void;
}

/**
 * The addon's exports: one function per system call shape, no policy. Unless said otherwise a function returns a
 * number >= 0, or a negative errno; none throws. Its keys are compared with the addon's in a test.
 */
export interface NativeBinding {
  /** Layout version of this interface; the loader refuses an addon of another one. */
  readonly abi: number;

  // descriptors
  open(path: string, flags: number, mode: number): number;
  close(fd: number): number;
  dup(fd: number): number;
  fdFlags(fd: number): number;
  setNonBlocking(fd: number, on: boolean): number;
  /** out: dev, ino, size, block size, mode, file system type. */
  fstat(fd: number, out: BigUint64Array): number;
  sameFile(a: number, b: number): number;
  ftruncate(fd: number, size: number | bigint): number;
  pread(fd: number, bytes: Uint8Array, offset: number | bigint): number;
  pwrite(fd: number, bytes: Uint8Array, offset: number | bigint): number;
  poll(fd: number, events: number, timeoutMs: number): number;
  ioctl(fd: number, request: number, argument: Uint8Array | number): number;

  // memory
  memfdCreate(name: string, flags: number): number;
  addSeals(fd: number, seals: number): number;
  getSeals(fd: number): number;
  pageSize(): number;
  mmap(fd: number, offset: number | bigint, length: number, prot: number, flags: number): NativeMappingHandle | number;
  unmap(handle: NativeMappingHandle): number;
  /** Number of pages replaced after the file behind them was cut; 0 for a sound mapping. */
  poisoned(handle: NativeMappingHandle): number;
  notifyPoison(handle: NativeMappingHandle, fd: number): number;
  madvise(handle: NativeMappingHandle, offset: number, length: number, advice: number): number;
  /** Mappings that exist in this process, of all threads. */
  mappingCount(): number;

  // eventfd
  eventfd(initial: number, flags: number): number;
  eventfdWrite(fd: number, value: number): number;
  eventfdRead(fd: number): number;
  adoptEventFd(fd: number): number;

  // sockets
  socketpair(out: Int32Array): number;
  listenUnix(path: string, mode: number, backlog: number): number;
  connectUnix(path: string): number;
  accept(fd: number): number;
  sendmsg(fd: number, chunks: readonly Uint8Array[], fds: Int32Array | null, fdCount: number): number;
  /** status: descriptors received, 1 if some were lost, bytes of the sender's ancillary data dropped. */
  recvmsg(fd: number, bytes: Uint8Array, offset: number, length: number, fds: Int32Array, status: Int32Array): number;
  transact(
    fd: number,
    request: Uint8Array | null,
    requestLength: number,
    requestFds: Int32Array | null,
    requestFdCount: number,
    reply: Uint8Array,
    timeoutMs: number,
    fds: Int32Array,
    status: Int32Array,
  ): number;
  shutdown(fd: number, how: number): number;
  setSendBuffer(fd: number, bytes: number): number;
  /** out: pid, uid, gid. */
  peerCredentials(fd: number, out: Int32Array): number;

  // registers and order
  read8(bytes: Uint8Array, offset: number): number;
  read16(bytes: Uint8Array, offset: number): number;
  read32(bytes: Uint8Array, offset: number): number;
  read64(bytes: Uint8Array, offset: number, out: Uint32Array): number;
  write8(bytes: Uint8Array, offset: number, value: number): number;
  write16(bytes: Uint8Array, offset: number, value: number): number;
  write32(bytes: Uint8Array, offset: number, value: number): number;
  write64(bytes: Uint8Array, offset: number, low: number, high: number): number;
  loadAcquire32(bytes: Uint8Array, offset: number): number;
  storeRelease32(bytes: Uint8Array, offset: number, value: number): number;
  fence(): void;

  // bitmaps of 64-bit words in the machine's byte order
  bitmapSet(bytes: Uint8Array, start: number, count: number): number;
  bitmapClear(bytes: Uint8Array, start: number, count: number): number;
  bitmapOr(target: Uint8Array, source: Uint8Array): number;
  bitmapCount(bytes: Uint8Array, start: number, count: number): number;
  /** The first set bit at or after `from` and before `end`; -ENOENT where there is none. */
  bitmapNext(bytes: Uint8Array, from: number, end: number): number;
  bitmapScale(
    source: Uint8Array,
    sourceStart: number,
    sourceCount: number,
    target: Uint8Array,
    numerator: number,
    denominator: number,
  ): number;

  // pages
  pageSums(
    bytes: Uint8Array,
    pageSize: number,
    sums: Uint8Array,
    first: number,
    changed: Uint8Array | null,
    bit: number,
  ): number;

  // event loop
  watchFd(fd: number, callback: (events: number) => void): NativeWatcher | number;
  createLoop(
    maxMessage: number,
    burstMessages: number,
    burstUs: number,
    denseUs: number,
    measure: boolean,
  ): NativeLoop | number;
}

/** What {@link NativeBinding.abi} must be. */
export const NATIVE_ABI = 1;

let loaded: NativeBinding | undefined;

/**
 * The addon, loaded on the first call: importing this package does not load it, so that what needs no system calls runs
 * on every machine. Looked for in this order: the file that `VFIO_NATIVE_PATH` names (then nothing else), the build in
 * `build/Release`, the prebuilt binaries in `prebuilds`; `PREBUILDS_ONLY=1` leaves out the build. Only "not found"
 * moves on to the next place.
 *
 * @throws ERR_VFIO_NATIVE_UNAVAILABLE where it cannot be loaded; a later call tries again.
 */
export function nativeBinding(): NativeBinding {
  loaded ??= load();
  return loaded;
}

/** Whether {@link nativeBinding} works here; loads the addon. */
export function isNativeAvailable(): boolean {
  try {
    nativeBinding();
    return true;
  } catch {
    return false;
  }
}

/** Root of this package: sources and bundle both lie one folder below it. */
function packageRoot(): string {
  return dirname(dirname(fileURLToPath(import.meta.url)));
}

function load(): NativeBinding {
  const tried: string[] = [];
  if (process.platform !== 'linux') throw unavailable('it needs Linux', tried, undefined);
  const require = createRequire(import.meta.url);
  const root = packageRoot();
  const { VFIO_NATIVE_PATH: named, PREBUILDS_ONLY: prebuildsOnly } = process.env;
  let file: string | undefined;
  if (named !== undefined && named !== '') {
    file = resolve(named);
    tried.push(`${file} (VFIO_NATIVE_PATH)`);
    if (!existsSync(file)) throw unavailable('the file that VFIO_NATIVE_PATH names does not exist', tried, undefined);
  } else {
    if (!prebuildsOnly) tried.push(join(root, 'build', 'Release'));
    tried.push(join(root, 'prebuilds', `${process.platform}-${process.arch}`));
    file = findBuild(require, root);
    if (file === undefined) throw unavailable('there is no build of it for this system', tried, undefined);
  }
  let addon: Partial<NativeBinding>;
  try {
    // The addon is typed by hand; the keys are compared in a test and the version here.
    addon = require(file) as Partial<NativeBinding>;
  } catch (error) {
    throw unavailable(`${file} was found but could not be loaded`, tried, error);
  }
  if (addon.abi !== NATIVE_ABI) {
    throw unavailable(
      `${file} has interface ${addon.abi ?? 'none'}, ${NATIVE_ABI} is needed: it is of another version`,
      tried,
      undefined,
    );
  }
  return addon as NativeBinding;
}

/** node-gyp-build's choice: the local build, or the prebuilt binary for this platform, architecture and C library. */
function findBuild(require: NodeJS.Require, root: string): string | undefined {
  const resolver = require('node-gyp-build') as { resolve(dir: string): string };
  try {
    return resolver.resolve(root);
  } catch {
    // Its error has no code and means "not found"; the caller says more than it could.
    return undefined;
  }
}

function libc(): string {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
  const glibc = report?.header?.glibcVersionRuntime;
  return glibc === undefined ? 'musl or unknown' : `glibc ${glibc}`;
}

function unavailable(reason: string, tried: readonly string[], cause: unknown): VfioError {
  const system = `${process.platform}-${process.arch}, ${process.platform === 'linux' ? `${libc()}, ` : ''}Node ${process.version}`;
  const found = cause instanceof Error ? `: ${cause.message}` : '';
  const places = tried.length === 0 ? '' : ` Tried: ${tried.join(', ')}.`;
  const next =
    process.platform === 'linux'
      ? ' Build it with "npm run build:native" in the folder of @vfio/native (needs a C++ compiler, make and python3), or name a build with VFIO_NATIVE_PATH.'
      : ' The parts of vfio that make no system calls (core, emulated) work without it.';
  return new VfioError(
    'ERR_VFIO_NATIVE_UNAVAILABLE',
    `the native addon of @vfio/native cannot be used on ${system}: ${reason}${found}.${places}${next}`,
    {
      errno: 'ENOSYS',
      op: 'load',
      details: { platform: process.platform, arch: process.arch, node: process.version, tried: [...tried] },
      ...(cause === undefined ? {} : { cause }),
    },
  );
}
