import { chmodSync, chownSync, readFileSync, unlinkSync } from 'node:fs';
import { acceptUnix, closeFd, listenUnix, setNonBlocking } from '@vfio/native';
import { isVfioError, systemError, VfioError } from '@vfio/uapi';
import { socketIdentity } from './local-servers.js';

/** Where a server listens. */
export interface ListenPath {
  readonly path: string;
  /** Permission bits of the socket file. @default 0o600; 0o660 with a group */
  readonly mode?: number;
  /** Group of the socket file: its number, or its name in /etc/group. */
  readonly group?: number | string;
  /** Clients that wait to be accepted. @default 16 */
  readonly backlog?: number;
}

/** A socket that was inherited: a listening one, or one that a client is connected to. The server's from now on. */
export interface ListenFd {
  readonly fd: number;
}

/** A socket on which another server hands its client over, and with it the socket on which clients come. */
export interface ListenIncoming {
  readonly incoming: ListenPath;
}

/** A socket file that was made. */
export interface SocketFile {
  readonly fd: number;
  readonly path: string;
  readonly identity: string;
}

/**
 * Makes a socket file. One that a dead server left is replaced. Nobody can connect with more rights than are meant: the
 * file is the owner's alone until group and mode are set.
 * @throws ERR_VFIO_BUSY (EADDRINUSE), ERR_VFIO_LIMIT (ENAMETOOLONG), ERR_VFIO_INVALID_ARGUMENT for an unknown group,
 *   ERR_VFIO_SYSCALL
 */
export function makeSocketFile(options: ListenPath): SocketFile {
  const { path, group } = options;
  const gid = group === undefined ? undefined : groupId(group);
  const mode = options.mode ?? (gid === undefined ? 0o600 : 0o660);
  const fd = listenUnix(path, {
    mode: gid === undefined ? mode : 0o600,
    ...(options.backlog === undefined ? {} : { backlog: options.backlog }),
  });
  try {
    if (gid !== undefined) {
      giveToGroup(path, gid, mode);
    }
    const identity = socketIdentity(path);
    if (identity === undefined) {
      throw new VfioError('ERR_VFIO_STATE', `socket ${path} disappeared while it was made`, { errno: 'ENOENT' });
    }
    return { fd, path, identity };
  } catch (error) {
    closeFd(fd);
    unlinkSync(path);
    throw error;
  }
}

function giveToGroup(path: string, gid: number, mode: number): void {
  try {
    chownSync(path, -1, gid);
    chmodSync(path, mode);
  } catch (error) {
    throw systemError(`socket ${path} for group ${gid}`, 'listen', error);
  }
}

/** Removes the file, unless it is another's by now. */
export function removeSocketFile(file: SocketFile): void {
  if (socketIdentity(file.path) === file.identity) unlinkSync(file.path);
}

/** Whether an inherited socket listens (a client that waits is in `client` then), or is connected. */
export function probeInherited(fd: number): { isListening: boolean; client: number | undefined } {
  setNonBlocking(fd, true);
  try {
    return { isListening: true, client: acceptUnix(fd) };
  } catch (error) {
    if (isVfioError(error) && error.errno === 'EINVAL') return { isListening: false, client: undefined };
    throw error;
  }
}

/** The kernel's range of group ids; the highest number would be "as it is". */
function checkedGroupId(id: number): number {
  if (Number.isInteger(id) && id >= 0 && id < 0xffffffff) return id;
  throw new VfioError('ERR_VFIO_INVALID_ARGUMENT', `group ${id}: 0 to 0xfffffffe are allowed`, {
    errno: 'EINVAL',
    op: 'listen',
  });
}

function groupId(group: number | string): number {
  if (typeof group === 'number' || /^\d+$/.test(group)) return checkedGroupId(Number(group));
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${group}:`));
  const id = line?.split(':')[2];
  if (id === undefined) {
    throw new VfioError('ERR_VFIO_INVALID_ARGUMENT', `group ${group}: /etc/group has none of that name`, {
      errno: 'EINVAL',
      op: 'listen',
    });
  }
  return Number(id);
}
