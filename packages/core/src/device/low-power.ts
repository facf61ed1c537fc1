import type { VfioPciCoreDevice } from './core-device.js';
import { notifyMemory } from './memory.js';
import type { EventTrigger } from './triggers.js';

/**
 * VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: from the end of this call on the function may sleep. User mappings of BARs die, also
 * when the call fails. Any access wakes it for as long as it takes; with `wake` the first one signals that and ends low
 * power.
 *
 * @throws EINVAL where the device is in low power already.
 */
export function enterLowPower(dev: VfioPciCoreDevice, wake: EventTrigger | undefined): void {
  for (const watcher of dev.memoryWatchers) watcher(false);
  if (dev.power.engaged) throw dev.error('EINVAL', 'LOW_POWER_ENTRY', 'the device is in low power already');
  dev.power.engaged = true;
  dev.power.wakeTrigger = wake;
  // The opening's need for an awake function; the call that runs has its own, so the function sleeps when that ends.
  dev.power.users--;
}

/** VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: what entering revoked comes back. Nothing happens where the device is not in low power. */
export function leaveLowPower(dev: VfioPciCoreDevice): void {
  const { power } = dev;
  if (!power.engaged) return;
  power.engaged = false;
  power.users++;
  const wake = power.wakeTrigger;
  power.wakeTrigger = undefined;
  wake?.release();
  notifyMemory(dev);
}
