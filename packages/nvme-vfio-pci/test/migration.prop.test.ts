import { VFIO_DEVICE_STATE_RUNNING as RUNNING, VFIO_DEVICE_STATE_RUNNING_P2P as RUNNING_P2P } from '@vfio/uapi';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BLOCK, Guest, PAGE } from './helpers/guest.js';
import { machine, type Vf } from './helpers/machine.js';

const BLOCKS = 12;
/** Requests that may be under way at once: one entry of a queue stays free. */
const DEPTH = 12;

type Step =
  | { readonly kind: 'write'; readonly lba: number; readonly fill: number }
  | { readonly kind: 'read'; readonly lba: number }
  /** Many reads, so that queues wrap around. */
  | { readonly kind: 'busy'; readonly count: number }
  | { readonly kind: 'finish' }
  /** Pages that the device has written are copied while it runs. */
  | { readonly kind: 'copy' }
  /** The guest moves; `late` requests are rung for while the device stands still. */
  | { readonly kind: 'migrate'; readonly late: number }
  | { readonly kind: 'give up' };

const lba = fc.nat({ max: BLOCKS - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    arbitrary: fc.record({ kind: fc.constant('write' as const), lba, fill: fc.integer({ min: 1, max: 255 }) }),
    weight: 4,
  },
  { arbitrary: fc.record({ kind: fc.constant('read' as const), lba }), weight: 4 },
  { arbitrary: fc.record({ kind: fc.constant('busy' as const), count: fc.integer({ min: 8, max: 20 }) }), weight: 2 },
  { arbitrary: fc.constant({ kind: 'finish' as const }), weight: 2 },
  { arbitrary: fc.constant({ kind: 'copy' as const }), weight: 2 },
  { arbitrary: fc.record({ kind: fc.constant('migrate' as const), late: fc.nat({ max: 3 }) }), weight: 2 },
  { arbitrary: fc.constant({ kind: 'give up' as const }), weight: 1 },
);

/** A guest whose memory is copied page by page, as a migration does: what is forgotten is not there afterwards. */
class Traveller {
  readonly guest: Guest;
  /** What the disk must have. */
  readonly disk = new Uint8Array(BLOCKS);
  readonly #vfs: readonly [Vf, Vf];
  #at = 0;
  #copy: Uint8Array<ArrayBuffer>;
  /** Where each request under way has its data, and what must be in it then. */
  #pending: { readonly page: Uint8Array; readonly own: number; readonly fill: number | undefined }[] = [];

  constructor(vfs: readonly [Vf, Vf]) {
    this.#vfs = vfs;
    this.guest = new Guest(vfs[0].device);
    this.#copy = this.guest.memory.slice();
  }

  async start(): Promise<void> {
    await this.guest.start();
    await this.#vfs[0].startLog();
    this.#copy.set(this.guest.memory);
  }

  async request(kind: 'write' | 'read', at: number, fill: number): Promise<void> {
    if (this.#pending.length >= DEPTH) await this.finish();
    const page = this.guest.nextData;
    const own = (page.byteOffset - this.guest.memory.byteOffset) / PAGE;
    if (kind === 'write') {
      await this.guest.submit({ kind, lba: at, blocks: 1, fill, fua: false });
      this.disk[at] = fill;
      this.#pending.push({ page, own, fill: undefined });
    } else {
      page.fill(0xee);
      await this.guest.submit({ kind, lba: at, blocks: 1 });
      this.#pending.push({ page, own, fill: this.disk[at] });
    }
  }

  /** Every request completes once, and brings what was written last. */
  async finish(): Promise<void> {
    await this.guest.finish(this.#pending.length);
    for (const { own, fill } of this.#pending.splice(0)) {
      if (fill === undefined) continue;
      const data = this.guest.memory.subarray(own * PAGE, own * PAGE + BLOCK);
      expect(data.every((byte) => byte === fill)).toBe(true);
    }
    expect(this.guest.hasCompletion).toBe(false);
    this.#copyOwn();
  }

  async copy(): Promise<void> {
    for (const page of await this.#vfs[this.#at]!.dirtyPages()) this.#copyPage(page);
  }

  async giveUp(): Promise<void> {
    const vf = this.#vfs[this.#at]!;
    await vf.save();
    await vf.set(RUNNING);
  }

  async migrate(late: number): Promise<void> {
    const [from, to] = [this.#vfs[this.#at]!, this.#vfs[1 - this.#at]!];
    await from.set(RUNNING_P2P);
    // Nothing completes now: no more than have room.
    for (let n = 0; n < late && this.#pending.length < DEPTH; n++) await this.request('read', n, 0);
    const stream = await from.save();
    await this.copy();
    this.#copyOwn();
    const { memory } = this.guest;
    // Whatever the source writes now is not seen any more.
    this.guest.moveTo(to.device, this.#copy);
    this.#copy = memory.slice();
    await this.guest.command(0x0406);
    await to.load(stream, 100);
    await to.set(RUNNING);
    await from.device.reset();
    await from.stopLog();
    from.device.dmaUnmap(0x100000n, BigInt(memory.length));
    this.#at = 1 - this.#at;
    await to.startLog();
    this.#copy.set(this.guest.memory);
  }

  /** What a guest writes is tracked by whoever runs it. */
  #copyOwn(): void {
    for (const page of [...this.guest.ownPages, ...this.#pending.map(({ own }) => own)]) this.#copyPage(page);
  }

  #copyPage(page: number): void {
    this.#copy.set(this.guest.memory.subarray(page * PAGE, (page + 1) * PAGE), page * PAGE);
  }
}

test('whatever a guest does and whenever it moves, with its memory copied by the pages that were told: nothing is lost', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 30 }), async (steps) => {
      const { open, bus } = await machine();
      const vfs = [await open(0), await open(1)] as const;
      const traveller = new Traveller(vfs);
      await traveller.start();
      for (const one of steps)
        switch (one.kind) {
          case 'write':
            await traveller.request('write', one.lba, one.fill);
            break;
          case 'read':
            await traveller.request('read', one.lba, 0);
            break;
          case 'busy':
            for (let n = 0; n < one.count; n++) await traveller.request('read', n % BLOCKS, 0);
            break;
          case 'finish':
            await traveller.finish();
            break;
          case 'copy':
            await traveller.copy();
            break;
          case 'migrate':
            await traveller.migrate(one.late);
            break;
          case 'give up':
            await traveller.giveUp();
        }
      await traveller.finish();
      for (let at = 0; at < BLOCKS; at++) await traveller.request('read', at, 0);
      await traveller.finish();
      for (const { device } of vfs) await device.close();
      await bus.close();
    }),
    { numRuns: 25 },
  );
}, 60_000);
