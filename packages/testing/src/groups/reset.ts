import { isVfioError, parsePciAddress, type VfioDeviceClient } from '@vfio/core';
import { PCI_COMMAND, VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';
import { bars, decode, readBytes, readConfig } from '../access.js';
import { check, equal, fails, notApplicable, sameBytes } from '../assert.js';
import type { Rule, RuleGroup } from '../contract.js';
import { arrives } from '../trigger.js';
import { arm, disarm, loopback, types } from './interrupts.js';

const hasReset = async (device: VfioDeviceClient): Promise<boolean> =>
  ((await device.getInfo()).flags & VFIO_DEVICE_FLAGS_RESET) !== 0;

/** A rule that means something only where the device can be reset. */
export const whereReset =
  (rule: Rule): Rule =>
  async (device, options) => {
    if (!(await hasReset(device))) notApplicable('the device cannot be reset');
    await rule(device, options);
  };

/** Neither slot nor bus can be reset, a function without a group, or a protocol that has no such call. */
const NO_HOT_RESET = ['ENODEV', 'EPERM', 'ENOTTY'];

function withoutHotReset(error: unknown): never {
  if (isVfioError(error) && NO_HOT_RESET.includes(error.errno ?? '')) notApplicable('there is no hot reset');
  throw error;
}

function placeOf(address: string) {
  const { domain, bus, device, function: number } = parsePciAddress(address);
  return { segment: domain, bus, devfn: (device << 3) | number };
}

export const reset: RuleGroup = {
  group: 'reset',
  rules: {
    'works where the device says so, else it is refused with EINVAL': async (device) => {
      if (await hasReset(device)) await device.reset();
      else await fails(() => device.reset(), 'EINVAL', 'reset without the RESET flag');
    },
    'leaves ids, class, BARs and COMMAND as the user has them': whereReset(async (device) => {
      await decode(device, true);
      const command = await readConfig(device, PCI_COMMAND, 2);
      const before = await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, 0x08, 0x20);
      await device.reset();
      sameBytes(await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, 0x08, 0x20), before, 'class to BARs');
      equal(await readConfig(device, PCI_COMMAND, 2), command, 'COMMAND');
      for (const { index, io } of await bars(device))
        if (!io) equal(await device.read(index, 0, new Uint8Array(4)), 4, `bytes of BAR ${index}`);
    }),
    'keeps the triggers of each type of interrupt, and they still signal': whereReset(async (device) => {
      for (const { index, vectors } of await types(device)) {
        const triggers = await arm(device, index, vectors);
        await device.reset();
        for (const [vector, trigger] of triggers.entries()) {
          await loopback(device, index, vector);
          check(await arrives(() => trigger.signals > 0), `type ${index}: vector ${vector} is dead after a reset`);
        }
        await disarm(device, index);
      }
    }),
    'keeps the mappings of DMA': whereReset(async (device) => {
      const [iova, size] = [0x200000n, 0x2000n];
      const request = { iova, size, readable: true, writable: true, memory: undefined };
      await device.dmaMap(request);
      await device.reset();
      // The very same map again is one that a vfio-user server may take.
      await fails(() => device.dmaMap({ ...request, size: size / 2n }), 'EEXIST', 'mapping a part of it again');
      await device.dmaUnmap(iova, size);
    }),
    'a hot reset says what it takes with it, the function itself among it': async (device, { driver }) => {
      const info = await device.getHotResetInfo().catch(withoutHotReset);
      check(info.devices.length > 0, 'a hot reset takes no function');
      if (driver === undefined) return;
      const { segment, bus, devfn } = placeOf(driver.function.address);
      check(
        info.devices.some((one) => one.segment === segment && one.bus === bus && one.devfn === devfn),
        `${driver.function.address} is not among what its hot reset takes`,
      );
    },
    'a hot reset that owns nothing, or has flags, is refused with EINVAL': async (device) => {
      await device.getHotResetInfo().catch(withoutHotReset);
      for (const request of [
        { flags: 0, owned: [] },
        { flags: 1, owned: [] },
      ])
        await fails(() => device.hotReset(request), 'EINVAL', `a hot reset with flags ${request.flags}`);
    },
    'can be done again and again': whereReset(async (device) => {
      for (let n = 0; n < 5; n++) await device.reset();
    }),
  },
};
