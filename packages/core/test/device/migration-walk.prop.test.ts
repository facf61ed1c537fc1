import { VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, VFIO_DEVICE_FEATURE_SET } from '@vfio/uapi';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  type MigrationData,
  type VfioDevice,
  type VfioPciCoreDevice,
  vfioPciCoreAerResetDone,
} from '../../src/index.js';
import { EXP_AT, type FakeFunction } from './fake-function.js';
import { errnoOf, errnoOfAsync, opened } from './helpers.js';
import { FLAG_SETS, isSaving, modelWalk, STATES, type State } from './migration-model.js';
import { ToyMigration } from './toy-migration.js';

const FLAGS = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;

/** Every way in which a function is reset under its user. */
const RESETS = {
  ioctl: (device) => device.reset(),
  flr: (device) => device.write(7, EXP_AT + 8, Uint8Array.of(0x10, 0x80)),
  hot: (device) => device.hotReset({ flags: 0, owned: [device.function.address] }),
  recovery: (_device, dev) => vfioPciCoreAerResetDone(dev),
} satisfies Record<string, (device: VfioDevice, dev: VfioPciCoreDevice) => unknown>;

type Step =
  /** `fails`: the arc, counted from the first one that the request takes, that the driver cannot carry out. */
  | { readonly kind: 'set'; readonly state: number; readonly fails: number }
  | { readonly kind: 'reset'; readonly path: keyof typeof RESETS }
  | { readonly kind: 'error' }
  | { readonly kind: 'reopen' };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant('set' as const),
      // What is no state too.
      state: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 0, max: 8 }) }, fc.constantFrom(-1, 2 ** 31, 1.5)),
      fails: fc.oneof({ weight: 5, arbitrary: fc.constant(-1) }, fc.integer({ min: 0, max: 4 })),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('reset' as const),
      path: fc.constantFrom(...(Object.keys(RESETS) as (keyof typeof RESETS)[])),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ kind: 'error' as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'reopen' as const }) },
);

/** What a device must be like after any number of calls. */
class Model {
  readonly flags: number;
  state: State = 'RUNNING';
  /** The stream that its user holds, and whether it is alive. */
  hasSession = false;

  constructor(flags: number) {
    this.flags = flags;
  }

  /** Takes a request. Gives its errno, the arcs that are taken, and whether a new stream comes of it. */
  set(wanted: number, fails: number): { errno: string; arcs: State[]; opens: boolean } {
    const to = STATES[wanted];
    const arcs = to === undefined ? 'EINVAL' : modelWalk(this.flags, this.state, to);
    if (arcs === 'EINVAL') return { errno: 'EINVAL', arcs: [], opens: false };
    let opens = false;
    const taken: State[] = [];
    for (const [at, next] of arcs.entries()) {
      taken.push(next);
      if (at === fails) return { errno: 'EIO', arcs: taken, opens: false };
      opens = next === 'RESUMING' || (isSaving(next) && !isSaving(this.state));
      if (opens) this.hasSession = true;
      else if (!isSaving(next)) this.hasSession = false;
      this.state = next;
    }
    return { errno: 'none', arcs: taken, opens };
  }

  reset(): void {
    this.state = 'RUNNING';
    this.hasSession = false;
  }
}

async function run(flags: number, steps: readonly Step[]): Promise<void> {
  const toy = new ToyMigration(flags);
  const made = await opened({ exp: true }, toy.factory);
  made.fn.resetScope = {
    kind: 'bus',
    functions: () => [made.fn as FakeFunction],
    tryReset: () => made.fn.config.reset(),
  };
  let { device } = made;
  const model = new Model(flags);
  let stream: MigrationData | undefined;
  for (const [at, one] of steps.entries()) {
    const where = `step ${at}`;
    switch (one.kind) {
      case 'set': {
        const before = toy.arcs.length;
        // Of the arcs that the model says, the one that is to fail.
        const expected = model.state;
        const walk = STATES[one.state] === undefined ? 'EINVAL' : modelWalk(flags, expected, STATES[one.state]!);
        toy.failing = {};
        if (walk !== 'EINVAL' && one.fails >= 0 && one.fails < walk.length) {
          const from = STATES.indexOf(one.fails === 0 ? expected : walk[one.fails - 1]!);
          toy.failing[`${from}>${STATES.indexOf(walk[one.fails]!)}`] = 'EIO';
        }
        const { errno, arcs, opens } = model.set(one.state, one.fails);
        let data: MigrationData | undefined;
        const found = errnoOf(() => {
          const flag = FLAGS | VFIO_DEVICE_FEATURE_SET;
          ({ data } = device.deviceFeature({ flags: flag, value: { state: one.state } }) as { data: typeof data });
        });
        expect(found, where).toBe(errno);
        expect(
          toy.arcs.slice(before).map((arc) => STATES[Number(arc.split('>')[1])]),
          where,
        ).toEqual(arcs);
        expect(data !== undefined, where).toBe(opens);
        if (data !== undefined) {
          if (stream !== undefined) expect(errnoOf(() => stream?.read(new Uint8Array(1)))).toBe('ENODEV');
          stream = data;
        }
        break;
      }
      case 'reset':
        expect(await errnoOfAsync(() => RESETS[one.path](device, made.dev)), where).toBe('none');
        model.reset();
        break;
      case 'error':
        // The driver finds out by itself that it does not know.
        toy.state = STATES.indexOf('ERROR');
        model.state = 'ERROR';
        break;
      case 'reopen':
        await device.close();
        device = await made.dev.open();
        model.reset();
        break;
    }
    const { state } = device.deviceFeature({ flags: FLAGS | VFIO_DEVICE_FEATURE_GET }) as { state: number };
    expect(STATES[state], where).toBe(model.state);
    if (stream !== undefined)
      expect(
        errnoOf(() => stream?.read(new Uint8Array(1))),
        where,
      ).toBe(model.hasSession ? 'none' : 'ENODEV');
  }
  await device.close();
}

test('any requests, failures and resets leave the state, the arcs, the errnos and the stream that the uAPI says', async () => {
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...FLAG_SETS), fc.array(step, { minLength: 1, maxLength: 25 }), run),
    { numRuns: 200 },
  );
});

test('every request from every state that a device can be in gives the errno that the uAPI says', async () => {
  for (const flags of FLAG_SETS) {
    for (const from of STATES) {
      for (let to = 0; to <= STATES.length; to++) {
        const way: Step[] =
          from === 'ERROR' ? [{ kind: 'error' }] : [{ kind: 'set', state: STATES.indexOf(from), fails: -1 }];
        await run(flags, [...way, { kind: 'set', state: to, fails: -1 }]);
      }
    }
  }
});
