import { readlinkSync } from 'node:fs';
import type { EventTrigger } from '@vfio/core';
import { closeFd, setNonBlocking, tryEventfdWrite } from '@vfio/native';
import { errnoError } from '@vfio/uapi';
import type { LoopSource, ServiceLoop } from './service-loop.js';

/**
 * Refuses a descriptor that is not an eventfd: writing to a pipe or a file that a peer passed could block this thread,
 * or change something else. @throws EINVAL, as the kernel does
 */
export function checkEventfd(fd: number, op: string): void {
  let target: string;
  try {
    target = readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    target = 'nothing';
  }
  if (target !== 'anon_inode:[eventfd]') {
    throw errnoError('EINVAL', `a descriptor of the message is ${target}, an eventfd is wanted`, { op });
  }
}

/** An {@link EventTrigger} over an eventfd, which it owns. Watching goes through the thread's message loop. */
export class EventfdTrigger implements EventTrigger, LoopSource {
  readonly #loop: ServiceLoop;
  #fd: number;
  readonly #handlers = new Set<() => void>();
  #source: number | undefined;

  /** Makes the eventfd non-blocking: a peer that fills its counter must not hang who signals it. */
  constructor(loop: ServiceLoop, fd: number) {
    this.#loop = loop;
    this.#fd = fd;
    setNonBlocking(fd, true);
  }

  get fd(): number | undefined {
    return this.#fd < 0 ? undefined : this.#fd;
  }

  signal(): void {
    if (this.#fd >= 0) tryEventfdWrite(this.#fd);
  }

  watch(handler: () => void): () => void {
    this.#handlers.add(handler);
    if (this.#source === undefined && this.#fd >= 0) {
      this.#source = this.#loop.messages.addEventFd(this.#fd);
      this.#loop.attach(this.#source, this);
    }
    return () => {
      this.#handlers.delete(handler);
      if (this.#handlers.size === 0) this.#unwatch();
    };
  }

  onSignal(): void {
    for (const handler of [...this.#handlers]) handler();
  }

  release(): void {
    this.#handlers.clear();
    this.#unwatch();
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#fd = -1;
    closeFd(fd);
  }

  #unwatch(): void {
    if (this.#source === undefined) return;
    const source = this.#source;
    this.#source = undefined;
    // A loop that is closed has closed the descriptor with it.
    if (this.#loop.messages.isClosed) this.#fd = -1;
    else this.#loop.remove(source, true);
  }
}
