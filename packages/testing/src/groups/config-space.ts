import {
  PCI_BASE_ADDRESS_0,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_INTERRUPT_LINE,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_VENDOR_ID,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';
import { bars, capabilities, findCapability, readBytes, readConfig, writeConfig } from '../access.js';
import { check, equal, fails, sameBytes } from '../assert.js';
import type { RuleGroup } from '../contract.js';

export const configSpace: RuleGroup = {
  group: 'config space',
  rules: {
    'bus mastering is off at open, and follows the COMMAND register': async (device) => {
      const command = await readConfig(device, PCI_COMMAND, 2);
      equal(command & PCI_COMMAND_MASTER, 0, 'MASTER at open');
      await writeConfig(device, PCI_COMMAND, 2, command | PCI_COMMAND_MASTER);
      equal((await readConfig(device, PCI_COMMAND, 2)) & PCI_COMMAND_MASTER, PCI_COMMAND_MASTER, 'MASTER when set');
      await writeConfig(device, PCI_COMMAND, 2, command);
      equal((await readConfig(device, PCI_COMMAND, 2)) & PCI_COMMAND_MASTER, 0, 'MASTER when cleared');
    },
    'a write to a read-only register succeeds and changes nothing': async (device) => {
      const ids = await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, PCI_VENDOR_ID, 4);
      await writeConfig(device, PCI_VENDOR_ID, 4, 0);
      sameBytes(await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, PCI_VENDOR_ID, 4), ids, 'ids after the write');
    },
    'the header reads the same in bytes, words, dwords and at once': async (device) => {
      const whole = await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, 0, 64);
      for (const width of [1, 2, 4] as const) {
        const pieces = new Uint8Array(64);
        for (let at = 0; at < 64; at += width) {
          pieces.set(await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, at, width), at);
        }
        sameBytes(pieces, whole, `header in pieces of ${width}`);
      }
    },
    'an access past the end is refused with EFAULT and does nothing': async (device) => {
      const { size } = await device.getRegionInfo(VFIO_PCI_CONFIG_REGION_INDEX);
      await fails(() => readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, size - 2, 4), 'EFAULT', 'read across the end');
      await fails(
        () => device.write(VFIO_PCI_CONFIG_REGION_INDEX, size, new Uint8Array(1)),
        'EFAULT',
        'write past the end',
      );
    },
    'BAR sizing finds the size of each BAR, and the address comes back': async (device) => {
      for (const { index, size, io } of await bars(device)) {
        const at = PCI_BASE_ADDRESS_0 + 4 * index;
        const before = await readConfig(device, at, 4);
        await writeConfig(device, at, 4, 0xffffffff);
        const mask = await readConfig(device, at, 4);
        await writeConfig(device, at, 4, before);
        const found = -(mask & (io ? ~0x3 : ~0xf)) >>> 0;
        if (size <= 0x80000000) equal(found, size, `size of BAR ${index} by sizing`);
        equal(await readConfig(device, at, 4), before, `BAR ${index} after sizing`);
      }
    },
    'the interrupt line is the guest’s to write': async (device) => {
      for (const line of [0x55, 0xaa]) {
        await writeConfig(device, PCI_INTERRUPT_LINE, 1, line);
        equal(await readConfig(device, PCI_INTERRUPT_LINE, 1), line, 'interrupt line');
      }
    },
    'the chain of capabilities ends, and lies behind the header': async (device) => {
      const chain = await capabilities(device);
      check(chain.length <= 48, 'the chain does not end');
      equal(new Set(chain.map(({ offset }) => offset)).size, chain.length, 'distinct capabilities');
    },
    'a guest cannot turn on MSI or MSI-X by itself': async (device) => {
      for (const [id, register, enable] of [
        [PCI_CAP_ID_MSI, PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE],
        [PCI_CAP_ID_MSIX, PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE],
      ] as const) {
        const at = await findCapability(device, id);
        if (at === undefined) continue;
        await writeConfig(device, at + register, 2, (await readConfig(device, at + register, 2)) | enable);
        equal((await readConfig(device, at + register, 2)) & enable, 0, `enable bit of capability ${id}`);
      }
    },
  },
};
