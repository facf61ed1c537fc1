/** How many contexts of resources one page holds. */
const CONTEXTS_PER_PAGE = 8;

/** Pages that are kept free for the next resources. */
const RESERVE = 8;

/** Pages that are asked for, or offered back, at once. */
const BATCH = 16;

/** How many pages a function wants before it runs. */
export interface PageNeeds {
  readonly boot: number;
  readonly init: number;
}

/**
 * The memory that software lends to a function: enough to boot and to initialize, then more as resources are created.
 * The firmware keeps its contexts there.
 */
export class PageSupply {
  readonly #needs: PageNeeds;
  /** Addresses, in the order in which they are given back: the last that came goes first. */
  readonly #pages = new Set<number>();
  #phase: 'off' | 'boot' | 'init' = 'off';
  #contexts = 0;
  /** A request is with software. */
  #asked = false;

  constructor(needs: PageNeeds) {
    this.#needs = needs;
  }

  get count(): number {
    return this.#pages.size;
  }

  get contexts(): number {
    return this.#contexts;
  }

  /** What must be there for the function to boot, or to be initialized. */
  missing(phase: 'boot' | 'init'): number {
    const { boot, init } = this.#needs;
    return Math.max(0, boot + (phase === 'init' ? init : 0) - this.#pages.size);
  }

  setPhase(phase: 'off' | 'boot' | 'init'): void {
    this.#phase = phase;
    if (phase !== 'init') {
      this.#contexts = 0;
      this.#asked = false;
    }
  }

  /** Pages of which none is in use. */
  get free(): number {
    return this.#pages.size - this.#used;
  }

  has(address: number): boolean {
    return this.#pages.has(address);
  }

  give(addresses: Iterable<number>): void {
    for (const address of addresses) this.#pages.add(address);
    this.#asked = false;
  }

  /** Software has none to give. */
  refused(): void {
    this.#asked = false;
  }

  /** Takes up to `count` free pages out. */
  take(count: number): number[] {
    const taken: number[] = [];
    for (const address of [...this.#pages].reverse()) {
      if (taken.length >= count || this.free === 0) break;
      this.#pages.delete(address);
      taken.push(address);
    }
    this.#asked = false;
    return taken;
  }

  /** Room for one more resource's context; false where no page is left for it. */
  addContext(): boolean {
    this.#contexts++;
    if (this.free >= 0) return true;
    this.#contexts--;
    return false;
  }

  removeContext(): void {
    this.#contexts--;
  }

  /** How many pages to ask software for now: negative to offer some back, 0 for none. Asked once until it has answered. */
  wanted(): number {
    if (this.#phase !== 'init' || this.#asked) return 0;
    const wanted = this.free < RESERVE ? BATCH : this.free >= RESERVE + 2 * BATCH + this.#needs.init ? -BATCH : 0;
    this.#asked = wanted !== 0;
    return wanted;
  }

  reset(): void {
    this.#pages.clear();
    this.setPhase('off');
  }

  get #used(): number {
    if (this.#phase === 'off') return 0;
    const fixed = this.#needs.boot + (this.#phase === 'init' ? Math.max(0, this.#needs.init - RESERVE) : 0);
    return fixed + Math.ceil(this.#contexts / CONTEXTS_PER_PAGE);
  }
}
