import {
  VFIO_IRQ_SET_DATA_EVENTFD as EVENTFD,
  PCI_COMMAND,
  VFIO_IRQ_SET_ACTION_TRIGGER as TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK as UNMASK,
} from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  holdVirtualState,
  restoreVirtualState,
  resumeVirtualState,
  saveVirtualState,
  type VfioDevice,
  type VirtualState,
} from '../../src/index.js';
import { EXP_AT, type FakeFunctionOptions, PM_AT } from './fake-function.js';
import { CountingTrigger, errnoOf, errnoOfAsync, opened, readBytes } from './helpers.js';

const FULL: FakeFunctionOptions = { pm: true, msiVectors: 8, msixVectors: 16, exp: true };

const seen = (device: VfioDevice, size = 4096) => readBytes(device, 7, 0, size);
const set = (
  device: VfioDevice,
  index: number,
  flags: number,
  triggers: readonly (CountingTrigger | null)[],
  start = 0,
) => device.setIrqs({ index, flags: EVENTFD | flags, start, count: triggers.length, triggers });

/** The state with other triggers, as it comes to another process. */
function sent(state: VirtualState): { state: VirtualState; made: CountingTrigger[] } {
  const made: CountingTrigger[] = [];
  const copy = (trigger: unknown) => {
    if (trigger === null) return null;
    made.push(new CountingTrigger());
    return made.at(-1)!;
  };
  const { irqs } = state;
  const other = {
    ...irqs,
    vectors: irqs.vectors.map(copy),
    unmask: copy(irqs.unmask),
    err: copy(irqs.err),
    req: copy(irqs.req),
  };
  return { state: { ...state, irqs: other }, made };
}

describe('the virtual state of an opened device', () => {
  test('makes another one the same to its user, whatever the user wrote to config space', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ offset: fc.nat(0xff), data: fc.uint8Array({ minLength: 1, maxLength: 4 }) }), {
          maxLength: 30,
        }),
        async (writes) => {
          const a = await opened(FULL);
          const b = await opened(FULL);
          for (const { offset, data } of writes) {
            if (offset + data.length <= 0x100) await a.device.write(7, offset, data);
          }
          await restoreVirtualState(b.dev, saveVirtualState(a.dev));
          expect(seen(b.device)).toEqual(seen(a.device));
          expect([b.dev.power.state, b.dev.irqs.virqDisabled, b.dev.config?.memoryEnabled]).toEqual([
            a.dev.power.state,
            a.dev.irqs.virqDisabled,
            a.dev.config?.memoryEnabled,
          ]);
          // COMMAND and device control reach hardware; where the BARs are is each host's own business.
          for (const at of [PCI_COMMAND, EXP_AT + 8]) expect(b.fn.config.read(at, 2)).toBe(a.fn.config.read(at, 2));
        },
      ),
      { numRuns: 50 },
    );
  });

  test('takes along the vectors of MSI-X, gaps and vectors that were added later among them', async () => {
    const a = await opened(FULL);
    const b = await opened(FULL);
    set(a.device, 2, TRIGGER, [new CountingTrigger(), null, new CountingTrigger()]);
    set(a.device, 2, TRIGGER, [new CountingTrigger()], 9);
    set(a.device, 3, TRIGGER, [new CountingTrigger()]);
    set(a.device, 4, TRIGGER, [new CountingTrigger()]);
    const { state, made } = sent(saveVirtualState(a.dev));
    await restoreVirtualState(b.dev, state);
    expect(b.fn.interrupts.vectors.size).toBe(4);
    for (const vector of [0, 1, 2, 9, 9]) b.fn.interrupts.fire(vector);
    expect(made.map(({ signals }) => signals)).toEqual([1, 1, 2, 0, 0]);
    expect([b.dev.irqs.errTrigger, b.dev.irqs.reqTrigger]).toEqual([made[3], made[4]]);
    // Saving has left the first one as it was.
    expect(a.dev.irqs.vectors[9]).not.toBe(made[2]);
    await b.device.close();
    expect(made.map(({ releases }) => releases)).toEqual([1, 1, 1, 1, 1]);
  });

  test('takes along MSI with its enable bit and the number of vectors that may be asked for', async () => {
    const a = await opened(FULL);
    const b = await opened(FULL);
    set(
      a.device,
      1,
      TRIGGER,
      Array.from({ length: 4 }, () => new CountingTrigger()),
    );
    await a.device.write(7, 0x52, Uint8Array.of(0x21, 0));
    await restoreVirtualState(b.dev, sent(saveVirtualState(a.dev)).state);
    expect(readBytes(b.device, 7, 0x52, 1)).toEqual(readBytes(a.device, 7, 0x52, 1));
    expect([b.dev.irqs.type, b.dev.irqs.msiQmax, b.fn.config.read(0x52, 2) & 0x71]).toEqual([1, 2, 0x21]);
  });

  test('keeps INTx masked that was signalled, and hears its user only when it goes on', async () => {
    const a = await opened(FULL);
    const b = await opened(FULL);
    set(a.device, 0, TRIGGER, [new CountingTrigger()]);
    set(a.device, 0, UNMASK, [new CountingTrigger()]);
    a.fn.setIntx(true);
    expect(a.dev.irqs.intxMasked).toBe(true);
    const { state, made } = sent(saveVirtualState(a.dev));
    const [trigger, unmask] = made as [CountingTrigger, CountingTrigger];
    b.fn.setIntx(true);
    // The user has unmasked meanwhile.
    unmask.pending = 1;
    await restoreVirtualState(b.dev, state);
    expect([trigger.signals, unmask.pending, b.dev.irqs.intxMasked]).toEqual([0, 1, true]);
    resumeVirtualState(b.dev);
    expect([trigger.signals, unmask.pending]).toEqual([1, 0]);
    b.fn.setIntx(false);
    unmask.signal();
    expect(b.dev.irqs.intxMasked).toBe(false);
  });

  test('is held without consuming what the user signals, until it is resumed', async () => {
    const { dev, device, fn } = await opened(FULL);
    const [trigger, unmask] = [new CountingTrigger(), new CountingTrigger()];
    set(device, 0, TRIGGER, [trigger]);
    set(device, 0, UNMASK, [unmask]);
    fn.setIntx(true);
    holdVirtualState(dev);
    expect(unmask.watchers.size).toBe(0);
    unmask.pending = 1;
    resumeVirtualState(dev);
    resumeVirtualState(dev);
    expect([trigger.signals, unmask.pending, unmask.watchers.size]).toEqual([2, 0, 1]);
  });

  test('moves the power state last', async () => {
    const a = await opened(FULL);
    const b = await opened(FULL);
    await a.device.write(7, PCI_COMMAND, Uint8Array.of(0x06, 0));
    await a.device.write(7, PM_AT + 4, Uint8Array.of(3, 0));
    await restoreVirtualState(b.dev, saveVirtualState(a.dev));
    expect(b.dev.power.state).toBe(3);
    expect(seen(b.device)).toEqual(seen(a.device));
    await b.device.write(7, PM_AT + 4, Uint8Array.of(0, 0));
    expect(readBytes(b.device, 7, PCI_COMMAND, 1)).toEqual([0x06]);
  });
});

