import { fileURLToPath } from 'node:url';
import { driverSourceOf, OpsRegistry, PciBus } from '@vfio/core';
import { buildAliasFiles } from '@vfio/core/node';
import { EmulatedPciHost, StubDevice } from '@vfio/emulated';
import { expect, test } from 'vitest';
import { driver, igdVfioPciDriver } from '../src/index.js';
import { generic } from './helpers/setup.js';

test.each([
  ['an Intel VGA controller', 0x8086, 0x030000, 'igd_vfio_pci'],
  ['an Intel display that is not VGA', 0x8086, 0x038000, 'igd_vfio_pci'],
  ['an Intel 3D controller', 0x8086, 0x030200, 'igd_vfio_pci'],
  ['a VGA controller of somebody else', 0x1002, 0x030000, 'vfio-pci'],
  ['an Intel network controller', 0x8086, 0x020000, 'vfio-pci'],
])('the alias index gives %s to its best driver', async (_what, vendor, deviceClass, winner) => {
  const host = new EmulatedPciHost();
  const fn = host.add({
    address: '0000:00:02.0',
    model: (ctx) => new StubDevice(ctx, { identity: { vendor, device: 0x3e92, class: deviceClass } }),
  });
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  expect((await bus.bindBest(fn, driverSourceOf([generic, igdVfioPciDriver()]))).name).toBe(winner);
});

test('its alias file is made from the table, under the name that driver_override takes', async () => {
  const built = await buildAliasFiles(fileURLToPath(new URL('..', import.meta.url)), {
    check: true,
    conditions: ['@vfio/source', 'node', 'import', 'default'],
  });
  expect(built).toMatchObject([{ path: 'dist/modules.alias', drivers: [driver.name], warnings: [] }]);
  expect(built[0]?.content.split('\n')).toContain('alias vfio_pci:v00008086d*sv*sd*bc03sc*i* igd_vfio_pci');
});
