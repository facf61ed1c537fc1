import type { PciFunction, VfioDevice } from '@vfio/core';
import { type ErrnoName, errnoError, type VfioError } from '@vfio/uapi';

/** A device that is nobody's: all of its registers read 0, and it can do nothing else. */
export class SilentDevice implements VfioDevice {
  readonly name = 'silent';

  get function(): PciFunction {
    throw refusal('ENODEV', 'function');
  }

  getInfo() {
    return { flags: 0, numRegions: 1, numIrqs: 0, caps: [] };
  }

  getRegionInfo(index: number) {
    return { index, flags: 0, size: 0, offset: 0, caps: [] };
  }

  read(_region: number, _offset: number, data: Uint8Array): number {
    data.fill(0);
    return data.length;
  }

  getIrqInfo(): never {
    throw refusal('EINVAL', 'getIrqInfo');
  }

  getHotResetInfo(): never {
    throw refusal('ENODEV', 'getHotResetInfo');
  }

  write(): never {
    throw refusal('EINVAL', 'write');
  }

  mmapArea(): never {
    throw refusal('EINVAL', 'mmapArea');
  }

  setIrqs(): never {
    throw refusal('EINVAL', 'setIrqs');
  }

  ioeventfd(): never {
    throw refusal('ENOTTY', 'ioeventfd');
  }

  reset(): never {
    throw refusal('ENOTTY', 'reset');
  }

  hotReset(): never {
    throw refusal('ENODEV', 'hotReset');
  }

  deviceFeature(): never {
    throw refusal('ENOTTY', 'deviceFeature');
  }

  dmaMap(): never {
    throw refusal('EINVAL', 'dmaMap');
  }

  dmaUnmap(): never {
    throw refusal('EINVAL', 'dmaUnmap');
  }

  close(): void {}

  async [Symbol.asyncDispose](): Promise<void> {}
}

function refusal(errno: ErrnoName, op: string): VfioError {
  return errnoError(errno, 'a device that only answers reads', { op });
}
