import { pciMatchOneDevice, tableToAliases } from '@vfio/core';
import {
  PCI_CLASS_REVISION,
  PCI_DEVICE_ID,
  PCI_ID_F_VFIO_DRIVER_OVERRIDE,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
} from '@vfio/uapi';
import { readConfig } from '../access.js';
import { check, equal, notApplicable } from '../assert.js';
import type { ContractOptions, RuleGroup } from '../contract.js';

const NO_DRIVER = 'the suite was not told the driver';

/** A rule about a driver and a function, for which no device is needed. */
const ofDriver =
  (rule: (about: NonNullable<ContractOptions['driver']>) => void) =>
  async (_: unknown, { driver }: ContractOptions) => {
    if (driver === undefined) notApplicable(NO_DRIVER);
    rule(driver);
  };

export const identity: RuleGroup = {
  group: 'identity',
  rules: {
    'is a PCI device with at least the regions and interrupts that every one has': async (device) => {
      const info = await device.getInfo();
      equal(info.flags & ~VFIO_DEVICE_FLAGS_RESET, VFIO_DEVICE_FLAGS_PCI, 'flags, RESET left aside');
      check(
        info.numRegions >= VFIO_PCI_NUM_REGIONS,
        `${info.numRegions} regions, at least ${VFIO_PCI_NUM_REGIONS} are wanted`,
      );
      check(info.numIrqs >= VFIO_PCI_NUM_IRQS, `${info.numIrqs} interrupts, at least ${VFIO_PCI_NUM_IRQS} are wanted`);
    },
    'tells the same of itself each time': async (device) => {
      const info = await device.getInfo();
      equal(text(await device.getInfo()), text(info), 'info');
      for (let index = 0; index < info.numRegions; index++) {
        const ask = () => device.getRegionInfo(index).catch((error: { errno?: string }) => error.errno);
        equal(text(await ask()), text(await ask()), `region ${index}`);
      }
      for (let index = 0; index < info.numIrqs; index++) {
        equal(text(await device.getIrqInfo(index)), text(await device.getIrqInfo(index)), `interrupt ${index}`);
      }
    },
    'each region and interrupt says its own index': async (device) => {
      const { numRegions, numIrqs } = await device.getInfo();
      for (let index = 0; index < numRegions; index++) {
        const info = await device.getRegionInfo(index).catch(() => undefined);
        if (info !== undefined) equal(info.index, index, 'index of a region');
      }
      for (let index = 0; index < numIrqs; index++)
        equal((await device.getIrqInfo(index)).index, index, 'index of an interrupt');
    },
    'each capability of its infos has an id and a version, and comes once': async (device) => {
      const { numRegions, caps } = await device.getInfo();
      const chains: (readonly { readonly id: number; readonly version: number }[])[] = [caps];
      for (let index = 0; index < numRegions; index++)
        chains.push((await device.getRegionInfo(index).catch(() => undefined))?.caps ?? []);
      for (const chain of chains) {
        for (const { id, version } of chain)
          check(id > 0 && id < 0x10000 && version > 0, `capability ${id}, version ${version}`);
        equal(new Set(chain.map(({ id }) => id)).size, chain.length, 'different capabilities');
      }
    },
    'has the ids and the class of its function': async (device, { driver }) => {
      if (driver === undefined) notApplicable(NO_DRIVER);
      const { vendor, device: id, subvendor, subdevice, class: code } = driver.function;
      equal(await readConfig(device, PCI_VENDOR_ID, 2), vendor, 'vendor id');
      equal(await readConfig(device, PCI_DEVICE_ID, 2), id, 'device id');
      equal(await readConfig(device, PCI_SUBSYSTEM_VENDOR_ID, 2), subvendor, 'subsystem vendor id');
      equal(await readConfig(device, PCI_SUBSYSTEM_ID, 2), subdevice, 'subsystem id');
      equal(Math.floor((await readConfig(device, PCI_CLASS_REVISION, 4)) / 256), code, 'class');
    },
    'its driver is for its function: a row of its table matches': ofDriver(({ driver, function: fn }) => {
      check(
        driver.idTable.some((id) => pciMatchOneDevice(id, fn)),
        'no row matches',
      );
    }),
    'its driver takes nothing that it was not asked for: every row is override_only': ofDriver(({ driver }) => {
      for (const [row, id] of driver.idTable.entries())
        equal(id.overrideOnly, PCI_ID_F_VFIO_DRIVER_OVERRIDE, `override_only of row ${row}`);
    }),
    'its driver can be found: every row of its table has an alias': ofDriver(({ driver }) => {
      const { aliases, warnings } = tableToAliases(driver.idTable);
      equal(warnings.length, 0, `rows without an alias (${warnings.map(({ message }) => message).join('; ')})`);
      check(aliases.length > 0, 'the table has no row');
    }),
    'its driver has a name that fits an alias file and a path': ofDriver(({ driver }) => {
      check(/^[A-Za-z0-9_-]+$/.test(driver.name), `driver name "${driver.name}"`);
    }),
  },
};

/** Infos compare as text; bytes of capabilities too. */
const text = (info: unknown): string => JSON.stringify(info);
