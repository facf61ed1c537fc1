import { tableToAliases } from '@vfio/core';
import {
  PCI_DEVICE_ID,
  PCI_ID_F_VFIO_DRIVER_OVERRIDE,
  PCI_VENDOR_ID,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
} from '@vfio/uapi';
import { readConfig } from '../access.js';
import { check, equal } from '../assert.js';
import type { RuleGroup } from '../contract.js';

export const identity: RuleGroup = {
  group: 'identity',
  rules: {
    'is a PCI device with at least the regions and interrupts that every one has': async (device) => {
      const info = await device.getInfo();
      check((info.flags & VFIO_DEVICE_FLAGS_PCI) !== 0, 'VFIO_DEVICE_FLAGS_PCI is not set');
      check(
        info.numRegions >= VFIO_PCI_NUM_REGIONS,
        `${info.numRegions} regions, at least ${VFIO_PCI_NUM_REGIONS} are wanted`,
      );
      check(info.numIrqs >= VFIO_PCI_NUM_IRQS, `${info.numIrqs} interrupts, at least ${VFIO_PCI_NUM_IRQS} are wanted`);
    },
    'tells the same of itself each time': async (device) => {
      equal(JSON.stringify(await device.getInfo()), JSON.stringify(await device.getInfo()), 'info');
      for (let index = 0; index < 8; index++) {
        const once = JSON.stringify(await device.getRegionInfo(index));
        equal(JSON.stringify(await device.getRegionInfo(index)), once, `region ${index}`);
      }
    },
    'has the ids of its function': async (device, { driver }) => {
      if (driver === undefined) return;
      equal(await readConfig(device, PCI_VENDOR_ID, 2), driver.function.vendor, 'vendor id');
      equal(await readConfig(device, PCI_DEVICE_ID, 2), driver.function.device, 'device id');
    },
    'its driver takes nothing that it was not asked for: every row is override_only': async (_, { driver }) => {
      if (driver === undefined) return;
      for (const [row, id] of driver.driver.idTable.entries()) {
        equal(id.overrideOnly, PCI_ID_F_VFIO_DRIVER_OVERRIDE, `override_only of row ${row}`);
      }
    },
    'its driver can be found: every row of its table has an alias': async (_, { driver }) => {
      if (driver === undefined) return;
      const { aliases, warnings } = tableToAliases(driver.driver.idTable);
      equal(warnings.length, 0, `rows without an alias (${warnings.map(({ message }) => message).join('; ')})`);
      check(aliases.length > 0, 'the table has no row');
    },
    'its driver needs a name that fits an alias file and a path': async (_, { driver }) => {
      if (driver === undefined) return;
      check(/^[A-Za-z0-9_-]+$/.test(driver.driver.name), `driver name "${driver.driver.name}"`);
    },
  },
};
