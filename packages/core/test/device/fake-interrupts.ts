import { errnoError } from '@vfio/uapi';
import type { RawInterrupts } from '../../src/index.js';

/** Interrupt services that keep a record, with lines and vectors that a test raises by hand. */
export class FakeInterrupts implements RawInterrupts {
  intxLine: number | undefined = 10;
  dynamicMsix = true;
  /** How many vectors can be had. */
  available = 64;
  /** Throws at the next allocation or handler of this vector. */
  failVector: number | undefined;
  lineEnabled = true;
  exclusive: boolean | undefined;
  rewritten: number[] = [];
  vectors = new Map<number, (() => void) | undefined>();
  type: 'msi' | 'msix' | undefined;
  intx: (() => void) | undefined;
  lineTaken = false;
  readonly #tableSize: number;

  constructor(tableSize: number) {
    this.#tableSize = tableSize;
  }

  requestIntx(handler: () => void, exclusive: boolean): void {
    if (this.lineTaken) throw errnoError('EBUSY', 'the line is taken');
    this.intx = handler;
    this.exclusive = exclusive;
  }

  freeIntx(): void {
    this.intx = undefined;
  }

  setIntxLineEnabled(enabled: boolean): void {
    this.lineEnabled = enabled;
  }

  allocVectors(type: 'msi' | 'msix', count: number): number {
    if (this.available === 0) throw errnoError('ENOSPC', 'no vectors');
    if (this.available < count) return this.available;
    this.type = type;
    for (let i = 0; i < count; i++) this.vectors.set(i, undefined);
    return count;
  }

  allocMsixAt(vector: number): void {
    if (vector >= this.#tableSize) throw errnoError('EINVAL', 'beyond the table');
    if (this.vectors.size >= this.available) throw errnoError('ENOSPC', 'no vectors');
    this.vectors.set(vector, undefined);
  }

  freeVectors(): void {
    this.vectors.clear();
    this.type = undefined;
  }

  setVectorHandler(vector: number, handler: (() => void) | undefined): void {
    if (!this.vectors.has(vector)) throw errnoError('EINVAL', `vector ${vector} is not allocated`);
    if (handler !== undefined && vector === this.failVector) throw errnoError('ENOSPC', 'the interrupt cannot be had');
    this.vectors.set(vector, handler);
  }

  rewriteMessage(vector: number): void {
    this.rewritten.push(vector);
  }

  /** A vector fires. */
  fire(vector: number): void {
    this.vectors.get(vector)?.();
  }
}
