import type { VfioDeviceClient } from '@vfio/core';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_FEATURE_ZPCI_ERROR,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';
import { bars, decode, refusal } from '../access.js';
import { equal, fails, notApplicable } from '../assert.js';
import type { Rule, RuleGroup } from '../contract.js';

const GET = VFIO_DEVICE_FEATURE_GET;
const SET = VFIO_DEVICE_FEATURE_SET;
const PROBE = VFIO_DEVICE_FEATURE_PROBE;
const DIRECTIONS = [GET, SET] as const;

/** An index far above every known feature. */
const UNKNOWN = 0x7ff0;
const LAST_KNOWN = VFIO_DEVICE_FEATURE_ZPCI_ERROR;

const has = async (device: VfioDeviceClient, flags: number): Promise<boolean> =>
  (await refusal(device.deviceFeature({ flags: flags | PROBE }))) === undefined;

/** A rule of devices that have a feature. */
const where =
  (flags: number, what: string, rule: Rule): Rule =>
  async (device, options) => {
    if (!(await has(device, flags))) notApplicable(`the device has no ${what}`);
    await rule(device, options);
  };

export const features: RuleGroup = {
  group: 'features',
  rules: {
    'a feature that nobody knows is refused with ENOTTY, also when it is only probed': async (device) => {
      for (const action of DIRECTIONS) {
        for (const probe of [0, PROBE]) {
          const flags = UNKNOWN | action | probe;
          await fails(() => device.deviceFeature({ flags }), 'ENOTTY', `feature flags ${flags}`);
        }
      }
    },
    'GET and SET together are only for probing': async (device) => {
      const flags = VFIO_DEVICE_FEATURE_MIGRATION | GET | SET;
      await fails(() => device.deviceFeature({ flags }), 'EINVAL', 'GET and SET');
    },
    'flags that nobody knows are refused with EINVAL': async (device) => {
      const flags = VFIO_DEVICE_FEATURE_MIGRATION | GET | (1 << 24);
      await fails(() => device.deviceFeature({ flags }), 'EINVAL', 'an unknown flag');
    },
    'a feature goes in the directions that a probe says, in no other, and not without one': async (device) => {
      for (let feature = 0; feature <= LAST_KNOWN; feature++) {
        const probes = await Promise.all(DIRECTIONS.map((way) => has(device, feature | way)));
        if (!probes.includes(true)) continue;
        for (const [at, way] of DIRECTIONS.entries()) {
          if (probes[at] === true) continue;
          await fails(
            () => device.deviceFeature({ flags: feature | way }),
            'EINVAL',
            `feature ${feature}, flags ${way}`,
          );
        }
        await fails(() => device.deviceFeature({ flags: feature }), 'EINVAL', `feature ${feature} without a direction`);
        const both = (await has(device, feature | GET | SET)) ? 2 : 1;
        equal(probes.filter(Boolean).length, both, `directions of feature ${feature}`);
      }
    },
    'a probe does nothing': async (device) => {
      const hasLowPower = await has(device, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET);
      for (let feature = 0; feature <= LAST_KNOWN; feature++)
        for (const way of DIRECTIONS) await has(device, feature | way);
      if (!hasLowPower) notApplicable('the device has no feature that would show it');
      // Had a probe entered it, this would be refused.
      await device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET });
      await device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | SET });
    },
    'low power is entered once, any access wakes the device, and it may be left any number of times': where(
      VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET,
      'low power',
      async (device) => {
        const enter = { flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET };
        const leave = { flags: VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | SET };
        await device.deviceFeature(leave);
        await decode(device, true);
        await device.deviceFeature(enter);
        await fails(() => device.deviceFeature(enter), 'EINVAL', 'a second entry');
        equal(await device.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, new Uint8Array(4)), 4, 'bytes of config space');
        for (const { index } of await bars(device))
          equal(await device.read(index, 0, new Uint8Array(4)), 4, `bytes of BAR ${index} in low power`);
        for (let n = 0; n < 2; n++) await device.deviceFeature(leave);
        await device.deviceFeature(enter);
        await device.deviceFeature(leave);
      },
    ),
    'a VF token is 16 bytes, set and never shown': where(
      VFIO_DEVICE_FEATURE_PCI_VF_TOKEN | SET,
      'VF token',
      async (device) => {
        const flags = VFIO_DEVICE_FEATURE_PCI_VF_TOKEN | SET;
        await fails(() => device.deviceFeature({ flags, value: new Uint8Array(15) }), 'EINVAL', 'a token of 15 bytes');
        await fails(
          () => device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_PCI_VF_TOKEN | GET }),
          'EINVAL',
          'asking for the token',
        );
      },
    ),
  },
};
