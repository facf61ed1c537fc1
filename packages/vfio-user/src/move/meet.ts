import { VfioError } from '@vfio/uapi';
import { makeSocketFile, removeSocketFile } from '../listen-socket.js';
import { acquireSharedLoop, releaseSharedLoop, type ServiceLoop } from '../service-loop.js';

/** A socket where another server may come, once. */
export interface MeetingPoint {
  readonly path: string;
  /** The connected socket, the caller's. @throws ERR_VFIO_STATE (ECANCELED) where the meeting was called off */
  readonly arrival: Promise<number>;
  /** Nobody can come any more. Idempotent. */
  close(): void;
}

/**
 * Waits for one connection at a path, which is the owner's alone. The file goes when somebody has come.
 * @throws ERR_VFIO_BUSY (EADDRINUSE), ERR_VFIO_LIMIT (ENAMETOOLONG), ERR_VFIO_SYSCALL
 */
export function meetAt(path: string, loop?: ServiceLoop): MeetingPoint {
  const file = makeSocketFile({ path, backlog: 1 });
  const served = loop ?? acquireSharedLoop();
  served.ref();
  const id = served.messages.addListener(file.fd);
  let callOff: (error: Error) => void = () => {};
  let isOver = false;
  const close = () => {
    if (isOver) return;
    isOver = true;
    removeSocketFile(file);
    served.remove(id);
    served.unref();
    if (loop === undefined) releaseSharedLoop();
    callOff(nobody('it was called off'));
  };
  const arrival = new Promise<number>((resolve, reject) => {
    callOff = reject;
    served.attach(id, {
      onAccept(fd) {
        resolve(fd);
        close();
      },
      onAcceptFailed(errno) {
        reject(nobody(`errno ${errno}`));
        close();
      },
    });
  });
  // It may be called off before anybody waits for it.
  arrival.catch(() => {});
  return { path, arrival, close };
}

function nobody(why: string): VfioError {
  return new VfioError('ERR_VFIO_STATE', `no server came to move its device here: ${why}`, {
    errno: 'ECANCELED',
    op: 'migrate',
  });
}
