/** VFIO_DEVICE_PCI_HOT_RESET. */
import { errnoError, hex } from '../errors.js';
import { viewOf } from '../struct.js';
import { vfioPciHotReset } from '../vfio-structs.js';
import { fromUser } from './user-memory.js';

const OP = 'VFIO_DEVICE_PCI_HOT_RESET';

/**
 * Reads and checks the argument of PCI_HOT_RESET: the group descriptors that prove who owns the affected functions.
 * @param isCdev Opened through its own node: ownership is known then, and no descriptor may be given.
 * @param affected How many functions the reset takes with it.
 * @throws VfioError EFAULT (unreadable), EINVAL.
 */
export function decodeHotReset(
  arg: Uint8Array,
  isCdev: boolean,
  affected: () => number,
  littleEndian: boolean,
): number[] {
  const { argsz, flags, count } = vfioPciHotReset.read(fromUser(arg, vfioPciHotReset.size, OP), 0, littleEndian);
  if (argsz < vfioPciHotReset.size || flags !== 0) {
    throw errnoError(
      'EINVAL',
      `argsz ${argsz} and flags ${hex(flags)}: at least ${vfioPciHotReset.size} and 0 are wanted`,
      {
        op: OP,
      },
    );
  }
  if ((count === 0) !== isCdev) {
    throw errnoError(
      'EINVAL',
      isCdev
        ? `${count} descriptors: a device opened through its own node gives none`
        : 'no descriptors: a device opened through its group gives those of the affected groups',
      { op: OP },
    );
  }
  const most = affected();
  if (count > most) {
    throw errnoError('EINVAL', `${count} descriptors: the reset affects ${most} functions`, { op: OP });
  }
  const view = fromUser(arg, vfioPciHotReset.size + 4 * count, OP);
  return Array.from({ length: count }, (_, at) => view.getInt32(vfioPciHotReset.size + 4 * at, littleEndian));
}

/** The argument of PCI_HOT_RESET. @throws VfioError EINVAL: a value does not fit its field. */
export function encodeHotReset(groupFds: readonly number[], littleEndian: boolean): Uint8Array {
  const out = new Uint8Array(vfioPciHotReset.size + 4 * groupFds.length);
  const view = viewOf(out);
  vfioPciHotReset.write(view, 0, { argsz: out.length, flags: 0, count: groupFds.length }, littleEndian);
  for (const [at, fd] of groupFds.entries()) {
    view.setInt32(vfioPciHotReset.size + 4 * at, fd, littleEndian);
  }
  return out;
}
