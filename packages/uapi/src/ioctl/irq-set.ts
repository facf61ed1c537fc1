/** VFIO_DEVICE_SET_IRQS: its bytes and the rules that hold for every PCI device. */
import { errnoError, hex } from '../errors.js';
import { viewOf } from '../struct.js';
import {
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_TYPE_MASK,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_IRQ_SET_DATA_TYPE_MASK,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '../vfio.js';
import { vfioIrqSet } from '../vfio-structs.js';
import { fromUser } from './user-memory.js';

const OP = 'VFIO_DEVICE_SET_IRQS';
const U32_MAX = 0xffffffff;

/** The fixed part of SET_IRQS. */
export interface IrqSetHeader {
  /** One VFIO_IRQ_SET_DATA_* and one VFIO_IRQ_SET_ACTION_*. */
  readonly flags: number;
  readonly index: number;
  readonly start: number;
  readonly count: number;
}

/** One VFIO_DEVICE_SET_IRQS. */
export interface IrqSet extends IrqSetHeader {
  /** DATA_BOOL: `count` bytes. */
  readonly bools?: Uint8Array | undefined;
  /** DATA_EVENTFD: `count` descriptors, -1 for none. */
  readonly fds?: readonly number[] | undefined;
}

/** What the rules need to know of a device. */
export interface IrqCounts {
  /** GET_INFO's `num_irqs`: how many indexes there are. */
  readonly numIrqs: number;
  /** GET_IRQ_INFO's `count` of an index. */
  irqCount(index: number): number;
}

/**
 * The rules of SET_IRQS in the kernel's order, for any transport: index, overflow of start and count, flag bits, range, one
 * data type. They hold for a count of 0 too. Returns the bytes that one interrupt's data takes: 0, 1 or 4.
 * @throws VfioError EINVAL.
 */
export function checkIrqSet(set: IrqSetHeader, counts: IrqCounts): 0 | 1 | 4 {
  const { flags, index, start, count } = set;
  if (index >= counts.numIrqs) {
    throw errnoError('EINVAL', `interrupt index ${index}: 0 to ${counts.numIrqs - 1} are allowed`, { op: OP });
  }
  if (count >= U32_MAX - start) {
    throw errnoError('EINVAL', `interrupts ${start} + ${count} do not fit 32 bits`, { op: OP });
  }
  const known = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK;
  if ((flags & ~known) !== 0) {
    throw errnoError('EINVAL', `flags ${hex(flags)}: only ${hex(known)} are known`, { op: OP });
  }
  const num = counts.irqCount(index);
  if (start >= num || start + count > num) {
    throw errnoError('EINVAL', `interrupts ${start} + ${count} of index ${index}: it has ${num}`, { op: OP });
  }
  switch (flags & VFIO_IRQ_SET_DATA_TYPE_MASK) {
    case VFIO_IRQ_SET_DATA_NONE:
      return 0;
    case VFIO_IRQ_SET_DATA_BOOL:
      return 1;
    case VFIO_IRQ_SET_DATA_EVENTFD:
      return 4;
    default:
      throw errnoError('EINVAL', `flags ${hex(flags)}: exactly one data type is wanted`, { op: OP });
  }
}

/** The actions that vfio-pci has for each index. */
const ACTIONS: ReadonlyMap<number, number> = new Map([
  [VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER],
  [VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER],
  [VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER],
  [VFIO_PCI_ERR_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER],
  [VFIO_PCI_REQ_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER],
]);

/**
 * Refuses an action that vfio-pci does not have for the index, no action, and more than one.
 * @throws VfioError ENOTTY.
 */
export function checkIrqSetAction(flags: number, index: number): void {
  const action = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
  const isSingle = action !== 0 && (action & (action - 1)) === 0;
  if (!isSingle || ((ACTIONS.get(index) ?? 0) & action) === 0) {
    throw errnoError('ENOTTY', `interrupt index ${index} has no action ${hex(action)}`, { op: OP });
  }
}

/**
 * Reads and checks the argument of SET_IRQS.
 * @throws VfioError EFAULT (unreadable), EINVAL and ENOTTY in the kernel's order.
 */
export function decodeIrqSet(arg: Uint8Array, counts: IrqCounts, littleEndian: boolean): IrqSet {
  const raw = vfioIrqSet.read(fromUser(arg, vfioIrqSet.size, OP), 0, littleEndian);
  if (raw.argsz < vfioIrqSet.size) {
    throw errnoError('EINVAL', `argsz ${raw.argsz}: at least ${vfioIrqSet.size} is wanted`, { op: OP });
  }
  const elementSize = checkIrqSet(raw, counts);
  const dataSize = raw.count * elementSize;
  if (raw.argsz - vfioIrqSet.size < dataSize) {
    throw errnoError('EINVAL', `argsz ${raw.argsz}: ${raw.count} interrupts need ${vfioIrqSet.size + dataSize}`, {
      op: OP,
    });
  }
  const data = fromUser(arg, vfioIrqSet.size + dataSize, OP);
  checkIrqSetAction(raw.flags, raw.index);
  const { flags, index, start, count } = raw;
  const set = { flags, index, start, count };
  switch (elementSize) {
    case 0:
      return set;
    case 1:
      return { ...set, bools: arg.slice(vfioIrqSet.size, vfioIrqSet.size + dataSize) };
    case 4: {
      const fds = Array.from({ length: count }, (_, at) => data.getInt32(vfioIrqSet.size + 4 * at, littleEndian));
      return { ...set, fds };
    }
  }
}

/**
 * The argument of SET_IRQS.
 * @throws VfioError EINVAL: the data does not go with the flags and the count, or a value does not fit its field.
 */
export function encodeIrqSet(set: IrqSet, littleEndian: boolean): Uint8Array {
  const type = set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
  const wanted = {
    bools: type === VFIO_IRQ_SET_DATA_BOOL ? set.count : 0,
    fds: type === VFIO_IRQ_SET_DATA_EVENTFD ? set.count : 0,
  };
  if ((set.bools?.length ?? 0) !== wanted.bools || (set.fds?.length ?? 0) !== wanted.fds) {
    throw errnoError(
      'EINVAL',
      `${set.bools?.length ?? 0} bools and ${set.fds?.length ?? 0} descriptors: flags ${hex(set.flags)} with count ${set.count} want ${wanted.bools} and ${wanted.fds}`,
      { op: OP },
    );
  }
  const out = new Uint8Array(vfioIrqSet.size + wanted.bools + 4 * wanted.fds);
  const view = viewOf(out);
  const { flags, index, start, count } = set;
  vfioIrqSet.write(view, 0, { argsz: out.length, flags, index, start, count }, littleEndian);
  if (set.bools !== undefined) out.set(set.bools, vfioIrqSet.size);
  for (const [at, fd] of (set.fds ?? []).entries()) {
    view.setInt32(vfioIrqSet.size + 4 * at, fd, littleEndian);
  }
  return out;
}
