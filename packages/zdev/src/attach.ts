import { type VfioPciCoreDevice, ZPCI, type ZpciFacts } from '@vfio/core';
import { VFIO_DEVICE_FEATURE_ZPCI_ERROR } from '@vfio/uapi';
import { addZpciCaps } from './caps.js';
import { zpciErrorFeature } from './errors.js';

/** What this package adds to a device; nothing where its base is VFIO already, which has it from the kernel. */
function factsOf(dev: VfioPciCoreDevice): ZpciFacts | undefined {
  return dev.fn.base.kind === 'raw' ? dev.fn.platform(ZPCI) : undefined;
}

/** For `init`. */
export function attachZpci(dev: VfioPciCoreDevice): void {
  const facts = factsOf(dev);
  if (facts === undefined) return;
  addZpciCaps(dev, facts);
  if (facts.errors !== undefined) dev.features.set(VFIO_DEVICE_FEATURE_ZPCI_ERROR, zpciErrorFeature(facts.errors));
}

/** At the first open: errors are the user's from now on. */
export function openZpci(dev: VfioPciCoreDevice): void {
  factsOf(dev)?.errors?.start();
}

/** At the last close. */
export function closeZpci(dev: VfioPciCoreDevice): void {
  factsOf(dev)?.errors?.stop();
}
