import { lstatSync, unlinkSync } from 'node:fs';
import { ERRNO, VfioError } from '@vfio/uapi';
import { nativeBinding } from './binding.js';
import { closeFd } from './fd.js';
import { checked, syscallError } from './syscall-error.js';

/** Bytes of a socket's path at most: `sun_path` holds 108 with its NUL. */
export const SUN_PATH_MAX = 107;

/** Descriptors in one message at most (SCM_MAX_FD of the kernel). */
export const SCM_MAX_FD = 253;

/** What {@link recvMessage} tells beside the bytes. */
export interface Received {
  /** Bytes read; 0 when the peer has closed. */
  bytes: number;
  /** Descriptors written to the front of the array that was handed in. The caller owns them. */
  fdCount: number;
  /** Some descriptors did not arrive (the array or the descriptor table was full); those that did were closed: `fdCount` is 0. */
  truncated: boolean;
}

/** Who is at the other end of a Unix socket, as of when it connected. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** Two connected stream sockets, closed on exec and blocking. The caller owns both. @throws ERR_VFIO_SYSCALL */
export function socketpair(): [number, number] {
  const out = new Int32Array(2);
  checked('socketpair', nativeBinding().socketpair(out), 'AF_UNIX');
  return [out[0] as number, out[1] as number];
}

/** How {@link listenUnix} makes a socket. */
export interface ListenOptions {
  /** Permission bits of the socket file. Default 0o600. */
  readonly mode?: number;
  /** Connections that wait to be accepted. Default 16. */
  readonly backlog?: number;
}

function checkPath(path: string, op: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes > SUN_PATH_MAX || bytes === 0 || path.includes('\0')) {
    throw new VfioError(
      bytes > SUN_PATH_MAX ? 'ERR_VFIO_LIMIT' : 'ERR_VFIO_INVALID_ARGUMENT',
      `socket path of ${bytes} bytes: 1 to ${SUN_PATH_MAX} bytes without NUL are allowed ("${path}")`,
      { errno: bytes > SUN_PATH_MAX ? 'ENAMETOOLONG' : 'EINVAL', op },
    );
  }
}

/**
 * A listening Unix socket, non-blocking and closed on exec. A socket file that a dead server left behind is replaced: it
 * is removed only where it is a socket and nobody answers a connect. The file is the caller's to remove.
 *
 * @throws ERR_VFIO_BUSY (EADDRINUSE) where somebody listens there or the path is something else than a socket,
 *   ERR_VFIO_LIMIT (ENAMETOOLONG) above 107 bytes, ERR_VFIO_SYSCALL
 */
export function listenUnix(path: string, options: ListenOptions = {}): number {
  checkPath(path, 'bind');
  const native = nativeBinding();
  const bind = () => native.listenUnix(path, options.mode ?? 0o600, options.backlog ?? 16);
  let result = bind();
  if (result === -ERRNO.EADDRINUSE) {
    removeStale(path);
    result = bind();
  }
  if (result === -ERRNO.EADDRINUSE) throw inUse(path, 'another server took it');
  return checked('bind', result, path);
}

function inUse(path: string, why: string): VfioError {
  return new VfioError('ERR_VFIO_BUSY', `socket ${path}: ${why}`, {
    errno: 'EADDRINUSE',
    op: 'bind',
  });
}

function removeStale(path: string): void {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isSocket())
    throw inUse(path, 'a file that is not a socket is there');
  const probe = nativeBinding().connectUnix(path);
  if (probe >= 0) {
    closeFd(probe);
    throw inUse(path, 'a server answers there');
  }
  // EAGAIN: its backlog is full, so somebody listens. Only a refusal proves that nobody does.
  if (probe === -ERRNO.EAGAIN) throw inUse(path, 'a busy server is there');
  if (probe === -ERRNO.ENOENT) return;
  if (probe !== -ERRNO.ECONNREFUSED) throw syscallError('connect', probe, path);
  unlinkSync(path);
}

/** A connected Unix stream socket, blocking and closed on exec. The caller owns it.
 * @throws ERR_VFIO_LIMIT (ENAMETOOLONG), ERR_VFIO_SYSCALL (ECONNREFUSED, ENOENT, EAGAIN: backlog full) */
export function connectUnix(path: string): number {
  checkPath(path, 'connect');
  return checked('connect', nativeBinding().connectUnix(path), path);
}

/** Accepts a connection (non-blocking, closed on exec); `undefined` where none waits. The caller owns it. @throws ERR_VFIO_SYSCALL */
export function acceptUnix(fd: number): number | undefined {
  const result = nativeBinding().accept(fd);
  return result === -ERRNO.EAGAIN ? undefined : checked('accept4', result, `descriptor ${fd}`);
}

/**
 * One sendmsg(2) of the chunks as one stretch of bytes, the descriptors with its first byte; never a SIGPIPE. Answers how
 * many bytes went out, which may be fewer; what is left must be sent without the descriptors. The descriptors stay the caller's.
 * @throws ERR_VFIO_SYSCALL (EAGAIN: a non-blocking socket is full; EPIPE: the peer has closed; EBADF; EINVAL: above 253 descriptors)
 */
