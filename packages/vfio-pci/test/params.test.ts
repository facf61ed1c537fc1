import { deviceOf, OpsRegistry, PciBus, type RegisterSpace, type VfioPciCoreDevice } from '@vfio/core';
import { Edu, EmulatedPciHost, type FunctionContext } from '@vfio/emulated';
import {
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_VGA_REGION_INDEX,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { type VfioPciOptions, vfioPciDriver } from '../src/index.js';

const ADDRESS = '0000:00:04.0';

/** A bus with one function and the generic driver. */
async function bench(model: (ctx: FunctionContext) => object = (ctx) => new Edu(ctx), options: VfioPciOptions = {}) {
  const host = new EmulatedPciHost();
  const fn = host.add({ address: ADDRESS, model });
  const told: string[] = [];
  const bus = new PciBus(host, { ops: new OpsRegistry(), warn: ({ message }) => void told.push(message) });
  const driver = vfioPciDriver(options);
  const skipped = await driver.load(bus);
  return { host, fn, bus, driver, skipped, told };
}

const sleeper = (ctx: FunctionContext) => new Edu(ctx, { express: true });

describe('parameters', () => {
  test('have the kernel’s defaults: no ids, every switch off', () => {
    const { params } = vfioPciDriver();
    expect(params.ids).toBe('');
    for (const name of ['nointxmask', 'disableVga', 'disableIdleD3', 'enableSriov', 'disableDenylist'] as const)
      expect(params.get(name)).toBe(false);
  });

  test.each([
    ['nointxmask', undefined],
    ['disableIdleD3', undefined],
    ['enableSriov', undefined],
    ['disableVga', 'EACCES'],
    ['disableDenylist', 'EACCES'],
    ['ids', 'ENOENT'],
    ['nonsense', 'ENOENT'],
  ])('%s set while the driver lives gives %s', (name, errno) => {
    const { params } = vfioPciDriver();
    const set = () => params.set(name, 'Y');
    if (errno === undefined) expect(set).not.toThrow();
    else expect(set).toThrow(expect.objectContaining({ errno }));
  });

  test('belong to one driver: another one has its own', () => {
    const [first, second] = [vfioPciDriver(), vfioPciDriver()];
    first.params.set('enableSriov', true);
    expect(second.params.get('enableSriov')).toBe(false);
  });
});

describe('ids', () => {
  test('what it names is taken without an override; a bad item is skipped and told', async () => {
    const { bus, fn, driver, skipped } = await bench(undefined, { ids: '8086:1572,nonsense,1234:11e8' });
    expect(bus.driverOf(fn)).toBe(driver);
    expect(skipped).toEqual([expect.stringContaining('nonsense')]);
  });

  test.each([
    ['1234:11e8:1af4:1100', true],
    ['1234:11e8:1af4:1101', false],
    ['1234:11e8:ffffffff:ffffffff:00ff00:ffff00', true],
    ['1234:11e8:ffffffff:ffffffff:020000:ff0000', false],
  ])('%s takes an edu: %s', async (ids, isTaken) => {
    const { bus, fn, driver } = await bench(undefined, { ids });
    expect(bus.driverOf(fn)).toBe(isTaken ? driver : undefined);
  });

  test('of more than 1023 characters is refused with ENOSPC', () => {
    const ids = '1234:11e8,'.repeat(103).slice(0, 1023);
    expect(vfioPciDriver({ ids }).params.ids).toHaveLength(1023);
    expect(() => vfioPciDriver({ ids: `${ids},` })).toThrow(expect.objectContaining({ errno: 'ENOSPC' }));
  });
});

describe('nointxmask', () => {
  /** Enables and masks INTx; whether the function’s own DisINTx does the masking. */
  async function masksAtDevice(device: VfioPciCoreDevice, fn: { config: { read(at: number, width: 2): number } }) {
    const opened = await device.open();
    const request = { index: 0, start: 0, count: 1 };
    opened.setIrqs({
      ...request,
      flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
      triggers: [null],
    });
    opened.setIrqs({ ...request, flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK });
    const isMasked = (fn.config.read(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) !== 0;
    opened.setIrqs({ ...request, flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK });
    await opened.close();
    return isMasked;
  }

  test('keeps masking away from the device; latched when the device is probed', async () => {
    const { bus, fn, driver } = await bench();
    await bus.bindOverride(fn, 'vfio-pci');
    driver.params.set('nointxmask', true);
    expect(await masksAtDevice(deviceOf(bus, fn), fn)).toBe(true);
    await bus.unbind(fn);
    await bus.bindOverride(fn, 'vfio-pci');
    driver.params.set('nointxmask', false);
    expect(await masksAtDevice(deviceOf(bus, fn), fn)).toBe(false);
  });
});

describe('disableIdleD3', () => {
  test('keeps a function awake that nobody uses; latched when the device is probed', async () => {
    const { bus, fn, driver } = await bench(sleeper);
    await bus.bindOverride(fn, 'vfio-pci');
    expect(fn.powerState).toBe(3);
    driver.params.set('disableIdleD3', 'Y');
    const opened = await deviceOf(bus, fn).open();
    expect(fn.powerState).toBe(0);
    await opened.close();
    expect(fn.powerState).toBe(3);
    await bus.unbind(fn);
    await bus.bindOverride(fn, 'vfio-pci');
    expect(fn.powerState).toBe(0);
    await (await deviceOf(bus, fn).open()).close();
    expect(fn.powerState).toBe(0);
  });
});

describe('disableVga', () => {
  test.each([false, true])('%s: the legacy ranges of a VGA function are offered or not', async (disableVga) => {
    const vga = (ctx: FunctionContext) => ctx.identity({ vendor: 0x1234, device: 0x1111, class: 0x030000 }) ?? {};
    const { bus, fn } = await bench(vga, { disableVga });
    const space: RegisterSpace = { size: 0xc0000, mmapAreas: [], read: () => 0x5a, write() {} };
    Object.defineProperty(fn, 'vga', { value: space });
    await bus.bindOverride(fn, 'vfio-pci');
    const opened = await deviceOf(bus, fn).open();
    const bytes = new Uint8Array(1);
    if (disableVga) {
      expect(() => opened.getRegionInfo(VFIO_PCI_VGA_REGION_INDEX)).toThrow(
        expect.objectContaining({ errno: 'EINVAL' }),
      );
    } else {
      expect(opened.getRegionInfo(VFIO_PCI_VGA_REGION_INDEX).size).toBe(0xc0000);
      expect(opened.read(VFIO_PCI_VGA_REGION_INDEX, 0x3c0, bytes)).toBe(1);
      expect(bytes[0]).toBe(0x5a);
    }
    await opened.close();
  });
});

describe('disableDenylist', () => {
  test.each(['19e2', '19e3', '37c8', '37c9', '0435', '0443', '0b25', '0cfe'])(
    'takes Intel %s, which is refused with EINVAL otherwise and stays free',
    async (id) => {
      const device = Number.parseInt(id, 16);
      const model = (ctx: FunctionContext) => ctx.identity({ vendor: 0x8086, device, class: 0x0b4000 }) ?? {};
      const refused = await bench(model);
      await expect(refused.bus.bindOverride(refused.fn, 'vfio-pci')).rejects.toMatchObject({
        errno: 'EINVAL',
        device: ADDRESS,
        message: expect.stringContaining('denylist'),
      });
      expect(refused.bus.driverOf(refused.fn)).toBeUndefined();

      const { bus, fn, driver } = await bench(model, { disableDenylist: true });
      await bus.bindOverride(fn, 'vfio-pci');
      expect(bus.driverOf(fn)).toBe(driver);
    },
  );
});
