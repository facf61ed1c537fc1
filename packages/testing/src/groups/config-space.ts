import type { VfioDeviceClient } from '@vfio/core';
import {
  PCI_BASE_ADDRESS_0,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CAPABILITY_LIST,
  PCI_CLASS_REVISION,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_MASTER,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_HEADER_TYPE,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_TABLE,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
  PCI_ROM_ADDRESS,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
} from '@vfio/uapi';
import {
  bars,
  capabilities,
  decode,
  extendedCapabilities,
  findCapability,
  MAX_CAPABILITIES,
  MAX_EXTENDED,
  readBytes,
  readConfig,
  setCommand,
  writeConfig,
} from '../access.js';
import { check, equal, fails, notApplicable, sameBytes } from '../assert.js';
import type { RuleGroup } from '../contract.js';

const CONFIG = VFIO_PCI_CONFIG_REGION_INDEX;
const HEADER_SIZE = 64;

/** Registers that no write changes, with the widest access to each. */
const READ_ONLY: readonly (readonly [name: string, offset: number, width: 1 | 2 | 4])[] = [
  ['ids', PCI_VENDOR_ID, 4],
  ['class and revision', PCI_CLASS_REVISION, 4],
  ['header type', PCI_HEADER_TYPE, 1],
  ['subsystem ids', PCI_SUBSYSTEM_VENDOR_ID, 4],
  ['capability pointer', PCI_CAPABILITY_LIST, 1],
  ['interrupt pin', PCI_INTERRUPT_PIN, 1],
];

/** What a register reads after all ones were written to it, and puts back what was there. */
async function afterOnes(device: VfioDeviceClient, offset: number): Promise<number> {
  const before = await readConfig(device, offset, 4);
  await writeConfig(device, offset, 4, 0xffffffff);
  const mask = await readConfig(device, offset, 4);
  await writeConfig(device, offset, 4, before);
  equal(await readConfig(device, offset, 4), before, `register 0x${offset.toString(16)} after sizing`);
  return mask;
}

/** Checks that a bit of COMMAND is the user's. */
async function follows(device: VfioDeviceClient, bit: number, what: string): Promise<void> {
  await setCommand(device, bit);
  equal((await readConfig(device, PCI_COMMAND, 2)) & bit, bit, `${what} when set`);
  await setCommand(device, 0, bit);
  equal((await readConfig(device, PCI_COMMAND, 2)) & bit, 0, `${what} when cleared`);
}

