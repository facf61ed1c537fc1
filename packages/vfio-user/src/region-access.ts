import type { VfioDevice } from '@vfio/core';
import { isVfioError, VFIO_USER_F_TYPE_REPLY, VfioError } from '@vfio/uapi';
import { getNumber64, highWord, LITTLE_ENDIAN, MAX_HIGH } from './byte-order.js';
import { DATA_OFFSET, PULSE, type ServiceLoop } from './service-loop.js';

/** What an access answers when the device goes on with it. */
export const ACCESS_PENDING = 0;

/** Writes of up to this many bytes go through a buffer that is made once. */
const SCRATCH = 8;

/**
 * REGION_READ and REGION_WRITE: the way that every register access of a guest takes. Nothing here allocates, makes a
 * promise or a bigint while the access succeeds: the reply is built in the loop's send buffer at fixed places, and the
 * device reads into it and writes from views that are made once.
 */
export class RegionAccess {
  /** Of an access that answered {@link ACCESS_PENDING}: settles with the bytes done. */
  pending: Promise<number> | undefined;
  /** Of an access that failed. */
  error: VfioError | undefined;
  readonly #device: VfioDevice;
  readonly #loop: ServiceLoop;
  readonly #txView: DataView;
  readonly #pulse: Int32Array;
  readonly #maxData: number;
  readonly #padShort: boolean;
  readonly #scratch: readonly Uint8Array[];

  /** @param padShort a short read is filled up with all ones: the client counts on the size that it asked for */
  constructor(device: VfioDevice, loop: ServiceLoop, maxData: number, padShort: boolean) {
    this.#device = device;
    this.#loop = loop;
    this.#txView = loop.messages.txView;
    this.#pulse = loop.pulse;
    this.#maxData = maxData;
    this.#padShort = padShort;
    const buffer = new ArrayBuffer(SCRATCH);
    this.#scratch = Array.from({ length: SCRATCH + 1 }, (_, length) => new Uint8Array(buffer, 0, length));
  }

  /**
   * REGION_READ. Builds the reply in the send buffer.
   * @param view where the message is, `at` its start, `length` its bytes
   * @returns bytes of the reply, or a negative errno (see {@link error})
   */
  read(view: DataView, at: number, length: number): number {
    if (length < DATA_OFFSET) return this.#refuse('the message is too short');
    const count = view.getUint32(at + 28, LITTLE_ENDIAN);
    if (count > this.#maxData) return this.#refuse('the count is above max_data_xfer_size');
    if (highWord(view, at + 16) > MAX_HIGH) return this.#refuse('the offset is above 2^53');
    const region = view.getUint32(at + 24, LITTLE_ENDIAN);
    const offset = getNumber64(view, at + 16);
    this.#pulse[PULSE.REGION] = region;
    this.#pulse[PULSE.OFFSET] = offset;
    let done = 0;
    if (count === 0) {
      if (!this.#isWithin(region, offset)) return this.#refuse('nothing is read from a place that is not there');
    } else {
      const data = this.#loop.dataView(count);
      try {
        done = this.#device.read(region, offset, data);
      } catch (error) {
        return this.#fail(error);
      }
      if (done < count && this.#padShort) {
        data.fill(0xff, done);
        done = count;
      }
    }
    this.#buildReply(view, at, DATA_OFFSET + done, done);
    return DATA_OFFSET + done;
  }

  /**
   * REGION_WRITE. As {@link read}; {@link ACCESS_PENDING} where the device has not ended it (see {@link pending}).
   * @param bytes the same memory as `view`
   */
  write(bytes: Uint8Array, view: DataView, at: number, length: number): number {
    if (length < DATA_OFFSET) return this.#refuse('the message is too short');
    const count = view.getUint32(at + 28, LITTLE_ENDIAN);
    if (count !== length - DATA_OFFSET) return this.#refuse('the count is not the number of bytes that came');
    if (count > this.#maxData) return this.#refuse('the count is above max_data_xfer_size');
    if (highWord(view, at + 16) > MAX_HIGH) return this.#refuse('the offset is above 2^53');
    const region = view.getUint32(at + 24, LITTLE_ENDIAN);
    const offset = getNumber64(view, at + 16);
    let done = 0;
    if (count === 0) {
      if (!this.#isWithin(region, offset)) return this.#refuse('nothing is written to a place that is not there');
    } else {
      const result = this.writeDevice(region, offset, bytes, at + DATA_OFFSET, count);
      if (result <= 0) return result;
      done = result;
    }
    this.#buildReply(view, at, DATA_OFFSET, done);
    return DATA_OFFSET;
  }

  /** One write of `count` (not 0) bytes at `from`: bytes done, {@link ACCESS_PENDING}, or a negative errno. */
  writeDevice(region: number, offset: number, bytes: Uint8Array, from: number, count: number): number {
    this.#pulse[PULSE.REGION] = region;
    this.#pulse[PULSE.OFFSET] = offset;
    let data: Uint8Array;
    if (count <= SCRATCH) {
      data = this.#scratch[count]!;
      for (let index = 0; index < count; index++) data[index] = bytes[from + index]!;
    } else {
      // A device that goes on with a write may look at its data again, when this buffer has other messages in it.
      data = bytes.slice(from, from + count);
    }
    try {
      const result = this.#device.write(region, offset, data);
      if (typeof result === 'number') return result === 0 ? this.#refuse('the device took nothing') : result;
      this.pending = result;
      return ACCESS_PENDING;
    } catch (error) {
      return this.#fail(error);
    }
  }

  /** Header and the echoed offset, region; the count is what was done. */
  #buildReply(view: DataView, at: number, size: number, done: number): void {
    const tx = this.#txView;
    // Id and command in one go.
    tx.setUint32(0, view.getUint32(at, LITTLE_ENDIAN), LITTLE_ENDIAN);
    tx.setUint32(4, size, LITTLE_ENDIAN);
    tx.setUint32(8, VFIO_USER_F_TYPE_REPLY, LITTLE_ENDIAN);
    tx.setUint32(12, 0, LITTLE_ENDIAN);
    tx.setUint32(16, view.getUint32(at + 16, LITTLE_ENDIAN), LITTLE_ENDIAN);
    tx.setUint32(20, view.getUint32(at + 20, LITTLE_ENDIAN), LITTLE_ENDIAN);
    tx.setUint32(24, view.getUint32(at + 24, LITTLE_ENDIAN), LITTLE_ENDIAN);
    tx.setUint32(28, done, LITTLE_ENDIAN);
  }

  /** Whether an access of no bytes could be one: the device is not asked to carry it out. */
  #isWithin(region: number, offset: number): boolean {
    try {
      return offset <= this.#device.getRegionInfo(region).size;
    } catch {
      return false;
    }
  }

  #refuse(why: string): number {
    return this.#fail(new VfioError('ERR_VFIO_PROTOCOL', `region access: ${why}`, { errno: 'EINVAL' }));
  }

  #fail(error: unknown): number {
    this.error = asVfioError(error);
    return -this.error.errnoNumber;
  }
}

/** An error of a device as ours. What is not one is a mistake in the device: EIO, with its own words. */
export function asVfioError(error: unknown): VfioError {
  if (isVfioError(error)) return error;
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new VfioError('ERR_VFIO_IO', `the device failed: ${text}`, { errno: 'EIO', cause: error });
}
