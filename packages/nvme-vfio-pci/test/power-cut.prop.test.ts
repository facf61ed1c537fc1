import { SparseMemoryStore } from '@vfio/emulated';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BLOCK, Guest, type Request } from './helpers/guest.js';
import { drive } from './helpers/setup.js';

const BLOCKS = 24;

type Upheaval = { readonly kind: 'restart' | 'shut down' | 'function reset' };
type Step = Request | Upheaval;

const isRequest = (step: Step): step is Request =>
  step.kind === 'write' || step.kind === 'zero' || step.kind === 'flush';

const range = fc.record({ lba: fc.integer({ min: 0, max: BLOCKS - 4 }), blocks: fc.integer({ min: 1, max: 4 }) });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .tuple(range, fc.integer({ min: 1, max: 255 }), fc.boolean())
      .map(([at, fill, fua]): Step => ({ kind: 'write', ...at, fill, fua })),
  },
  { weight: 1, arbitrary: range.map((at): Step => ({ kind: 'zero', ...at })) },
  { weight: 2, arbitrary: fc.constant<Step>({ kind: 'flush' }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom<Step>({ kind: 'restart' }, { kind: 'shut down' }, { kind: 'function reset' }),
  },
);

/** What a guest does, and after how much of it it is gone, with one request under way perhaps. */
const life = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 20 }),
  last: fc.nat(),
  isUnderWay: fc.boolean(),
});

/** For each block the values that it may have on the media: one that a rule promises, or several. */
class Promises {
  /** What a read gives now. */
  readonly now = new Array<number>(BLOCKS).fill(0);
  /** All that the media may hold: what was last made durable, and everything written since. */
  readonly media = Array.from({ length: BLOCKS }, () => new Set([0]));

  apply(request: Step): void {
    if (request.kind === 'flush' || request.kind === 'shut down') {
      for (let lba = 0; lba < BLOCKS; lba++) this.media[lba] = new Set([this.now[lba]!]);
      return;
    }
    if (request.kind !== 'write' && request.kind !== 'zero') return;
    const value = request.kind === 'write' ? request.fill : 0;
    for (let lba = request.lba; lba < request.lba + request.blocks; lba++) {
      this.now[lba] = value;
      if (request.kind === 'write' && request.fua) this.media[lba] = new Set([value]);
      else this.media[lba]!.add(value);
    }
  }
}

async function live(
  driver: 'variant' | 'generic',
  { steps, last, isUnderWay }: { steps: Step[]; last: number; isUnderWay: boolean },
) {
  const store = new SparseMemoryStore();
  const { device, fn } = await drive(driver, { store, cacheSize: 0x20000 });
  const opened = await device.open();
  const guest = new Guest(opened);
  await guest.start();
  const promises = new Promises();
  const end = last % steps.length;
  for (const step of steps.slice(0, end)) {
    if (step.kind === 'restart') await guest.restart();
    else if (step.kind === 'function reset') {
      await opened.reset();
      await guest.start();
    } else if (step.kind === 'shut down') {
      await guest.shutDown();
      await guest.restart();
    } else if (isRequest(step)) await guest.run(step);
    promises.apply(step);
  }
  // The one under way may have been done or not.
  const pending = steps[end]!;
  const either = new Promises();
  either.now.splice(0, BLOCKS, ...promises.now);
  if (isUnderWay && isRequest(pending)) {
    await guest.submit(pending);
    if (pending.kind !== 'flush') {
      either.apply(pending);
      for (let lba = pending.lba; lba < pending.lba + pending.blocks; lba++) promises.media[lba]!.add(either.now[lba]!);
    }
  }
  await opened.close();
  fn.powerCycle();
  const bytes = new Uint8Array(BLOCKS * BLOCK);
  store.read(0, bytes);
  return { bytes, promises, either };
}

const block = (bytes: Uint8Array, lba: number) => new Set(bytes.subarray(lba * BLOCK, (lba + 1) * BLOCK));

describe('a guest that is gone at any moment, then close, then no power', () => {
  test('with this driver every completed write is on the media', async () => {
    await fc.assert(
      fc.asyncProperty(life, async (what) => {
        const { bytes, promises, either } = await live('variant', what);
        for (let lba = 0; lba < BLOCKS; lba++) {
          const found = [...block(bytes, lba)];
          expect(found).toHaveLength(1);
          expect([promises.now[lba], either.now[lba]], `block ${lba}`).toContain(found[0]);
        }
      }),
      { numRuns: 150 },
    );
  });

  test('with a driver that changes nothing only what was flushed is, and there are lives in which that shows', async () => {
    let lost = 0;
    await fc.assert(
      fc.asyncProperty(life, async (what) => {
        const { bytes, promises, either } = await live('generic', what);
        for (let lba = 0; lba < BLOCKS; lba++) {
          const found = [...block(bytes, lba)];
          expect(found).toHaveLength(1);
          expect([...promises.media[lba]!], `block ${lba}`).toContain(found[0]);
          if (found[0] !== promises.now[lba] && found[0] !== either.now[lba]) lost++;
        }
      }),
      { numRuns: 100, seed: 1 },
    );
    expect(lost).toBeGreaterThan(0);
  });
});
