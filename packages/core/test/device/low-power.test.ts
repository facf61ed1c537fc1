import {
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY as ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP as ENTRY_WITH_WAKEUP,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT as EXIT,
  VFIO_DEVICE_FEATURE_SET as SET,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_NONE,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { CountingTrigger, enableMemory, errnoOf, errnoOfAsync, opened } from './helpers.js';

async function asleep(withIntx = false) {
  const rig = await opened({ pm: true });
  await enableMemory(rig.device);
  const trigger = new CountingTrigger();
  if (withIntx) rig.device.setIrqs({ index: 0, flags: 0x24, start: 0, count: 1, triggers: [trigger] });
  rig.fn.power.length = 0;
  return { ...rig, trigger };
}

describe('low power', () => {
  test('lets the function sleep when the call ends; an access wakes it for as long as it takes', async () => {
    const { device, fn } = await asleep();
    device.deviceFeature({ flags: ENTRY | SET });
    expect(fn.power).toEqual([3]);
    expect(device.read(0, 0, new Uint8Array(4))).toBe(4);
    expect(fn.power).toEqual([3, 0, 3]);
    await device.write(0, 0, Uint8Array.of(1));
    device.getInfo();
    expect(fn.power).toEqual([3, 0, 3, 0, 3, 0, 3]);
    expect(fn.bars[0]!.space.bytes[0]).toBe(1);
    device.deviceFeature({ flags: EXIT | SET });
    expect(fn.power.at(-1)).toBe(0);
    device.getInfo();
    expect(fn.power.at(-1)).toBe(0);
  });

  test('with a wake-up trigger ends at the first access, and signals once', async () => {
    const { device, fn, dev } = await asleep();
    const wake = new CountingTrigger();
    device.deviceFeature({ flags: ENTRY_WITH_WAKEUP | SET, value: { trigger: wake } });
    expect([fn.power.at(-1), wake.signals]).toEqual([3, 0]);
    device.read(0, 0, new Uint8Array(4));
    expect([fn.power.at(-1), wake.signals, wake.releases]).toEqual([0, 1, 1]);
    expect(dev.power.engaged).toBe(false);
    device.read(0, 0, new Uint8Array(4));
    expect(wake.signals).toBe(1);
    device.deviceFeature({ flags: ENTRY | SET });
    expect(fn.power.at(-1), 'can be entered again').toBe(3);
  });

  test('EXIT without having entered is no error, and lets go of a wake-up trigger', async () => {
    const { device, fn } = await asleep();
    device.deviceFeature({ flags: EXIT | SET });
    device.deviceFeature({ flags: EXIT | SET });
    expect(fn.power).toEqual([]);
    const wake = new CountingTrigger();
    device.deviceFeature({ flags: ENTRY_WITH_WAKEUP | SET, value: { trigger: wake } });
    device.deviceFeature({ flags: EXIT | SET });
    expect(wake.releases).toBe(1);
  });

  test('entered twice is EINVAL for the second', async () => {
    const { device, dev } = await asleep();
    device.deviceFeature({ flags: ENTRY | SET });
    expect(errnoOf(() => device.deviceFeature({ flags: ENTRY | SET }))).toBe('EINVAL');
    const wake = new CountingTrigger();
    expect(errnoOf(() => device.deviceFeature({ flags: ENTRY_WITH_WAKEUP | SET, value: { trigger: wake } }))).toBe(
      'EINVAL',
    );
    expect(wake.releases).toBe(1);
    expect(dev.power.users).toBe(0);
  });

  test.each([
    ['ENTRY with GET', { flags: ENTRY | VFIO_DEVICE_FEATURE_GET }, 'EINVAL'],
    ['ENTRY probed', { flags: ENTRY | SET | VFIO_DEVICE_FEATURE_PROBE }, 'none'],
    ['EXIT with GET', { flags: EXIT | VFIO_DEVICE_FEATURE_GET }, 'EINVAL'],
    ['ENTRY_WITH_WAKEUP without a trigger', { flags: ENTRY_WITH_WAKEUP | SET, value: { trigger: null } }, 'EINVAL'],
    ['ENTRY_WITH_WAKEUP without a value', { flags: ENTRY_WITH_WAKEUP | SET }, 'EINVAL'],
  ])('%s gives %s', async (_name, request, errno) => {
    const { device, dev } = await asleep();
    expect(errnoOf(() => device.deviceFeature(request))).toBe(errno);
    expect(dev.power.engaged).toBe(false);
  });

  test('kills BAR mappings until EXIT, also while an access has the function awake', async () => {
    const { device } = await asleep();
    const { memory } = device.mmapArea(0, 0, 4096);
    device.deviceFeature({ flags: ENTRY | SET });
    expect(memory.bytes).toHaveLength(0);
    device.read(0, 0, new Uint8Array(4));
    expect(memory.bytes).toHaveLength(0);
    device.deviceFeature({ flags: EXIT | SET });
    expect(memory.bytes).toHaveLength(4096);
  });

  test('masks INTx while it sleeps, and only if it was not masked before', async () => {
    const { device, dev, fn } = await asleep(true);
    device.deviceFeature({ flags: ENTRY | SET });
    expect(dev.irqs.intxMasked).toBe(true);
    device.deviceFeature({ flags: EXIT | SET });
    expect(dev.irqs.intxMasked).toBe(false);
    const mask = { index: 0, flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK, start: 0, count: 1 };
    device.setIrqs(mask);
    device.deviceFeature({ flags: ENTRY | SET });
    device.deviceFeature({ flags: EXIT | SET });
    expect(dev.irqs.intxMasked, "the user's own").toBe(true);
    device.setIrqs({ ...mask, flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK });
    expect(fn.power.at(-1)).toBe(0);
  });

  test('from which the function cannot be woken is EIO, and it can be tried again', async () => {
    const { device, fn, dev } = await asleep();
    device.deviceFeature({ flags: ENTRY | SET });
    const real = fn.setPowerState.bind(fn);
    fn.setPowerState = () => {
      throw dev.error('ENODEV', 'power', 'gone');
    };
    expect(errnoOf(() => device.read(0, 0, new Uint8Array(4)))).toBe('EIO');
    expect(await errnoOfAsync(() => device.write(0, 0, Uint8Array.of(1)))).toBe('EIO');
    expect(errnoOf(() => device.getInfo())).toBe('EIO');
    fn.setPowerState = real;
    expect(device.read(0, 0, new Uint8Array(4))).toBe(4);
  });

  test('of a function whose power changes take time: what can wait does, what cannot is EIO once', async () => {
    const { device, fn } = await asleep();
    device.deviceFeature({ flags: ENTRY | SET });
    let go = () => {};
    fn.slowPower = new Promise((resolve) => {
      go = resolve;
    });
    expect(errnoOf(() => device.read(0, 0, new Uint8Array(4)))).toBe('EIO');
    const write = device.write(0, 8, Uint8Array.of(6));
    expect(write).toBeInstanceOf(Promise);
    go();
    expect(await write).toBe(1);
    expect(fn.bars[0]!.space.bytes[8]).toBe(6);
    await device.deviceFeature({ flags: EXIT | SET });
    await device.reset();
    fn.slowPower = undefined;
    expect(device.read(0, 0, new Uint8Array(4))).toBe(4);
  });

  test('ends with the close, and the next user finds the function awake', async () => {
    const { device, dev, fn } = await asleep();
    const wake = new CountingTrigger();
    device.deviceFeature({ flags: ENTRY_WITH_WAKEUP | SET, value: { trigger: wake } });
    await device.close();
    expect([wake.signals, wake.releases]).toEqual([0, 1]);
    expect(dev.power.users).toBe(0);
    const again = await dev.open();
    expect(fn.power.at(-1)).toBe(0);
    await enableMemory(again);
    expect(again.read(0, 0, new Uint8Array(4))).toBe(4);
    await again.close();
    expect(dev.power.users).toBe(0);
  });

  test('of a function without power management changes no state, and wakes all the same', async () => {
    const { device, fn, dev } = await opened();
    await enableMemory(device);
    const wake = new CountingTrigger();
    device.deviceFeature({ flags: ENTRY_WITH_WAKEUP | SET, value: { trigger: wake } });
    expect(dev.power.asleep).toBe(true);
    expect(device.read(0, 0, new Uint8Array(4))).toBe(4);
    expect([wake.signals, fn.power.length]).toEqual([1, 0]);
  });
});