export const configSpace: RuleGroup = {
  group: 'config space',
  rules: {
    'bus mastering is off at open, and follows the COMMAND register': async (device) => {
      equal((await readConfig(device, PCI_COMMAND, 2)) & PCI_COMMAND_MASTER, 0, 'MASTER at open');
      await follows(device, PCI_COMMAND_MASTER, 'MASTER');
    },
    'INTx disable follows the COMMAND register': async (device) =>
      follows(device, PCI_COMMAND_INTX_DISABLE, 'INTX_DISABLE'),
    'a write to a read-only register succeeds and changes nothing': async (device) => {
      for (const [name, offset, width] of READ_ONLY) {
        const before = await readConfig(device, offset, width);
        for (const value of [0, 0xffffffff]) {
          await writeConfig(device, offset, width, value);
          equal(await readConfig(device, offset, width), before, `${name} after a write of ${value}`);
        }
      }
    },
    'the header reads the same in bytes, words, dwords and at once': async (device) => {
      const whole = await readBytes(device, CONFIG, 0, HEADER_SIZE);
      for (const width of [1, 2, 4] as const) {
        const pieces = new Uint8Array(HEADER_SIZE);
        for (let at = 0; at < HEADER_SIZE; at += width) pieces.set(await readBytes(device, CONFIG, at, width), at);
        sameBytes(pieces, whole, `header in pieces of ${width}`);
      }
      sameBytes(await readBytes(device, CONFIG, 1, HEADER_SIZE - 2), whole.subarray(1, -1), 'header but its ends');
    },
    'an access past the end is refused with EFAULT and does nothing': async (device) => {
      const { size } = await device.getRegionInfo(CONFIG);
      const tail = await readBytes(device, CONFIG, size - 4, 4);
      await fails(() => readBytes(device, CONFIG, size - 2, 4), 'EFAULT', 'read across the end');
      await fails(() => readBytes(device, CONFIG, size, 1), 'EFAULT', 'read past the end');
      await fails(() => device.write(CONFIG, size - 2, new Uint8Array(4)), 'EFAULT', 'write across the end');
      await fails(() => device.write(CONFIG, size, new Uint8Array(1)), 'EFAULT', 'write past the end');
      sameBytes(await readBytes(device, CONFIG, size - 4, 4), tail, 'the last bytes');
    },
    'BAR sizing finds the size of each BAR, and the address comes back': async (device) => {
      const found = await bars(device);
      const upperHalves = found.filter(({ is64Bit }) => is64Bit).map(({ index }) => index + 1);
      for (let index = 0; index < 6; index++) {
        const at = PCI_BASE_ADDRESS_0 + 4 * index;
        const bar = found.find((one) => one.index === index);
        const mask = await afterOnes(device, at);
        if (bar === undefined) {
          if (!upperHalves.includes(index)) equal(mask, 0, `BAR ${index}, which is not there, after a write of ones`);
          continue;
        }
        const low = BigInt((mask & (bar.io ? ~0x3 : ~0xf)) >>> 0);
        const high = bar.is64Bit ? BigInt(await afterOnes(device, at + 4)) : 0xffffffffn;
        const size = Number(2n ** 64n - ((high << 32n) | low));
        equal(size, bar.size, `size of BAR ${index} by sizing`);
      }
    },
    'ROM sizing finds the size of the ROM': async (device) => {
      const { size } = await device.getRegionInfo(VFIO_PCI_ROM_REGION_INDEX);
      if (size === 0) notApplicable('the device has no ROM');
      equal((2 ** 32 - (((await afterOnes(device, PCI_ROM_ADDRESS)) & ~0x7ff) >>> 0)) >>> 0, size, 'size of the ROM');
    },
    'the interrupt line is the guest’s to write, the pin beside it is not': async (device) => {
      const pin = await readConfig(device, PCI_INTERRUPT_PIN, 1);
      for (const line of [0x55, 0xaa]) {
        await writeConfig(device, PCI_INTERRUPT_LINE, 2, line | (~pin << 8));
        equal(await readConfig(device, PCI_INTERRUPT_LINE, 2), line | (pin << 8), 'interrupt line and pin');
      }
    },
    'the chain of capabilities ends, lies behind the header and is told by STATUS': async (device) => {
      const chain = await capabilities(device);
      check(chain.length <= MAX_CAPABILITIES, 'the chain does not end');
      equal(new Set(chain.map(({ offset }) => offset)).size, chain.length, 'distinct capabilities');
      for (const { id, offset } of chain) {
        check(offset >= HEADER_SIZE, `capability ${id} at ${offset}, in the header`);
        check(id !== 0, `capability 0 at ${offset}`);
      }
      const isTold = ((await readConfig(device, PCI_STATUS, 2)) & PCI_STATUS_CAP_LIST) !== 0;
      check(!isTold || chain.length > 0, 'STATUS tells of capabilities and there are none');
    },
    'the chain of extended capabilities ends, on dwords behind the first 256 bytes': async (device) => {
      const chain = await extendedCapabilities(device);
      check(chain.length <= MAX_EXTENDED, 'the chain does not end');
      equal(new Set(chain.map(({ offset }) => offset)).size, chain.length, 'distinct extended capabilities');
      for (const { id, offset } of chain) check(offset >= 0x100, `extended capability ${id} at ${offset}`);
      if (chain.length === 0) notApplicable('the device has none');
    },
    'headers of capabilities are read-only': async (device) => {
      for (const { id, offset } of await capabilities(device)) {
        const header = await readConfig(device, offset, 2);
        for (const at of [offset, offset + 1]) await writeConfig(device, at, 1, 0xff);
        equal(await readConfig(device, offset, 2), header, `header of capability ${id}`);
      }
      for (const { id, offset } of await extendedCapabilities(device)) {
        const header = await readConfig(device, offset, 4);
        await writeConfig(device, offset, 4, 0xffffffff);
        equal(await readConfig(device, offset, 4), header, `header of extended capability ${id}`);
      }
    },
    'a guest cannot turn on MSI or MSI-X by itself': async (device) => {
      let has = false;
      for (const [id, register, enable] of [
        [PCI_CAP_ID_MSI, PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE],
        [PCI_CAP_ID_MSIX, PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE],
      ] as const) {
        const at = await findCapability(device, id);
        if (at === undefined) continue;
        has = true;
        await writeConfig(device, at + register, 2, (await readConfig(device, at + register, 2)) | enable);
        equal((await readConfig(device, at + register, 2)) & enable, 0, `enable bit of capability ${id}`);
      }
      if (!has) notApplicable('the device has neither');
    },
    'where the MSI-X table is cannot be written': async (device) => {
      const at = await findCapability(device, PCI_CAP_ID_MSIX);
      if (at === undefined) notApplicable('the device has no MSI-X');
      const before = await readBytes(device, CONFIG, at, 12);
      for (const register of [PCI_MSIX_FLAGS, PCI_MSIX_TABLE, PCI_MSIX_TABLE + 4])
        await writeConfig(device, at + register, 2, 0xffff);
      sameBytes(await readBytes(device, CONFIG, at, 12), before, 'MSI-X capability');
    },
    'in D3 a memory BAR cannot be reached: EIO; in D0 it can again': async (device) => {
      const at = await findCapability(device, PCI_CAP_ID_PM);
      const bar = (await bars(device)).find(({ io }) => !io);
      if (at === undefined || bar === undefined) notApplicable('the device has no power management, or no memory BAR');
      await decode(device, true);
      const state = async () => (await readConfig(device, at + PCI_PM_CTRL, 2)) & PCI_PM_CTRL_STATE_MASK;
      await writeConfig(device, at + PCI_PM_CTRL, 2, 3);
      equal(await state(), 3, 'power state');
      await fails(() => readBytes(device, bar.index, 0, 4), 'EIO', `read of BAR ${bar.index} in D3`);
      await writeConfig(device, at + PCI_PM_CTRL, 2, 0);
      equal(await state(), 0, 'power state');
      equal(await device.read(bar.index, 0, new Uint8Array(4)), 4, `bytes of BAR ${bar.index} in D0`);
    },
    'the bit that starts a function level reset never stays set': async (device) => {
      const at = await findCapability(device, PCI_CAP_ID_EXP);
      if (at === undefined) notApplicable('the device is not PCI Express');
      await decode(device, true);
      const control = await readConfig(device, at + PCI_EXP_DEVCTL, 2);
      await writeConfig(device, at + PCI_EXP_DEVCTL, 2, control | PCI_EXP_DEVCTL_BCR_FLR);
      equal((await readConfig(device, at + PCI_EXP_DEVCTL, 2)) & PCI_EXP_DEVCTL_BCR_FLR, 0, 'FLR bit');
      for (const { index, io } of await bars(device))
        if (!io) equal(await device.read(index, 0, new Uint8Array(4)), 4, `bytes of BAR ${index} after the reset`);
    },
  },
};
