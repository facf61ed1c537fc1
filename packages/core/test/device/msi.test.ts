import {
  VFIO_IRQ_SET_DATA_BOOL as BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD as EVENTFD,
  VFIO_IRQ_SET_ACTION_MASK as MASK,
  VFIO_IRQ_SET_DATA_NONE as NONE,
  PCI_COMMAND,
  VFIO_IRQ_SET_ACTION_TRIGGER as TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK as UNMASK,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { EventTrigger, VfioDevice } from '../../src/index.js';
import { MSI_AT, PM_AT } from './fake-function.js';
import { CountingTrigger, enableMemory, errnoOf, opened } from './helpers.js';

const MSI = 1;
const MSIX = 2;

function counting(count: number): CountingTrigger[] {
  return Array.from({ length: count }, () => new CountingTrigger());
}

function set(device: VfioDevice, index: number, start: number, triggers: readonly (EventTrigger | null)[]): number {
  return device.setIrqs({ index, flags: EVENTFD | TRIGGER, start, count: triggers.length, triggers });
}

function disable(device: VfioDevice, index: number): number {
  return device.setIrqs({ index, flags: NONE | TRIGGER, start: 0, count: 0 });
}

const BOTH = { msiVectors: 4, msixVectors: 16 };

describe.each([
  ['MSI', MSI, 'msi' as const],
  ['MSI-X', MSIX, 'msix' as const],
])('%s', (_name, index, type) => {
  test('allocates start + count vectors at the first call and signals each through its trigger', async () => {
    const { device, fn, dev } = await opened(BOTH);
    const [a, b] = counting(2);
    expect(set(device, index, 1, [a!, b!])).toBe(0);
    expect(fn.interrupts.type).toBe(type);
    expect(fn.interrupts.vectors.size).toBe(3);
    expect(dev.irqs.type).toBe(index);
    fn.interrupts.fire(0);
    fn.interrupts.fire(1);
    fn.interrupts.fire(2);
    fn.interrupts.fire(2);
    expect([a!.signals, b!.signals]).toEqual([1, 2]);
  });

  test('with fewer vectors than asked gives their number and changes nothing', async () => {
    const { device, fn, dev } = await opened(BOTH);
    fn.interrupts.available = 2;
    const triggers = counting(4);
    expect(set(device, index, 0, triggers)).toBe(2);
    expect(dev.irqs.type).toBe(5);
    expect(fn.interrupts.vectors.size).toBe(0);
    expect(triggers.map((trigger) => trigger.releases)).toEqual([1, 1, 1, 1]);
    expect(set(device, index, 0, counting(2))).toBe(0);
  });

  test('with none to be had is ENOSPC', async () => {
    const { device, fn } = await opened(BOTH);
    fn.interrupts.available = 0;
    const [trigger] = counting(1);
    expect(errnoOf(() => set(device, index, 0, [trigger!]))).toBe('ENOSPC');
    expect(trigger!.releases).toBe(1);
  });

  test('of no vectors at all is ERANGE', async () => {
    const { device } = await opened(BOTH);
    expect(errnoOf(() => set(device, index, 0, []))).toBe('ERANGE');
  });

  test('while active replaces and removes single triggers', async () => {
    const { device, fn } = await opened(BOTH);
    const first = counting(3);
    set(device, index, 0, first);
    const [again] = counting(1);
    set(device, index, 1, [again!, null]);
    expect(first.map((trigger) => trigger.releases)).toEqual([0, 1, 1]);
    fn.interrupts.fire(1);
    fn.interrupts.fire(2);
    expect([first[1]!.signals, again!.signals, first[2]!.signals]).toEqual([0, 1, 0]);
    expect(fn.interrupts.vectors.size, 'the vector itself stays').toBe(3);
    set(device, index, 2, [first[2]!]);
    fn.interrupts.fire(2);
    expect(first[2]!.signals).toBe(1);
  });

  test('whose first call fails on the way is disabled again, every trigger let go of', async () => {
    const { device, fn, dev } = await opened(BOTH);
    fn.interrupts.failVector = 1;
    const triggers = counting(3);
    expect(errnoOf(() => set(device, index, 0, triggers))).toBe('ENOSPC');
    expect(dev.irqs.type).toBe(5);
    expect(fn.interrupts.vectors.size).toBe(0);
    expect(triggers.map((trigger) => trigger.releases)).toEqual([1, 1, 1]);
  });

  test('whose later call fails on the way loses every vector from the first to the failing one', async () => {
    const { device, fn, dev } = await opened(BOTH);
    const old = counting(4);
    set(device, index, 0, old);
    fn.interrupts.failVector = 2;
    const fresh = counting(3);
    expect(errnoOf(() => set(device, index, 1, fresh))).toBe('ENOSPC');
    expect(dev.irqs.type).toBe(index);
    expect(old.map((trigger) => trigger.releases)).toEqual([0, 1, 1, 0]);
    expect(fresh.map((trigger) => trigger.releases)).toEqual([1, 1, 1]);
    fn.interrupts.fire(0);
    fn.interrupts.fire(1);
    fn.interrupts.fire(3);
    expect(
      old.map((trigger) => trigger.signals),
      'vector 3 was not reached',
    ).toEqual([1, 0, 0, 1]);
  });

  test('by loopback signals vectors that have a trigger and skips the others', async () => {
    const { device } = await opened(BOTH);
    const [a, c] = counting(2);
    set(device, index, 0, [a!, null, c!]);
    device.setIrqs({ index, flags: NONE | TRIGGER, start: 0, count: 3 });
    device.setIrqs({ index, flags: BOOL | TRIGGER, start: 1, count: 2, bools: Uint8Array.of(1, 0) });
    device.setIrqs({ index, flags: BOOL | TRIGGER, start: 1, count: 2, bools: Uint8Array.of(0, 1) });
    expect([a!.signals, c!.signals]).toEqual([1, 2]);
  });

  test('disabled lets go of everything, and another type can be active', async () => {
    const { device, fn } = await opened(BOTH);
    const triggers = counting(2);
    set(device, index, 0, triggers);
    expect(disable(device, index)).toBe(0);
    expect(triggers.map((trigger) => trigger.releases)).toEqual([1, 1]);
    expect(fn.interrupts.type).toBeUndefined();
    expect(errnoOf(() => disable(device, index))).toBe('EINVAL');
    const other = index === MSI ? MSIX : MSI;
    expect(set(device, other, 0, counting(1))).toBe(0);
  });

  test('is EINVAL while another type is active, and that stays', async () => {
    const { device, dev } = await opened(BOTH);
    const other = index === MSI ? MSIX : MSI;
    set(device, other, 0, counting(1));
    const [trigger] = counting(1);
    expect(errnoOf(() => set(device, index, 0, [trigger!]))).toBe('EINVAL');
    expect(errnoOf(() => disable(device, index))).toBe('EINVAL');
    expect(
      errnoOf(() => device.setIrqs({ index: 0, flags: EVENTFD | TRIGGER, start: 0, count: 1, triggers: [null] })),
    ).toBe('EINVAL');
    expect(trigger!.releases).toBe(1);
    expect(dev.irqs.type).toBe(other);
  });

  test.each([
    ['loopback while inactive', { flags: NONE | TRIGGER, start: 0, count: 1 }, 'EINVAL'],
    ['mask', { flags: NONE | MASK, start: 0, count: 1 }, 'ENOTTY'],
    ['unmask', { flags: NONE | UNMASK, start: 0, count: 1 }, 'ENOTTY'],
    ['a start beyond the vectors', { flags: NONE | TRIGGER, start: 16, count: 0 }, 'EINVAL'],
    ['more than there are', { flags: NONE | TRIGGER, start: 1, count: 16 }, 'EINVAL'],
  ])('%s is refused', async (_what, rest, errno) => {
    const { device } = await opened({ msiVectors: 16, msixVectors: 16 });
    expect(errnoOf(() => device.setIrqs({ index, ...rest }))).toBe(errno);
  });

  test('keeps working over a function reset: messages are written again', async () => {
    const { device, fn } = await opened(BOTH);
    const [trigger] = counting(1);
    set(device, index, 0, [null, trigger!]);
    fn.interrupts.rewritten = [];
    await device.reset();
    expect(fn.interrupts.rewritten).toContain(1);
    fn.interrupts.fire(1);
    expect(trigger!.signals).toBe(1);
  });

  test('keeps working over D3hot of a function that forgets: messages are written again', async () => {
    const { device, fn } = await opened({ ...BOTH, pm: true });
    set(device, index, 0, [null, counting(1)[0]!]);
    await device.write(7, PM_AT + 4, Uint8Array.of(3));
    fn.interrupts.rewritten = [];
    await device.write(7, PM_AT + 4, Uint8Array.of(0));
    expect(fn.interrupts.rewritten).toEqual([1]);
  });
});

test('a function has as many MSI vectors as MMC says, and as many MSI-X as its table', async () => {
  const { device } = await opened(BOTH);
  expect([device.getIrqInfo(MSI).count, device.getIrqInfo(MSIX).count]).toEqual([4, 16]);
  const none = await opened();
  expect([none.device.getIrqInfo(MSI).count, none.device.getIrqInfo(MSIX).count]).toEqual([0, 0]);
});

describe('vectors beyond those that were allocated', () => {
  test('of MSI are EINVAL, and what the call had set before is gone', async () => {
    const { device } = await opened(BOTH);
    const old = counting(2);
    set(device, MSI, 0, old);
    const fresh = counting(2);
    expect(errnoOf(() => set(device, MSI, 1, fresh))).toBe('EINVAL');
    expect(old.map((trigger) => trigger.releases)).toEqual([0, 1]);
    expect(fresh.map((trigger) => trigger.releases)).toEqual([1, 1]);
  });

  test('of MSI-X are added on demand where the host can, and kept until it is disabled', async () => {
    const { device, fn } = await opened(BOTH);
    expect(device.getIrqInfo(MSIX).flags).toBe(1);
    set(device, MSIX, 0, counting(2));
    const [late] = counting(1);
    set(device, MSIX, 9, [late!]);
    expect([...fn.interrupts.vectors.keys()]).toEqual([0, 1, 9]);
    expect(fn.interrupts.rewritten).toContain(9);
    fn.interrupts.fire(9);
    expect(late!.signals).toBe(1);
    set(device, MSIX, 9, [null]);
    expect(fn.interrupts.vectors.has(9)).toBe(true);
    set(device, MSIX, 9, counting(1));
    disable(device, MSIX);
    expect(fn.interrupts.vectors.size).toBe(0);
    set(device, MSIX, 0, counting(1));
    expect([...fn.interrupts.vectors.keys()]).toEqual([0]);
    set(device, MSIX, 9, counting(1));
    expect([...fn.interrupts.vectors.keys()], 'added anew').toEqual([0, 9]);
  });

  test('of MSI-X that cannot be added give the host its errno', async () => {
    const { device, fn } = await opened(BOTH);
    set(device, MSIX, 0, counting(2));
    fn.interrupts.available = 2;
    const [late] = counting(1);
    expect(errnoOf(() => set(device, MSIX, 9, [late!]))).toBe('ENOSPC');
    expect(late!.releases).toBe(1);
  });

  test('of MSI-X are EINVAL where the host cannot add them, and the info says NORESIZE', async () => {
    const { fn, dev, device } = await opened(BOTH);
    await device.close();
    fn.interrupts.dynamicMsix = false;
    const again = await dev.open();
    expect(again.getIrqInfo(MSIX).flags).toBe(9);
    set(again, MSIX, 0, counting(2));
    expect(errnoOf(() => set(again, MSIX, 2, counting(1)))).toBe('EINVAL');
    expect(
      again.setIrqs({ index: MSIX, flags: EVENTFD | TRIGGER, start: 5, count: 1, triggers: [null] }),
      '-1 frees nothing',
    ).toBe(0);
    await again.close();
  });

  test('are none of a function without MSI-X, whose info says NORESIZE', async () => {
    const { device } = await opened();
    expect(device.getIrqInfo(MSIX)).toEqual({ index: MSIX, flags: 9, count: 0 });
  });
});

test('MSI enabling limits the QSIZE that the user can write to ceil(log2(vectors)), until the close', async () => {
  const { dev, device, fn } = await opened({ msiVectors: 32 });
  const written = async (to: VfioDevice) => {
    await to.write(7, MSI_AT + 2, Uint8Array.of(0x51, 0));
    return (fn.config.read(MSI_AT + 2, 2) >> 4) & 7;
  };
  expect(await written(device), 'before any enabling').toBe(0);
  set(device, MSI, 0, counting(5));
  expect(await written(device)).toBe(3);
  disable(device, MSI);
  expect(await written(device), 'as it was when MSI was last enabled').toBe(3);
  await device.close();
  expect(await written(await dev.open())).toBe(0);
});

test('vectors are set up with memory decode on, whatever the user has, and that is as before afterwards', async () => {
  const { device, fn } = await opened(BOTH);
  await device.write(7, PCI_COMMAND, Uint8Array.of(0, 0));
  const seen: string[] = [];
  const decode = () => fn.config.read(PCI_COMMAND, 2) & 2;
  const { interrupts } = fn;
  for (const name of ['allocVectors', 'allocMsixAt', 'setVectorHandler', 'freeVectors'] as const) {
    const original = interrupts[name].bind(interrupts) as (...args: unknown[]) => never;
    interrupts[name] = (...args: unknown[]) => {
      seen.push(`${name} ${decode()}`);
      return original(...args);
    };
  }
  set(device, MSIX, 0, counting(1));
  set(device, MSIX, 1, counting(1));
  disable(device, MSIX);
  const added = ['allocMsixAt 2', 'setVectorHandler 2'];
  const removed = ['setVectorHandler 2', 'setVectorHandler 2', 'freeVectors 2'];
  expect(seen).toEqual(['allocVectors 2', 'setVectorHandler 2', ...added, ...removed]);
  expect(fn.config.read(PCI_COMMAND, 2) & 2).toBe(0);
  await enableMemory(device);
});

test('closing the device frees vectors and triggers', async () => {
  const { device, fn } = await opened(BOTH);
  const triggers = counting(2);
  set(device, MSIX, 0, triggers);
  await device.close();
  expect(triggers.map((trigger) => trigger.releases)).toEqual([1, 1]);
  expect(fn.interrupts.vectors.size).toBe(0);
});