describe('a state is refused', () => {
  const row = (name: string, other: FakeFunctionOptions) => [name, other] as const;
  test.each([
    row('of another device', { ...FULL, device: 0x1111 }),
    row('of another class', { ...FULL, class: 0x020000 }),
    row('of other capabilities', { ...FULL, pm: false }),
    row('of a shorter config space', { ...FULL, exp: false }),
    row('of another place of the MSI-X table', { ...FULL, msixOffset: 0x1000 }),
  ])('%s', async (_name, other) => {
    const a = await opened(other);
    const b = await opened(FULL);
    const before = seen(b.device);
    expect(await errnoOfAsync(() => restoreVirtualState(b.dev, saveVirtualState(a.dev)))).toBe('EINVAL');
    expect(seen(b.device)).toEqual(before);
  });

  const irqs = {
    type: 2,
    vectors: [null],
    allocated: 1,
    intxMasked: false,
    unmask: null,
    err: null,
    req: null,
  };
  test.each([
    ['more vectors than there are', { vectors: new Array(17).fill(null) }],
    ['none allocated', { allocated: 0 }],
    ['more allocated than there are vectors', { allocated: 2 }],
    ['a type that there is not', { type: 3 }],
    ['vectors of no type', { type: undefined }],
    ['INTx masked that is not active', { intxMasked: true }],
    ['an unmask trigger without INTx', { unmask: new CountingTrigger() }],
  ])('with interrupts that cannot be: %s', async (_name, change) => {
    const { dev } = await opened(FULL);
    const { config } = saveVirtualState(dev);
    const spare = new CountingTrigger();
    const state = { config, irqs: { ...irqs, err: spare, ...change } };
    expect(await errnoOfAsync(() => restoreVirtualState(dev, state))).toBe('EINVAL');
    expect([spare.releases, dev.irqs.errTrigger]).toEqual([1, undefined]);
  });

  test('by a device with interrupts, and where vectors cannot be had; each trigger is released once', async () => {
    const a = await opened(FULL);
    const b = await opened(FULL);
    set(a.device, 2, TRIGGER, [new CountingTrigger(), new CountingTrigger()]);
    b.fn.interrupts.available = 1;
    const first = sent(saveVirtualState(a.dev));
    expect(await errnoOfAsync(() => restoreVirtualState(b.dev, first.state))).toBe('ENOSPC');
    b.fn.interrupts.available = 64;
    set(b.device, 2, TRIGGER, [null]);
    const second = sent(saveVirtualState(a.dev));
    expect(await errnoOfAsync(() => restoreVirtualState(b.dev, second.state))).toBe('EINVAL');
    expect([...first.made, ...second.made].map(({ releases }) => releases)).toEqual([1, 1, 1, 1]);
  });

  test("to be saved where the device is closed, sleeps at its user's wish, or has ioeventfds", async () => {
    const { dev, device } = await opened(FULL);
    device.ioeventfd({ region: 0, offset: 0, width: 4, data: 1n, trigger: new CountingTrigger() });
    expect(errnoOf(() => saveVirtualState(dev))).toBe('EBUSY');
    device.ioeventfd({ region: 0, offset: 0, width: 4, data: 1n, trigger: null });
    expect(errnoOf(() => saveVirtualState(dev))).toBe('none');
    device.deviceFeature({ flags: (1 << 17) | 3 });
    expect(errnoOf(() => saveVirtualState(dev))).toBe('EBUSY');
    await device.close();
    expect(errnoOf(() => saveVirtualState(dev))).toBe('ENODEV');
  });
});
