import { type FeatureHandler, vfioCheckFeature, type ZpciErrors } from '@vfio/core';
import { VFIO_DEVICE_FEATURE_GET } from '@vfio/uapi';

/** Bytes of an error record: `struct zpci_ccdf_err`. */
export const ZPCI_ERROR_SIZE = 32;

/**
 * VFIO_DEVICE_FEATURE_ZPCI_ERROR: GET takes the oldest record.
 *
 * @throws ENOMSG where there is none
 */
export const zpciErrorFeature =
  (errors: ZpciErrors): FeatureHandler =>
  (dev, request) => {
    if (!vfioCheckFeature(dev, request.flags, VFIO_DEVICE_FEATURE_GET)) return undefined;
    const record = errors.take();
    if (record === undefined) throw dev.error('ENOMSG', 'ZPCI_ERROR', 'no error of the function is pending');
    return record;
  };
