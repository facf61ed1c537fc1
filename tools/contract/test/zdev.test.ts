/** On s390 every function is zPCI: its facts are added to the device of another driver, which loses nothing by it. */
import { deviceOf, OpsRegistry, PciBus, ZPCI } from '@vfio/core';
import { ConnectX, Edu, EmulatedPciHost, EmulatedZpci } from '@vfio/emulated';
import { mlx5VfioPciDriver } from '@vfio/mlx5-vfio-pci';
import { mlx5CoreDriver } from '@vfio/mlx5-vfio-pci/hca';
import { describeVariantDriver } from '@vfio/testing';
import { VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_MIGRATION } from '@vfio/uapi';
import { zdevExtension, zdevVfioPciDriver } from '@vfio/zdev';
import { describe, expect, test } from 'vitest';
import { bound, handles, local } from '../src/subjects.js';

test('a ConnectX virtual function on zPCI migrates, and has the capabilities', async () => {
  const host = new EmulatedPciHost();
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  const pf = host.add({ address: '0000:01:00.0', model: (ctx) => new ConnectX(ctx) });
  const ops = new OpsRegistry();
  ops.addExtension(zdevExtension);
  const bus = new PciBus(host, { ops });
  await bus.register(mlx5CoreDriver());
  await bus.register(mlx5VfioPciDriver());
  await bus.bindOverride(pf, 'mlx5_core');
  host.watch({
    added: (fn) => {
      const emulated = host.find(fn.address);
      emulated?.facts.set(ZPCI, new EmulatedZpci({ vfn: 1 }));
    },
  });
  await bus.sriovConfigure(pf, 1);
  const vf = host.find('0000:01:00.1')!;
  await bus.bindOverride(vf, 'mlx5_vfio_pci');
  const opened = await deviceOf(bus, vf).open();
  expect(opened.name).toBe('mlx5-vfio-pci');
  expect(opened.getInfo().caps.map(({ id }) => id)).toEqual([1, 2, 4]);
  expect(await opened.deviceFeature({ flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION })).toBeDefined();
  await opened.close();
  await bus.close();
});

describe('zdev_vfio_pci on edu', () => {
  const host = new EmulatedPciHost();
  const fn = host.add({
    address: '0000:00:02.0',
    model: (ctx) => new Edu(ctx),
    platform: [[ZPCI, new EmulatedZpci()]],
  });
  const driver = zdevVfioPciDriver();
  const device = bound(host, fn, driver);
  const runner = { describe, test, skip: (name: string) => test.skip(name, () => {}) };
  const open = async () => local(await device);
  describeVariantDriver(runner, { name: 'called directly', driver: { driver, function: fn }, handles, open });
});
