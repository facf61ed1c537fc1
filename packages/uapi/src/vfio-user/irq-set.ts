/** DEVICE_SET_IRQS: the kernel's struct, with the descriptors beside the message instead of in it. */
import { hex } from '../errors.js';
import type { IrqSetHeader } from '../ioctl/irq-set.js';
import { viewOf } from '../struct.js';
import { VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_TYPE_MASK } from '../vfio.js';
import { vfioIrqSet } from '../vfio-structs.js';
import { badPayload, checkArgsz, checkDataLength } from './payload.js';

const COMMAND = 'VFIO_USER_DEVICE_SET_IRQS';

/** A SET_IRQS. With DATA_EVENTFD and no descriptors at all it takes away those from `start` on. */
export interface VfioUserIrqSet extends IrqSetHeader {
  /** DATA_BOOL: `count` bytes (a view of the payload). */
  readonly bools?: Uint8Array | undefined;
}

/**
 * Reads a DEVICE_SET_IRQS. What is left to check is what depends on the device: see `checkIrqSet` and `checkIrqSetAction`.
 * @param fdCount Descriptors that came with the message: none, or `count` of them with DATA_EVENTFD.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, data not as long as count says, descriptors that do not go
 * with the flags.
 */
export function decodeVfioUserIrqSet(payload: Uint8Array, fdCount: number, littleEndian: boolean): VfioUserIrqSet {
  const { argsz, ...set } = vfioIrqSet.read(viewOf(payload), 0, littleEndian);
  checkArgsz(COMMAND, argsz, vfioIrqSet.size);
  const type = set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
  const mayHaveFds = type === VFIO_IRQ_SET_DATA_EVENTFD;
  if (fdCount !== 0 && (!mayHaveFds || fdCount !== set.count)) {
    throw badPayload(COMMAND, `${fdCount} descriptors with flags ${hex(set.flags)} and count ${set.count}`);
  }
  if (type !== VFIO_IRQ_SET_DATA_BOOL) return set;
  const bools = payload.subarray(vfioIrqSet.size);
  checkDataLength(COMMAND, bools.length, set.count);
  return { ...set, bools };
}

/**
 * The bytes of a DEVICE_SET_IRQS; descriptors go beside it.
 * @throws VfioError EINVAL: bools that do not go with flags and count, or a value that does not fit its field.
 */
export function encodeVfioUserIrqSet(set: VfioUserIrqSet, littleEndian: boolean): Uint8Array {
  const isBool = (set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK) === VFIO_IRQ_SET_DATA_BOOL;
  checkDataLength(COMMAND, set.bools?.length ?? 0, isBool ? set.count : 0);
  const out = new Uint8Array(vfioIrqSet.size + (set.bools?.length ?? 0));
  const { flags, index, start, count } = set;
  vfioIrqSet.write(viewOf(out), 0, { argsz: out.length, flags, index, start, count }, littleEndian);
  if (set.bools !== undefined) out.set(set.bools, vfioIrqSet.size);
  return out;
}
