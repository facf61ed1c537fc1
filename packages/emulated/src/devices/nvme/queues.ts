/** A submission queue. Indexes are entries; `head` is what the controller fetches next. */
export class SubmissionQueue {
  readonly id: number;
  readonly base: number;
  readonly size: number;
  readonly cq: CompletionQueue;
  head = 0;
  tail = 0;
  /** Commands that were fetched and are not completed. */
  inFlight = 0;
  /** Entries are being fetched by messages. */
  isFetching = false;
  /** No more is fetched: the queue is being deleted. */
  deleting = false;
  onIdle: (() => void) | undefined;

  constructor(id: number, base: number, size: number, cq: CompletionQueue) {
    this.id = id;
    this.base = base;
    this.size = size;
    this.cq = cq;
    cq.users += 1;
  }

  /** Nothing of the queue is under way. */
  get isIdle(): boolean {
    return this.inFlight === 0 && !this.isFetching;
  }

  /** Entries that wait to be fetched. */
  get waiting(): number {
    return this.tail >= this.head ? this.tail - this.head : this.tail + this.size - this.head;
  }
}

/** A completion that waits for room in its queue. */
export interface Completion {
  readonly result: number;
  readonly sqId: number;
  readonly sqHead: number;
  readonly cid: number;
  readonly status: number;
}

/** A completion queue. `tail` is where the controller posts next, `head` what the host has consumed up to. */
export class CompletionQueue {
  readonly id: number;
  readonly base: number;
  readonly size: number;
  readonly vector: number;
  readonly interrupts: boolean;
  head = 0;
  tail = 0;
  phase = 1;
  /** Submission queues that complete here. */
  users = 0;
  /** Posted since the last interrupt. */
  posted = false;
  /** A post by messages is under way: the next ones keep behind it. */
  posting = false;
  readonly backlog: Completion[] = [];

  constructor(id: number, base: number, size: number, vector: number, interrupts: boolean) {
    this.id = id;
    this.base = base;
    this.size = size;
    this.vector = vector;
    this.interrupts = interrupts;
  }

  /** Entries that the host has not consumed. */
  get unread(): number {
    return this.tail >= this.head ? this.tail - this.head : this.tail + this.size - this.head;
  }

  /** Entries that the host can see and has not consumed. */
  get visible(): number {
    return this.posting ? this.unread - 1 : this.unread;
  }

  /** One entry stays free, or full and empty would look alike. */
  get isFull(): boolean {
    return this.unread === this.size - 1;
  }
}
