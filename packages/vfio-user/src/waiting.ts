import { VFIO_USER_REGION_READ, VFIO_USER_REGION_WRITE, VFIO_USER_REGION_WRITE_MULTI } from '@vfio/uapi';
import { MAX_WAITING_BYTES, MAX_WAITING_FDS, MAX_WAITING_MESSAGES } from './limits.js';
import type { Request } from './request.js';

/** The operation that others wait for. */
export interface Operation {
  readonly request: Request;
  /** What it is, for people. */
  readonly name: string;
}

export interface WaitingOptions {
  readonly deadlineMs: number;
  /** The deadline of a request passed: answer it now. Its result, if it still comes, must not be sent. */
  readonly onLate: (request: Request, isRunning: boolean) => void;
  /** There is room again, while the operation still runs. */
  readonly onRoom: () => void;
}

/**
 * Requests behind an operation that has not ended, and the clock of all that are owed a reply. A client such as QEMU
 * gives a request up after 5 seconds and takes a later reply for a broken stream, so each is answered before; what was
 * answered early still runs, in order, except reads, whose result nobody would see.
 */
export class WaitingRequests {
  readonly #options: WaitingOptions;
  #queue: Request[] = [];
  #bytes = 0;
  #fds = 0;
  #running: Operation | undefined;
  /** The running operation has used up its time. */
  #isOverdue = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: WaitingOptions) {
    this.#options = options;
  }

  get running(): Operation | undefined {
    return this.#running;
  }

  /** Those that wait, the oldest first. */
  get requests(): readonly Request[] {
    return this.#queue;
  }

  get length(): number {
    return this.#queue.length;
  }

  /** Bytes of those that wait. */
  get bytes(): number {
    return this.#bytes;
  }

  /** No more can be kept: the socket is to be left unread. */
  get isFull(): boolean {
    return (
      this.#queue.length >= MAX_WAITING_MESSAGES || this.#bytes >= MAX_WAITING_BYTES || this.#fds >= MAX_WAITING_FDS
    );
  }

  /** An operation goes on after its handler returned. */
  start(operation: Operation): void {
    this.#running = operation;
    this.#isOverdue = false;
    this.#arm();
  }

  /** The operation ended. */
  end(): void {
    this.#running = undefined;
    this.#arm();
  }

  push(request: Request): void {
    this.adopt(request);
    this.#answerLate();
  }

  /** One that waited in another process, to whose client nothing may be said yet. */
  adopt(request: Request): void {
    this.#queue.push(request);
    this.#count(request, 1);
  }

  /** The next request to run; undefined where none waits. */
  shift(): Request | undefined {
    const request = this.#queue.shift();
    if (request !== undefined) this.#count(request, -1);
    return request;
  }

  /** Drops everything and stops the clock. */
  clear(): void {
    for (const request of this.#queue.splice(0)) request.closeFds();
    this.#bytes = 0;
    this.#fds = 0;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #count(request: Request, sign: 1 | -1): void {
    this.#bytes += sign * request.message.length;
    this.#fds += sign * request.fds.length;
  }

  /** Answers those whose time is over, the oldest first: replies stay in order. Then sets the clock for the next one. */
  #answerLate(): void {
    const now = performance.now();
    const running = this.#running;
    if (running !== undefined && now >= running.request.arrivedAt + this.#options.deadlineMs) this.#isOverdue = true;
    if (running?.request.isAwaited) {
      if (!this.#isOverdue) {
        this.#arm();
        return;
      }
      running.request.answered = true;
      this.#options.onLate(running.request, true);
    }
    for (const request of this.#queue) {
      if (!request.isAwaited) continue;
      const isLate = now >= request.arrivedAt + this.#options.deadlineMs;
      // A guest's accesses are not made to wait for a device that is known to hang: its CPU stands still meanwhile.
      if (!isLate && !(this.#isOverdue && isRegionAccess(request.command))) break;
      request.answered = true;
      this.#options.onLate(request, false);
    }
    this.#dropReads();
    this.#arm();
  }

  /** A read that was answered has nothing left to do. A guest that polls a device which hangs must not fill the queue: the
   * socket would be left unread, and the client would find nobody. */
  #dropReads(): void {
    const isOver = ({ answered, command }: Request) => answered && command === VFIO_USER_REGION_READ;
    if (!this.#queue.some(isOver)) return;
    const wasFull = this.isFull;
    for (const request of this.#queue.filter(isOver)) {
      this.#count(request, -1);
      request.closeFds();
    }
    this.#queue = this.#queue.filter((request) => !isOver(request));
    if (wasFull && !this.isFull) this.#options.onRoom();
  }

  #arm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const next = this.#nextAwaited();
    if (next === undefined) return;
    const wait = next.arrivedAt + this.#options.deadlineMs - performance.now();
    this.#timer = setTimeout(() => this.#answerLate(), Math.max(1, Math.ceil(wait)));
  }

  #nextAwaited(): Request | undefined {
    if (this.#running === undefined) return undefined;
    if (this.#running.request.isAwaited) return this.#running.request;
    return this.#queue.find((request) => request.isAwaited) ?? (this.#isOverdue ? undefined : this.#running.request);
  }
}

function isRegionAccess(command: number): boolean {
  return (
    command === VFIO_USER_REGION_READ || command === VFIO_USER_REGION_WRITE || command === VFIO_USER_REGION_WRITE_MULTI
  );
}
