import { fileURLToPath } from 'node:url';
import { driverSourceOf, OpsRegistry, PciBus, type PciFunction } from '@vfio/core';
import { buildAliasFiles } from '@vfio/core/node';
import { EmulatedPciHost, StubDevice } from '@vfio/emulated';
import { describe, expect, test } from 'vitest';
import { driver, ids, nvmeVfioPciDriver } from '../src/index.js';
import { generic } from './helpers/setup.js';

function withClass(cls: number, vendor = 0x144d) {
  const host = new EmulatedPciHost();
  const identity = { vendor, device: 0xa808, class: cls };
  const fn: PciFunction = host.add({
    address: '0000:00:03.0',
    model: (ctx) => new StubDevice(ctx, { identity, bars: { 0: { size: 0x4000 } } }),
  });
  return { bus: new PciBus(host, { ops: new OpsRegistry() }), fn };
}

describe('what the driver takes', () => {
  test('nothing that it was not asked for: a free controller stays free', async () => {
    const { bus, fn } = withClass(0x010802);
    await bus.register(nvmeVfioPciDriver());
    expect(await bus.probe(fn)).toBeUndefined();
  });

  test('a controller whose driver_override names it, by class', async () => {
    const { bus, fn } = withClass(0x010802);
    await bus.register(nvmeVfioPciDriver());
    await bus.bindOverride(fn, 'nvme_vfio_pci');
    expect(bus.driverOf(fn)?.name).toBe('nvme_vfio_pci');
    expect(bus.match('nvme_vfio_pci', fn)).toBe(ids[0]);
  });

  test.each([
    ['an NVMe controller of one vendor', 0x010802, 0x144d, 'nvme_vfio_pci'],
    ['an NVMe controller of another', 0x010802, 0x8086, 'nvme_vfio_pci'],
    ['an administrative controller (interface 03)', 0x010803, 0x144d, 'vfio-pci'],
    ['non-volatile memory with another interface', 0x010800, 0x144d, 'vfio-pci'],
    ['a SATA controller', 0x010601, 0x144d, 'vfio-pci'],
  ])('the alias index gives %s to its best driver', async (_what, cls, vendor, winner) => {
    const { bus, fn } = withClass(cls, vendor);
    // The order of the drivers does not decide.
    for (const drivers of [
      [generic, nvmeVfioPciDriver()],
      [nvmeVfioPciDriver(), generic],
    ])
      expect(driverSourceOf(drivers).best(fn)?.driver).toBe(winner);
    expect((await bus.bindBest(fn, driverSourceOf([generic, nvmeVfioPciDriver()]))).name).toBe(winner);
  });

  test('its alias file is made from the table, under the name that driver_override takes', async () => {
    const built = await buildAliasFiles(fileURLToPath(new URL('..', import.meta.url)), {
      check: true,
      conditions: ['@vfio/source', 'node', 'import', 'default'],
    });
    expect(built).toMatchObject([{ path: 'dist/modules.alias', drivers: [driver.name], warnings: [] }]);
    expect(built[0]?.content.split('\n')).toContain('alias vfio_pci:v*d*sv*sd*bc01sc08i02* nvme_vfio_pci');
  });
});
