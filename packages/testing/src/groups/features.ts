import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_MIGRATION_STOP_COPY,
} from '@vfio/uapi';
import { check, fails } from '../assert.js';
import type { RuleGroup } from '../contract.js';

/** An index far above every known feature. */
const UNKNOWN = 0x7ff0;

export const features: RuleGroup = {
  group: 'features',
  rules: {
    'a feature that nobody knows is refused with ENOTTY, also when it is only probed': async (device) => {
      for (const action of [VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET]) {
        for (const probe of [0, VFIO_DEVICE_FEATURE_PROBE]) {
          const flags = UNKNOWN | action | probe;
          await fails(() => device.deviceFeature({ flags }), 'ENOTTY', `feature flags ${flags}`);
        }
      }
    },
    'GET and SET together are only for probing': async (device) => {
      const flags = VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
      await fails(() => device.deviceFeature({ flags }), 'EINVAL', 'GET and SET');
    },
    'flags that nobody knows are refused with EINVAL': async (device) => {
      const flags = VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET | (1 << 24);
      await fails(() => device.deviceFeature({ flags }), 'EINVAL', 'an unknown flag');
    },
    'a device that migrates has STOP_COPY, one that does not says ENOTTY': async (device) => {
      const flags = VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET;
      const answer = await device.deviceFeature({ flags }).catch((error: unknown) => error);
      if (answer instanceof Error) {
        await fails(() => Promise.reject(answer), 'ENOTTY', 'migration');
        return;
      }
      const { flags: supported } = answer as { flags: number };
      check((supported & VFIO_MIGRATION_STOP_COPY) !== 0, `migration flags ${supported} without STOP_COPY`);
    },
    'REINIT of precopy info is refused with EINVAL by a device without PRE_COPY': async (device) => {
      const migration = VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_PROBE;
      const migrates = await device.deviceFeature({ flags: migration }).then(
        () => true,
        () => false,
      );
      if (migrates) return;
      const flags = VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | VFIO_DEVICE_FEATURE_SET;
      await fails(() => device.deviceFeature({ flags }), ['EINVAL', 'ENOTTY'], 'precopy info v2');
    },
  },
};
