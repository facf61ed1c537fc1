import type { EventTrigger, FeatureRequest, MigrationData, VfioDeviceClient } from '@vfio/core';
import {
  isVfioError,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
} from '@vfio/uapi';

/** What stands between a device and the suite, and is wrong in one way. */
export type Fault = (device: VfioDeviceClient) => VfioDeviceClient;

/** The bytes of a stream before this one are right. */
const FAULT_AT = 20;
/** The dirty page, of all that are reported one after the other, that is not. */
const LOST_PAGE = 9;
/** The signal of a trigger that does not come: not the first. */
const LOST_SIGNAL = 3;

/** The same stream, to put something else into it. */
export const through = (data: MigrationData): MigrationData => ({
  read: (into) => data.read(into),
  write: (from) => data.write(from),
  precopyInfo: () => data.precopyInfo(),
  close: () => data.close(),
});

/** Streams that are wrong. */
export const streams =
  (wrong: (data: MigrationData) => Partial<MigrationData>): Fault =>
  (device) => ({
    ...device,
    async deviceFeature(request) {
      const result = (await device.deviceFeature(request)) as { data?: MigrationData } | undefined;
      if (result?.data === undefined) return result;
      return { ...result, data: { ...through(result.data), ...wrong(result.data) } };
    },
  });

/** One byte of the stream is not there. */
export function dropsByte(data: MigrationData): Partial<MigrationData> {
  let at = 0;
  return {
    async read(into) {
      const count = await data.read(into);
      const dropped = FAULT_AT - at;
      at += count;
      if (dropped < 0 || dropped >= count) return count;
      into.copyWithin(dropped, dropped + 1, count);
      return count - 1;
    },
  };
}

/** One bit of the stream is another. */
export function changesByte(data: MigrationData): Partial<MigrationData> {
  let at = 0;
  return {
    async read(into) {
      const count = await data.read(into);
      const changed = FAULT_AT - at;
      if (changed >= 0 && changed < count) into[changed] = into[changed]! ^ 1;
      at += count;
      return count;
    },
  };
}

const is = ({ flags }: FeatureRequest, feature: number, way: number): boolean => flags === (feature | way);

/** One dirty page is not reported. */
export const losesPage: Fault = (device) => {
  let pages = 0;
  return {
    ...device,
    async deviceFeature(request) {
      const result = await device.deviceFeature(request);
      if (!is(request, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, VFIO_DEVICE_FEATURE_GET)) return result;
      const { bitmap } = request.value as { bitmap: Uint8Array };
      for (let bit = 0; bit < bitmap.length * 8; bit++)
        if ((bitmap[bit >> 3]! & (1 << (bit & 7))) !== 0 && ++pages === LOST_PAGE)
          bitmap[bit >> 3]! &= ~(1 << (bit & 7));
      return result;
    },
  };
};

/** A trigger of which one signal does not come. */
export const losing = (trigger: EventTrigger | null): EventTrigger | null => {
  let signals = 0;
  return (
    trigger && {
      fd: undefined,
      signal() {
        if (++signals !== LOST_SIGNAL) trigger.signal();
      },
      watch: (handler) => trigger.watch(handler),
      release: () => trigger.release(),
    }
  );
};

export const losesInterrupt: Fault = (device) => ({
  ...device,
  setIrqs: (request) =>
    device.setIrqs(request.triggers === undefined ? request : { ...request, triggers: request.triggers.map(losing) }),
});

/** A reset that leaves everything as it was. */
export const resetsNothing: Fault = (device) => ({ ...device, reset: async () => {} });

/** Every state can be gone to. */
export const allowsEveryArc: Fault = (device) => ({
  ...device,
  async deviceFeature(request) {
    try {
      return await device.deviceFeature(request);
    } catch (error) {
      const isStep = is(request, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, VFIO_DEVICE_FEATURE_SET);
      if (isStep && isVfioError(error) && error.errno === 'EINVAL') return { ...(request.value as object) };
      throw error;
    }
  },
});
