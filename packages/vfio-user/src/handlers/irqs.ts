import type { EventTrigger, IrqInfo } from '@vfio/core';
import {
  decodeVfioUserIrqSet,
  errnoError,
  hex,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_TYPE_MASK,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_IRQ_SET_DATA_TYPE_MASK,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { ChunkedVectors } from '../chunked-vectors.js';
import { checkEventfd, EventfdTrigger } from '../eventfd-trigger.js';
import { MAX_IRQ_COUNT } from '../limits.js';
import { EMPTY_REPLY, malformed, type Reply, type Request } from '../request.js';
import type { ServiceLoop } from '../service-loop.js';
import type { Handler, HandlerContext } from './handler.js';

const ACTIONS: readonly number[] = [VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_ACTION_TRIGGER];
const DATA_TYPES: readonly number[] = [VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD];

/**
 * DEVICE_SET_IRQS. Descriptors come with the message, not in its data: none at all for EVENTFD takes the range's away,
 * which is also what a client sees that sits behind something that drops descriptors. What depends on the device is
 * checked by the device.
 */
export const setIrqs: Handler = (context, request): Reply => {
  const { device, loop } = context;
  const { flags, index, start, count, bools } = decodeVfioUserIrqSet(
    request.payload,
    request.fds.length,
    LITTLE_ENDIAN,
  );
  const dataType = flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
  const action = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
  if (flags !== (dataType | action) || !ACTIONS.includes(action) || !DATA_TYPES.includes(dataType)) {
    throw malformed(request, `flags ${hex(flags)}: one kind of data and one action are wanted`);
  }
  // Bounded before anything is made for it.
  const info = device.getIrqInfo(index);
  const known = Math.min(info.count, MAX_IRQ_COUNT);
  if (count > known || start > known - count) {
    throw malformed(request, `vectors ${start}+${count} of index ${index}, which has ${known}`);
  }
  const common = { flags, index, start, count };
  let available = 0;
  if (dataType === VFIO_IRQ_SET_DATA_EVENTFD) {
    if (action === VFIO_IRQ_SET_ACTION_TRIGGER && count > 0) noteDescriptors(context, index, request.fds.length);
    const triggers = takeTriggers(loop, request, count);
    const chunked = action === VFIO_IRQ_SET_ACTION_TRIGGER ? chunkedVectors(context, info) : undefined;
    available = chunked?.set(device, common, triggers) ?? device.setIrqs({ ...common, triggers });
  } else if (bools !== undefined) available = device.setIrqs({ ...common, bools: bools.slice() });
  else {
    available = device.setIrqs(common);
    if (action === VFIO_IRQ_SET_ACTION_TRIGGER && count === 0) context.chunkedVectors.get(index)?.clear();
  }
  // Fewer vectors than asked, and none is armed. A reply has no place for how many there are.
  if (available > 0)
    throw errnoError('ENOSPC', `index ${index}: only ${available} vectors can be had`, { op: 'DEVICE_SET_IRQS' });
  return EMPTY_REPLY;
};

/** What is kept of an index that has several vectors and cannot grow; undefined for another one. */
function chunkedVectors({ chunkedVectors: all, limits }: HandlerContext, info: IrqInfo): ChunkedVectors | undefined {
  if (info.count < 2 || (info.flags & VFIO_IRQ_INFO_NORESIZE) === 0) return undefined;
  const known = all.get(info.index) ?? new ChunkedVectors(limits.maxReceiveFds);
  all.set(info.index, known);
  return known;
}

/**
 * A client that takes away descriptors which it never gave has given them: something in between dropped them. With MSI
 * and MSI-X nothing can be told: QEMU, and our own client, enable them by such a message.
 */
function noteDescriptors(context: HandlerContext, index: number, given: number): void {
  if (context.irqsGiven.has(index)) return;
  if (given === 0) {
    if (index === VFIO_PCI_MSI_IRQ_INDEX || index === VFIO_PCI_MSIX_IRQ_INDEX) return;
    context.warn(
      `DEVICE_SET_IRQS for interrupt index ${index} came without a descriptor: its interrupts are off. Something between client and server (a proxy, socat) drops descriptors`,
    );
  }
  context.irqsGiven.add(index);
}

/** The descriptors as triggers; where there are none, as many nulls. They are the device's from then on. */
function takeTriggers(loop: ServiceLoop, request: Request, count: number): (EventTrigger | null)[] {
  for (const fd of request.fds) checkEventfd(fd, 'DEVICE_SET_IRQS');
  if (request.fds.length === 0) return new Array<null>(count).fill(null);
  return request.fds.map((_, index) => new EventfdTrigger(loop, request.takeFd(index)));
}