export function sendMessage(fd: number, chunks: readonly Uint8Array[], fds: readonly number[] = []): number {
  const list = fds.length === 0 ? null : Int32Array.from(fds);
  return checked('sendmsg', nativeBinding().sendmsg(fd, chunks, list, fds.length), `socket ${fd}`);
}

const status = new Int32Array(4);

/**
 * One recvmsg(2) of at most `length` bytes into `bytes` at `offset`; received descriptors are closed on exec and written
 * to `fds`. Answers `undefined` where a non-blocking socket has nothing.
 * @throws ERR_VFIO_SYSCALL
 */
export function recvMessage(
  fd: number,
  bytes: Uint8Array,
  offset: number,
  length: number,
  fds: Int32Array,
): Received | undefined {
  const result = nativeBinding().recvmsg(fd, bytes, offset, length, fds, status);
  if (result === -ERRNO.EAGAIN) return undefined;
  checked('recvmsg', result, `socket ${fd}`);
  return { bytes: result, fdCount: status[0] as number, truncated: status[1] !== 0 };
}

/** A request of {@link transact}. */
export interface TransactRequest {
  /** The message, header included. */
  readonly bytes: Uint8Array;
  /** Descriptors that go with it; they stay the caller's. */
  readonly fds?: readonly number[];
}

/** What {@link transact} received: a whole message. */
export interface TransactReply {
  /** Bytes of the message, header included. */
  length: number;
  fdCount: number;
  truncated: boolean;
}

/**
 * The blocking client's step: sends `request` (none: only waits), then receives exactly one message of the vfio-user
 * framing into `reply`. The message need not be the answer: a server may send commands of its own; such a caller answers
 * and calls again without a request. Never use it on a socket that the same thread serves. After a timeout the
 * connection is of no more use: a late reply would be taken for the next one.
 *
 * @param reply must hold the largest message that may come
 * @param timeoutMs for the whole call; -1 waits for ever
 * @throws ERR_VFIO_TIMEOUT, ERR_VFIO_DISCONNECTED (the peer has closed, EPIPE, ECONNRESET), ERR_VFIO_PROTOCOL (a size
 *   below the header or above `reply`; the rest of the stream is lost), ERR_VFIO_SYSCALL
 */
export function transact(
  fd: number,
  request: TransactRequest | undefined,
  reply: Uint8Array,
  timeoutMs: number,
  fds: Int32Array,
): TransactReply {
  const requestFds = request?.fds === undefined || request.fds.length === 0 ? null : Int32Array.from(request.fds);
  const result = nativeBinding().transact(
    fd,
    request?.bytes ?? null,
    request?.bytes.length ?? 0,
    requestFds,
    requestFds?.length ?? 0,
    reply,
    timeoutMs,
    fds,
    status,
  );
  if (result > 0) return { length: result, fdCount: status[0] as number, truncated: status[1] !== 0 };
  const options = { op: 'transact' } as const;
  switch (-result) {
    case 0:
    case ERRNO.EPIPE:
    case ERRNO.ECONNRESET:
      throw new VfioError('ERR_VFIO_DISCONNECTED', `socket ${fd}: the peer closed the connection`, {
        ...options,
        errno: 'ECONNRESET',
      });
    case ERRNO.ETIMEDOUT:
      throw new VfioError('ERR_VFIO_TIMEOUT', `socket ${fd}: no whole message within ${timeoutMs} ms`, {
        ...options,
        errno: 'ETIMEDOUT',
      });
    case ERRNO.EMSGSIZE:
      throw new VfioError(
        'ERR_VFIO_PROTOCOL',
        `socket ${fd}: the peer announced a message of ${(status[2] as number) >>> 0} bytes, 16 to ${reply.length} are allowed`,
        { ...options, errno: 'EPROTO' },
      );
    default:
      throw syscallError('transact', result, `socket ${fd}`);
  }
}

/** Ends sending (1), receiving (0) or both (2) on a connected socket. @throws ERR_VFIO_SYSCALL */
export function shutdownSocket(fd: number, how: 0 | 1 | 2 = 2): void {
  checked('shutdown', nativeBinding().shutdown(fd, how), `socket ${fd}`);
}

/** SO_SNDBUF: bytes that may wait in the kernel for the peer; the kernel doubles and bounds it. @throws ERR_VFIO_SYSCALL */
export function setSendBuffer(fd: number, bytes: number): void {
  checked('setsockopt', nativeBinding().setSendBuffer(fd, bytes), `SO_SNDBUF of socket ${fd}`);
}

/** @throws ERR_VFIO_SYSCALL */
export function peerCredentials(fd: number): PeerCredentials {
  const out = new Int32Array(3);
  checked('getsockopt', nativeBinding().peerCredentials(fd, out), `SO_PEERCRED of socket ${fd}`);
  return { pid: out[0] as number, uid: (out[1] as number) >>> 0, gid: (out[2] as number) >>> 0 };
}
