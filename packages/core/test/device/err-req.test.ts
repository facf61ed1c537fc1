import {
  VFIO_IRQ_SET_DATA_BOOL as BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD as EVENTFD,
  VFIO_IRQ_SET_ACTION_MASK as MASK,
  VFIO_IRQ_SET_DATA_NONE as NONE,
  VFIO_IRQ_SET_ACTION_TRIGGER as TRIGGER,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { vfioPciCoreAerErrDetected, vfioPciCoreUnregisterDevice } from '../../src/index.js';
import { CountingTrigger, errnoOf, opened } from './helpers.js';

describe.each([
  ['ERR', 3],
  ['REQ', 4],
])('%s', (_name, index) => {
  test('has one interrupt, EVENTFD and NORESIZE, also on a function that is not PCIe', async () => {
    const { device } = await opened();
    expect(device.getIrqInfo(index)).toEqual({ index, flags: 9, count: 1 });
  });

  test('keeps a trigger, replaces it and removes it by -1', async () => {
    const { device } = await opened();
    const [a, b] = [new CountingTrigger(), new CountingTrigger()];
    const call = (trigger: CountingTrigger | null) =>
      device.setIrqs({ index, flags: EVENTFD | TRIGGER, start: 0, count: 1, triggers: [trigger] });
    call(a);
    device.setIrqs({ index, flags: NONE | TRIGGER, start: 0, count: 1 });
    call(b);
    expect([a.signals, a.releases]).toEqual([1, 1]);
    device.setIrqs({ index, flags: BOOL | TRIGGER, start: 0, count: 1, bools: Uint8Array.of(1) });
    device.setIrqs({ index, flags: BOOL | TRIGGER, start: 0, count: 1, bools: Uint8Array.of(0) });
    expect(b.signals).toBe(1);
    call(null);
    expect(b.releases).toBe(1);
    call(null);
    expect(errnoOf(() => device.setIrqs({ index, flags: NONE | TRIGGER, start: 0, count: 1 }))).toBe('EINVAL');
  });

  test('is removed by NONE with count 0, once', async () => {
    const { device } = await opened();
    const trigger = new CountingTrigger();
    device.setIrqs({ index, flags: EVENTFD | TRIGGER, start: 0, count: 1, triggers: [trigger] });
    device.setIrqs({ index, flags: NONE | TRIGGER, start: 0, count: 0 });
    expect(trigger.releases).toBe(1);
    expect(errnoOf(() => device.setIrqs({ index, flags: NONE | TRIGGER, start: 0, count: 0 }))).toBe('EINVAL');
  });

  test.each([
    ['BOOL with count 0', { flags: BOOL | TRIGGER, start: 0, count: 0, bools: new Uint8Array(0) }, 'EINVAL'],
    ['EVENTFD with count 0', { flags: EVENTFD | TRIGGER, start: 0, count: 0, triggers: [] }, 'EINVAL'],
    ['start 1', { flags: NONE | TRIGGER, start: 1, count: 0 }, 'EINVAL'],
    ['count 2', { flags: NONE | TRIGGER, start: 0, count: 2 }, 'EINVAL'],
    ['mask', { flags: NONE | MASK, start: 0, count: 1 }, 'ENOTTY'],
  ])('%s is refused, and the trigger stays', async (_what, rest, errno) => {
    const { device } = await opened();
    const trigger = new CountingTrigger();
    device.setIrqs({ index, flags: EVENTFD | TRIGGER, start: 0, count: 1, triggers: [trigger] });
    expect(errnoOf(() => device.setIrqs({ index, ...rest }))).toBe(errno);
    expect(trigger.releases).toBe(0);
  });

  test('BOOL without a trigger is no error', async () => {
    const { device } = await opened();
    expect(device.setIrqs({ index, flags: BOOL | TRIGGER, start: 0, count: 1, bools: Uint8Array.of(1) })).toBe(0);
  });

  test('stands beside an active type and outlives its end, and goes with the last close', async () => {
    const { device } = await opened({ msixVectors: 4 });
    const trigger = new CountingTrigger();
    device.setIrqs({ index: 2, flags: EVENTFD | TRIGGER, start: 0, count: 1, triggers: [null] });
    device.setIrqs({ index, flags: EVENTFD | TRIGGER, start: 0, count: 1, triggers: [trigger] });
    device.setIrqs({ index: 2, flags: NONE | TRIGGER, start: 0, count: 0 });
    expect(trigger.releases).toBe(0);
    await device.close();
    expect(trigger.releases).toBe(1);
  });
});

test('an uncorrectable error signals ERR, and the device can recover', async () => {
  const { device, dev } = await opened();
  expect(vfioPciCoreAerErrDetected(dev)).toBe('can_recover');
  const trigger = new CountingTrigger();
  device.setIrqs({ index: 3, flags: EVENTFD | TRIGGER, start: 0, count: 1, triggers: [trigger] });
  expect(vfioPciCoreAerErrDetected(dev)).toBe('can_recover');
  expect(trigger.signals).toBe(1);
});

test('unregistering signals REQ again and again until the user closes the device', async () => {
  const { device, dev, warnings } = await opened();
  const trigger = new CountingTrigger();
  device.setIrqs({ index: 4, flags: EVENTFD | TRIGGER, start: 0, count: 1, triggers: [trigger] });
  const gone = vfioPciCoreUnregisterDevice(dev, { requestIntervalMs: 2 });
  await new Promise<void>((resolve) => {
    const check = trigger.watch(() => {
      if (trigger.signals < 4) return;
      check();
      resolve();
    });
  });
  expect(dev.registered).toBe(true);
  await device.close();
  await gone;
  expect(dev.registered).toBe(false);
  expect(warnings.filter((warning) => warning.includes('asked to let go'))).toHaveLength(1);
});

test('unregistering without a REQ trigger says once that it waits', async () => {
  const { device, dev, warnings } = await opened();
  const gone = vfioPciCoreUnregisterDevice(dev, { requestIntervalMs: 1 });
  await new Promise((resolve) => setTimeout(resolve, 10));
  await device.close();
  await gone;
  expect(warnings.filter((warning) => warning.includes('no REQ trigger'))).toHaveLength(1);
});
