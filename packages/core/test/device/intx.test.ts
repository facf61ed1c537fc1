import {
  VFIO_IRQ_SET_DATA_BOOL as BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD as EVENTFD,
  VFIO_IRQ_SET_ACTION_MASK as MASK,
  VFIO_IRQ_SET_DATA_NONE as NONE,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  VFIO_IRQ_SET_ACTION_TRIGGER as TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK as UNMASK,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { isNointxDevice } from '../../src/device/nointx.js';
import type { EventTrigger, SetIrqsRequest, VfioDevice } from '../../src/index.js';
import { FakeFunction, FakeHost } from './fake-function.js';
import { CountingTrigger, errnoOf, opened } from './helpers.js';

function intx(flags: number, rest: Partial<SetIrqsRequest> = {}): SetIrqsRequest {
  return { index: 0, flags, start: 0, count: 1, ...rest };
}

function enable(device: VfioDevice, trigger: EventTrigger | null = new CountingTrigger()): EventTrigger | null {
  device.setIrqs(intx(EVENTFD | TRIGGER, { triggers: [trigger] }));
  return trigger;
}

function disIntx(fn: FakeFunction): boolean {
  return (fn.config.read(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) !== 0;
}

/** Sets or clears DisINTx as the user does. */
async function userDisIntx(device: VfioDevice, disable: boolean): Promise<void> {
  await device.write(7, PCI_COMMAND + 1, Uint8Array.of(disable ? 0x04 : 0));
}

describe('INTx of a PCI 2.3 function', () => {
  test('is signalled once and masked at the function until it is unmasked', async () => {
    const { device, fn } = await opened();
    const trigger = new CountingTrigger();
    enable(device, trigger);
    expect(fn.interrupts.exclusive).toBe(false);
    fn.setIntx(true);
    expect(trigger.signals).toBe(1);
    expect(disIntx(fn)).toBe(true);
    fn.setIntx(true);
    expect(trigger.signals).toBe(1);
    fn.setIntx(false);
    device.setIrqs(intx(NONE | UNMASK));
    expect(disIntx(fn)).toBe(false);
    fn.setIntx(true);
    expect(trigger.signals).toBe(2);
  });

  test('does not react to a shared line that somebody else asserts', async () => {
    const { device, fn } = await opened();
    const trigger = new CountingTrigger();
    enable(device, trigger);
    fn.interrupts.intx?.();
    expect(trigger.signals).toBe(0);
    expect(disIntx(fn)).toBe(false);
  });

  test('that is still pending at unmask is signalled again at once and stays masked', async () => {
    const { device, fn } = await opened();
    const trigger = new CountingTrigger();
    enable(device, trigger);
    fn.setIntx(true);
    device.setIrqs(intx(NONE | UNMASK));
    expect(trigger.signals).toBe(2);
    expect(disIntx(fn)).toBe(true);
    device.setIrqs(intx(NONE | UNMASK));
    expect(trigger.signals).toBe(3);
    fn.setIntx(false);
    device.setIrqs(intx(NONE | UNMASK));
    expect(trigger.signals).toBe(3);
    expect(disIntx(fn)).toBe(false);
  });

  test('masked by the user gives no signal; unmasking one that came meanwhile does', async () => {
    const { device, fn } = await opened();
    const trigger = new CountingTrigger();
    enable(device, trigger);
    device.setIrqs(intx(NONE | MASK));
    expect(disIntx(fn)).toBe(true);
    fn.setIntx(true);
    expect(trigger.signals).toBe(0);
    device.setIrqs(intx(NONE | UNMASK));
    expect(trigger.signals).toBe(1);
  });

  test('follows BOOL for mask and unmask: 0 does nothing', async () => {
    const { device, fn } = await opened();
    enable(device);
    device.setIrqs(intx(BOOL | MASK, { bools: Uint8Array.of(0) }));
    expect(disIntx(fn)).toBe(false);
    device.setIrqs(intx(BOOL | MASK, { bools: Uint8Array.of(1) }));
    expect(disIntx(fn)).toBe(true);
    device.setIrqs(intx(BOOL | UNMASK, { bools: Uint8Array.of(0) }));
    expect(disIntx(fn)).toBe(true);
    device.setIrqs(intx(BOOL | UNMASK, { bools: Uint8Array.of(255) }));
    expect(disIntx(fn)).toBe(false);
  });

  test('is unmasked by its resample trigger; -1 takes that away, a second one is EBUSY', async () => {
    const { device, fn } = await opened();
    const trigger = new CountingTrigger();
    enable(device, trigger);
    const resample = new CountingTrigger();
    device.setIrqs(intx(EVENTFD | UNMASK, { triggers: [resample] }));
    const second = new CountingTrigger();
    expect(errnoOf(() => device.setIrqs(intx(EVENTFD | UNMASK, { triggers: [second] })))).toBe('EBUSY');
    expect(second.releases).toBe(1);
    fn.setIntx(true);
    fn.setIntx(false);
    resample.signal();
    expect(disIntx(fn)).toBe(false);
    fn.setIntx(true);
    resample.signal();
    expect(trigger.signals, 'still asserted: again at once').toBe(3);
    device.setIrqs(intx(EVENTFD | UNMASK, { triggers: [null] }));
    expect(resample.releases).toBe(1);
    expect(resample.watchers.size).toBe(0);
    device.setIrqs(intx(EVENTFD | UNMASK, { triggers: [null] }));
    device.setIrqs(intx(EVENTFD | UNMASK, { triggers: [second] }));
    expect(second.watchers.size).toBe(1);
  });

  test('is unmasked at once by a resample trigger that was signalled before', async () => {
    const { device, fn } = await opened();
    enable(device);
    device.setIrqs(intx(NONE | MASK));
    const resample = new CountingTrigger();
    resample.pending = 1;
    device.setIrqs(intx(EVENTFD | UNMASK, { triggers: [resample] }));
    expect(disIntx(fn)).toBe(false);
    expect(resample.watchers.size).toBe(1);
  });

  test('is quiet while the user has DisINTx set, whatever is unmasked, and comes back when it is cleared', async () => {
    const { device, fn } = await opened();
    const trigger = new CountingTrigger();
    enable(device, trigger);
    await userDisIntx(device, true);
    device.setIrqs(intx(NONE | UNMASK));
    expect(disIntx(fn), 'with nothing pending').toBe(true);
    fn.setIntx(true);
    device.setIrqs(intx(NONE | UNMASK));
    device.setIrqs(intx(NONE | TRIGGER));
    expect(trigger.signals).toBe(0);
    expect(disIntx(fn)).toBe(true);
    await userDisIntx(device, false);
    expect(trigger.signals, 'pending: signalled when allowed').toBe(1);
    fn.setIntx(false);
    device.setIrqs(intx(NONE | UNMASK));
    expect(disIntx(fn)).toBe(false);
  });

  test('enabled while the user has DisINTx set starts masked', async () => {
    const { device, fn } = await opened();
    await userDisIntx(device, true);
    const trigger = new CountingTrigger();
    enable(device, trigger);
    expect(disIntx(fn)).toBe(true);
    fn.setIntx(true);
    expect(trigger.signals).toBe(0);
    await userDisIntx(device, false);
    expect(trigger.signals).toBe(1);
  });

  test("only mirrors the user's DisINTx while it is not the active type", async () => {
    const { device, fn } = await opened();
    await userDisIntx(device, true);
    expect(disIntx(fn)).toBe(true);
    await userDisIntx(device, false);
    expect(disIntx(fn)).toBe(false);
  });
});

describe('INTx of a function that is not PCI 2.3', () => {
  test('takes the line alone and is masked at the interrupt controller', async () => {
    const { device, fn } = await opened({ pci23: false });
    const trigger = new CountingTrigger();
    enable(device, trigger);
    expect(fn.interrupts.exclusive).toBe(true);
    fn.setIntx(true);
    expect(trigger.signals).toBe(1);
    expect(fn.interrupts.lineEnabled).toBe(false);
    expect(disIntx(fn)).toBe(false);
    fn.setIntx(false);
    device.setIrqs(intx(NONE | UNMASK));
    expect(fn.interrupts.lineEnabled).toBe(true);
  });

  test('leaves hardware alone while it is not the active type', async () => {
    const { device, fn } = await opened({}, undefined, { params: { nointxmask: true } });
    await userDisIntx(device, true);
    expect(disIntx(fn)).toBe(false);
    expect(fn.interrupts.lineEnabled).toBe(true);
  });

  test('enabled while the user has DisINTx set starts with the line off', async () => {
    const { device, fn } = await opened({ pci23: false });
    await userDisIntx(device, true);
    const trigger = new CountingTrigger();
    enable(device, trigger);
    expect(fn.interrupts.lineEnabled).toBe(false);
    fn.setIntx(true);
    expect(trigger.signals).toBe(0);
    await userDisIntx(device, false);
    expect(fn.interrupts.lineEnabled).toBe(true);
  });

  test('is what nointxmask makes of one whose DisINTx works', async () => {
    const { device, fn } = await opened({}, undefined, { params: { nointxmask: true } });
    enable(device);
    expect(fn.interrupts.exclusive).toBe(true);
  });
});

describe('setting INTx', () => {
  test('with -1 while inactive enables it without a trigger', async () => {
    const { device, fn } = await opened();
    expect(device.setIrqs(intx(EVENTFD | TRIGGER, { triggers: [null] }))).toBe(0);
    expect(fn.interrupts.intx).toBeDefined();
    fn.setIntx(true);
    expect(disIntx(fn), 'masked though nobody is told').toBe(true);
    const trigger = new CountingTrigger();
    device.setIrqs(intx(EVENTFD | TRIGGER, { triggers: [trigger] }));
    device.setIrqs(intx(NONE | UNMASK));
    expect(trigger.signals).toBe(1);
  });

  test('again replaces the trigger without giving up the line', async () => {
    const { device, fn } = await opened();
    const first = new CountingTrigger();
    enable(device, first);
    const handler = fn.interrupts.intx;
    const second = new CountingTrigger();
    enable(device, second);
    expect(fn.interrupts.intx).toBe(handler);
    expect([first.releases, second.releases]).toEqual([1, 0]);
    fn.setIntx(true);
    expect([first.signals, second.signals]).toEqual([0, 1]);
  });

  test('to nothing frees the line and lets go of both triggers', async () => {
    const { device, fn, dev } = await opened();
    const trigger = new CountingTrigger();
    const resample = new CountingTrigger();
    enable(device, trigger);
    device.setIrqs(intx(EVENTFD | UNMASK, { triggers: [resample] }));
    expect(device.setIrqs(intx(NONE | TRIGGER, { count: 0 }))).toBe(0);
    expect(fn.interrupts.intx).toBeUndefined();
    expect([trigger.releases, resample.releases]).toEqual([1, 1]);
    expect(dev.irqs.type).toBe(5);
    expect(errnoOf(() => device.setIrqs(intx(NONE | TRIGGER, { count: 0 })))).toBe('EINVAL');
  });

  test('by loopback signals the trigger, BOOL only where the byte is set', async () => {
    const { device } = await opened();
    const trigger = new CountingTrigger();
    enable(device, trigger);
    device.setIrqs(intx(NONE | TRIGGER));
    device.setIrqs(intx(BOOL | TRIGGER, { bools: Uint8Array.of(0) }));
    device.setIrqs(intx(BOOL | TRIGGER, { bools: Uint8Array.of(1) }));
    expect(trigger.signals).toBe(2);
  });

  test.each([
    ['loopback while inactive', intx(NONE | TRIGGER), 'EINVAL'],
    ['BOOL loopback while inactive', intx(BOOL | TRIGGER, { bools: Uint8Array.of(1) }), 'EINVAL'],
    ['mask while inactive', intx(NONE | MASK), 'EINVAL'],
    ['unmask while inactive', intx(NONE | UNMASK), 'EINVAL'],
    ['count 0 with EVENTFD', intx(EVENTFD | TRIGGER, { count: 0, triggers: [] }), 'EINVAL'],
    ['start 1', intx(EVENTFD | TRIGGER, { start: 1, triggers: [null] }), 'EINVAL'],
    ['count 2', intx(EVENTFD | TRIGGER, { count: 2, triggers: [null, null] }), 'EINVAL'],
    ['two actions', intx(NONE | TRIGGER | MASK), 'ENOTTY'],
    ['no action', intx(NONE), 'ENOTTY'],
    ['no data type', intx(TRIGGER), 'EINVAL'],
    ['two data types', intx(NONE | BOOL | TRIGGER, { bools: Uint8Array.of(1) }), 'EINVAL'],
    ['an unknown flag', intx(NONE | TRIGGER | 0x40), 'EINVAL'],
    ['BOOL without data', intx(BOOL | TRIGGER), 'EINVAL'],
    ['EVENTFD without data', intx(EVENTFD | TRIGGER), 'EINVAL'],
    ['a start beyond 32 bits', intx(NONE | TRIGGER, { start: 2 ** 32 }), 'EINVAL'],
    ['a negative count', intx(NONE | TRIGGER, { count: -1 }), 'EINVAL'],
    ['index 5', intx(NONE | TRIGGER, { index: 5 }), 'EINVAL'],
    ['count 0 of mask', intx(NONE | MASK, { count: 0 }), 'EINVAL'],
  ])('%s is refused', async (_name, request, errno) => {
    const { device, dev } = await opened();
    expect(errnoOf(() => device.setIrqs(request))).toBe(errno);
    expect(dev.irqs.type).toBe(5);
  });

  test('masking by an eventfd is ENOTTY, and the eventfd is let go of', async () => {
    const { device } = await opened();
    enable(device);
    const trigger = new CountingTrigger();
    expect(errnoOf(() => device.setIrqs(intx(EVENTFD | MASK, { triggers: [trigger] })))).toBe('ENOTTY');
    expect(trigger.releases).toBe(1);
  });

  test('without a pin is EINVAL, also to disable it', async () => {
    const { device } = await opened({ intxPin: 0 });
    expect(device.getIrqInfo(0).count).toBe(0);
    const trigger = new CountingTrigger();
    expect(errnoOf(() => enable(device, trigger))).toBe('EINVAL');
    expect(trigger.releases).toBe(1);
    expect(errnoOf(() => device.setIrqs(intx(NONE | TRIGGER, { count: 0 })))).toBe('EINVAL');
  });

  test('whose line goes away after open is ENODEV; a line that is taken is EBUSY; both leave INTx inactive', async () => {
    const { device, dev, fn } = await opened();
    const trigger = new CountingTrigger();
    fn.interrupts.intxLine = undefined;
    expect(errnoOf(() => enable(device, trigger))).toBe('ENODEV');
    fn.interrupts.intxLine = 10;
    fn.interrupts.lineTaken = true;
    const other = new CountingTrigger();
    expect(errnoOf(() => enable(device, other))).toBe('EBUSY');
    expect([trigger.releases, other.releases, dev.irqs.type]).toEqual([1, 1, 5]);
    fn.interrupts.lineTaken = false;
    enable(device);
    expect(dev.irqs.type).toBe(0);
  });

  test('of a function with broken INTx: no pin is shown, and DisINTx stays set', async () => {
    const { device, fn, dev } = await opened({ vendor: 0x8086, device: 0x1572, msiVectors: 1 });
    expect(dev.nointx).toBe(true);
    expect(device.getIrqInfo(0).count).toBe(0);
    expect(disIntx(fn)).toBe(true);
    device.setIrqs({ index: 1, flags: EVENTFD | TRIGGER, start: 0, count: 1, triggers: [new CountingTrigger()] });
    fn.config.write(PCI_COMMAND, 2, 0);
    device.setIrqs({ index: 1, flags: NONE | TRIGGER, start: 0, count: 0 });
    expect(disIntx(fn), 'after MSI, whose end clears it').toBe(true);
  });

  test('works on a device with broken INTx where nointxmask is set', async () => {
    const { device, dev } = await opened({ vendor: 0x8086, device: 0x1572 }, undefined, {
      params: { nointxmask: true },
    });
    expect(dev.nointx).toBe(false);
    expect(device.getIrqInfo(0).count).toBe(1);
  });
});

test('INTx is known to be broken on the Intel 700 series and the X550, and on nobody else', () => {
  const made = new FakeFunction(new FakeHost());
  const isBroken = (vendor: number, device: number) =>
    isNointxDevice(Object.assign(Object.create(made), { vendor, device }));
  const broken = Array.from({ length: 0x1_0000 }, (_, device) => device).filter((device) => isBroken(0x8086, device));
  expect(broken).toEqual([
    ...[0x1563, 0x1572, 0x1574, 0x1580, 0x1581],
    ...[0x1583, 0x1584, 0x1585, 0x1586, 0x1587, 0x1588, 0x1589, 0x158a, 0x158b],
    ...[0x37d0, 0x37d1, 0x37d2],
  ]);
  expect(isBroken(0x1234, 0x1572)).toBe(false);
});

test('closing the device frees the line and the triggers', async () => {
  const { device, fn } = await opened();
  const trigger = new CountingTrigger();
  enable(device, trigger);
  await device.close();
  expect(trigger.releases).toBe(1);
  expect(fn.interrupts.intx).toBeUndefined();
});

test('the DisINTx of the last user is not that of the next', async () => {
  const { dev, device, fn } = await opened();
  await userDisIntx(device, true);
  await device.close();
  const next = await dev.open();
  const trigger = new CountingTrigger();
  enable(next, trigger);
  fn.setIntx(true);
  expect(trigger.signals).toBe(1);
});
