import { PCI_COMMAND, VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';
import { decode, readBytes, readConfig } from '../access.js';
import { equal, fails, sameBytes } from '../assert.js';
import type { RuleGroup } from '../contract.js';

export const reset: RuleGroup = {
  group: 'reset',
  rules: {
    'works where the device says so, else it is refused with EINVAL': async (device) => {
      const { flags } = await device.getInfo();
      if ((flags & VFIO_DEVICE_FLAGS_RESET) !== 0) await device.reset();
      else await fails(() => device.reset(), 'EINVAL', 'reset without the RESET flag');
    },
    'leaves ids, class, BARs and COMMAND as the user has them': async (device) => {
      const { flags } = await device.getInfo();
      if ((flags & VFIO_DEVICE_FLAGS_RESET) === 0) return;
      await decode(device, true);
      const command = await readConfig(device, PCI_COMMAND, 2);
      const before = await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, 0x08, 0x20);
      await device.reset();
      sameBytes(await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, 0x08, 0x20), before, 'class to BARs');
      equal(await readConfig(device, PCI_COMMAND, 2), command, 'COMMAND');
    },
    'can be done again and again': async (device) => {
      const { flags } = await device.getInfo();
      if ((flags & VFIO_DEVICE_FLAGS_RESET) === 0) return;
      for (let n = 0; n < 5; n++) await device.reset();
    },
  },
};
