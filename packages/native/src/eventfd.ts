import { ERRNO, VfioError } from '@vfio/uapi';
import { type NativeWatcher, nativeBinding } from './binding.js';
import { closeFd } from './fd.js';
import { checked, syscallError } from './syscall-error.js';

/** Flag of {@link eventfdCreate}: a read takes 1 from the counter instead of all. EFD_CLOEXEC and EFD_NONBLOCK are always set. */
export const EFD_SEMAPHORE = 1;

/** An eventfd, non-blocking and closed on exec. The caller owns it. @throws ERR_VFIO_SYSCALL */
export function eventfdCreate(initial = 0, flags = 0): number {
  return checked('eventfd2', nativeBinding().eventfd(initial, flags), `initial ${initial}`);
}

/**
 * Adds `value` to the counter: raises an interrupt. Everything stored before is visible to who is woken (a sequentially
 * consistent fence comes first). Never blocks: a full counter is already signalled, so EAGAIN counts as done.
 * @throws ERR_VFIO_SYSCALL
 */
export function eventfdWrite(fd: number, value = 1): void {
  checked('write', nativeBinding().eventfdWrite(fd, value), `eventfd ${fd}`);
}

/**
 * Checks that a descriptor from a peer is an eventfd and makes it non-blocking, so that signalling it cannot stop the thread.
 * The descriptor stays the caller's. @throws ERR_VFIO_SYSCALL (EINVAL: not an eventfd, as the kernel says; EBADF)
 */
export function adoptEventFd(fd: number): void {
  checked('eventfd', nativeBinding().adoptEventFd(fd), `descriptor ${fd}`);
}

/** {@link eventfdWrite} that answers 0 or a negative errno instead of throwing: for the interrupt path. */
export function tryEventfdWrite(fd: number): number {
  return nativeBinding().eventfdWrite(fd, 1);
}

/** Takes the counter; 0 where nothing was signalled. Exact below 2^53. @throws ERR_VFIO_SYSCALL */
export function eventfdRead(fd: number): number {
  const result = nativeBinding().eventfdRead(fd);
  return result === -ERRNO.EAGAIN ? 0 : checked('read', result, `eventfd ${fd}`);
}

/** An eventfd with waiting, for programs; servers put the descriptor into their `MessageLoop`. */
export class EventFd implements AsyncIterable<number> {
  #fd: number;
  readonly #owned: boolean;
  #watcher: NativeWatcher | undefined;
  #waiters: { resolve(count: number): void; reject(error: unknown): void }[] = [];

  private constructor(fd: number, owned: boolean) {
    this.#fd = fd;
    this.#owned = owned;
  }

  /** A new one. @throws ERR_VFIO_SYSCALL */
  static create(initial = 0, flags = 0): EventFd {
    return new EventFd(eventfdCreate(initial, flags), true);
  }

  /** Takes over a descriptor, which must be non-blocking: {@link close} closes it where `owned`. */
  static from(fd: number, owned: boolean): EventFd {
    return new EventFd(fd, owned);
  }

  /** The descriptor. @throws ERR_VFIO_CLOSED */
  get fd(): number {
    if (this.#fd < 0) throw closedError();
    return this.#fd;
  }

  /** Adds `value` to the counter. See {@link eventfdWrite}. */
  signal(value = 1): void {
    eventfdWrite(this.fd, value);
  }

  /** Takes the counter now; 0 where nothing was signalled. */
  read(): number {
    return eventfdRead(this.fd);
  }

  /**
   * Waits until it is signalled and takes the counter. Keeps the process alive while it waits. Several waits are served
   * in order, one signal each.
   * @throws ERR_VFIO_CLOSED where it is closed meanwhile, `signal.reason` where aborted
   */
  wait(signal?: AbortSignal): Promise<number> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) throw signal.reason;
      const fd = this.fd;
      if (this.#waiters.length === 0) {
        const now = eventfdRead(fd);
        if (now !== 0) return resolve(now);
      }
      const onAbort = () => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        if (this.#waiters.length === 0) this.#watcher?.stop();
        reject(signal?.reason);
      };
      const waiter = {
        resolve: (count: number) => {
          signal?.removeEventListener('abort', onAbort);
          resolve(count);
        },
        reject: (error: unknown) => {
          signal?.removeEventListener('abort', onAbort);
          reject(error);
        },
      };
      const result = this.#watch(fd);
      if (result < 0) throw syscallError('epoll_ctl', result, `eventfd ${fd}`);
      signal?.addEventListener('abort', onAbort);
      this.#waiters.push(waiter);
    });
  }

  /** Each signal in turn; ends when it is closed. */
  async *[Symbol.asyncIterator](): AsyncIterator<number> {
    while (this.#fd >= 0) {
      try {
        yield await this.wait();
      } catch (error) {
        if (this.#fd < 0) return;
        throw error;
      }
    }
  }

  /** Ends every wait and closes the descriptor where it is owned. Idempotent. */
  close(): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#fd = -1;
    this.#watcher?.close();
    this.#watcher = undefined;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(closedError());
    if (this.#owned) closeFd(fd);
  }

  #watch(fd: number): number {
    if (this.#watcher === undefined) {
      const watcher = nativeBinding().watchFd(fd, () => this.#onReady());
      if (typeof watcher === 'number') return watcher;
      this.#watcher = watcher;
    }
    return this.#watcher.start(1);
  }

  #onReady(): void {
    const count = nativeBinding().eventfdRead(this.#fd);
    // Another reader of the same counter may have been faster.
    if (count === -ERRNO.EAGAIN) return;
    const waiter = this.#waiters.shift();
    if (this.#waiters.length === 0) this.#watcher?.stop();
    if (count < 0) waiter?.reject(syscallError('read', count, `eventfd ${this.#fd}`));
    else waiter?.resolve(count);
  }
}

function closedError(): VfioError {
  return new VfioError('ERR_VFIO_CLOSED', 'the eventfd is closed', { errno: 'EBADF', op: 'eventfd' });
}
