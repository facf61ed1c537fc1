import type { MigrationData, PrecopyInfo, VfioDevice } from '@vfio/core';
import { isVfioError, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, VFIO_DEVICE_FEATURE_SET } from '@vfio/uapi';

/** Brings a device to a state; the stream where that opens one. @throws what the driver says; it stays where it got to */
export async function setState(device: VfioDevice, state: number): Promise<MigrationData | undefined> {
  const flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
  const { data } = (await device.deviceFeature({ flags, value: { state } })) as { data: MigrationData | undefined };
  return data;
}

/** Reads until the buffer is full or there is nothing more: for now, or at all. */
export async function fill(stream: MigrationData, into: Uint8Array): Promise<number> {
  let done = 0;
  while (done < into.length) {
    const count = await readSome(stream, done === 0 ? into : into.subarray(done));
    if (count === 0) break;
    done += count;
  }
  return done;
}

async function readSome(stream: MigrationData, into: Uint8Array): Promise<number> {
  try {
    return await stream.read(into);
  } catch (error) {
    // Nothing more while the device runs.
    if (isVfioError(error) && error.errno === 'ENOMSG') return 0;
    throw error;
  }
}

/** What is left to pre-copy as the driver sees it; nothing where it cannot say. Asking is what makes new data appear. */
export async function precopyInfo(stream: MigrationData): Promise<PrecopyInfo> {
  try {
    return await stream.precopyInfo();
  } catch (error) {
    if (isVfioError(error) && error.errno === 'ENOTTY') return { flags: 0, initialBytes: 0n, dirtyBytes: 0n };
    throw error;
  }
}
