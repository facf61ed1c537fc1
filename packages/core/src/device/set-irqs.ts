import {
  checkIrqSet,
  checkIrqSetAction,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TYPE_MASK,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { disableIntx, setIntxMask, setIntxTrigger, setIntxUnmask } from './intx.js';
import { IRQ_NONE } from './irq-state.js';
import { disableMsi, setMsiTrigger } from './msi.js';
import { nameDevice } from './name-device.js';
import { type OwnedRequest, takeTrigger } from './owned-request.js';
import type { EventTrigger, SetIrqsRequest } from './triggers.js';

/** How many interrupts an index has: `vfio_pci_get_irq_count`. */
export function irqCount(dev: VfioPciCoreDevice, index: number): number {
  const { config } = dev;
  if (config === undefined) return 0;
  switch (index) {
    case VFIO_PCI_INTX_IRQ_INDEX:
      return config.interruptPin !== 0 ? 1 : 0;
    case VFIO_PCI_MSI_IRQ_INDEX:
      return config.msi?.vectors ?? 0;
    case VFIO_PCI_MSIX_IRQ_INDEX:
      return config.msix?.vectors ?? 0;
    case VFIO_PCI_ERR_IRQ_INDEX:
    case VFIO_PCI_REQ_IRQ_INDEX:
      return 1;
    default:
      return 0;
  }
}

/** What every SET_IRQS must keep to, whatever the device. @throws EINVAL, ENOTTY */
function checkSetIrqs(dev: VfioPciCoreDevice, request: SetIrqsRequest): void {
  const { flags, index, start, count } = request;
  for (const value of [flags, index, start, count]) {
    // A peer's fields are 32 bits; a program's may be anything.
    if (value >>> 0 !== value) throw dev.error('EINVAL', 'setIrqs', `${value}: must be a number of 32 bits`);
  }
  nameDevice(dev, () => {
    const size = checkIrqSet(request, { numIrqs: VFIO_PCI_NUM_IRQS, irqCount: (of) => irqCount(dev, of) });
    const given = size === 0 ? count : size === 1 ? (request.bools?.length ?? 0) : (request.triggers?.length ?? 0);
    if (given < count) throw dev.error('EINVAL', 'setIrqs', `${count} interrupts, but data for ${given}`);
    checkIrqSetAction(flags, index);
  });
}

/**
 * VFIO_DEVICE_SET_IRQS: `vfio_pci_core_ioctl`'s part and `vfio_pci_set_irqs_ioctl`. The request's triggers belong to the
 * device from here on, whatever comes of it.
 *
 * @returns 0, or the number of vectors that can be had where fewer than asked are there; nothing is changed then.
 * @throws EINVAL (arguments, wrong type active), ENOTTY (the index has no such action), EBUSY, ENODEV, ERANGE.
 */
export function vfioPciCoreSetIrqs(dev: VfioPciCoreDevice, request: SetIrqsRequest): number {
  const owned: OwnedRequest = { ...request, owned: [...(request.triggers ?? [])] };
  try {
    checkSetIrqs(dev, request);
    return dispatch(dev, owned, request.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK);
  } finally {
    for (const trigger of owned.owned) trigger?.release();
  }
}

function dispatch(dev: VfioPciCoreDevice, request: OwnedRequest, action: number): number {
  const { irqs } = dev;
  switch (request.index) {
    case VFIO_PCI_INTX_IRQ_INDEX:
      if (action === VFIO_IRQ_SET_ACTION_MASK) return setIntxMask(dev, request);
      return action === VFIO_IRQ_SET_ACTION_UNMASK ? setIntxUnmask(dev, request) : setIntxTrigger(dev, request);
    case VFIO_PCI_ERR_IRQ_INDEX:
      irqs.errTrigger = setSingle(dev, request, 'ERR', irqs.errTrigger);
      return 0;
    case VFIO_PCI_REQ_IRQ_INDEX:
      irqs.reqTrigger = setSingle(dev, request, 'REQ', irqs.reqTrigger);
      return 0;
    default:
      return setMsiTrigger(dev, request);
  }
}

/** ERR and REQ, which have one trigger each and stand beside the active type. Returns the trigger from now on. */
function setSingle(
  dev: VfioPciCoreDevice,
  request: OwnedRequest,
  name: string,
  current: EventTrigger | undefined,
): EventTrigger | undefined {
  const { flags, start, count } = request;
  if (start !== 0 || count > 1)
    throw dev.error('EINVAL', 'setIrqs', `${name}: start ${start}, count ${count}; only 0 and at most 1 are allowed`);
  if ((flags & VFIO_IRQ_SET_DATA_NONE) !== 0) {
    if (current === undefined) throw dev.error('EINVAL', 'setIrqs', `${name} has no trigger to signal or to remove`);
    if (count === 1) {
      current.signal();
      return current;
    }
    current.release();
    return undefined;
  }
  if (count === 0) throw dev.error('EINVAL', 'setIrqs', `${name}: count 0 removes the trigger only with DATA_NONE`);
  if ((flags & VFIO_IRQ_SET_DATA_BOOL) !== 0) {
    if ((request.bools?.[0] ?? 0) !== 0) current?.signal();
    return current;
  }
  const next = takeTrigger(request, 0);
  if (current !== next) current?.release();
  return next;
}

/** Ends whatever type is active. ERR and REQ stay. */
export function disableIrqs(dev: VfioPciCoreDevice): void {
  const { type } = dev.irqs;
  if (type === IRQ_NONE) return;
  if (type === VFIO_PCI_INTX_IRQ_INDEX) disableIntx(dev);
  else disableMsi(dev);
}

/** Drops the ERR and REQ triggers; at the last close. */
export function dropSingleTriggers(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  const { errTrigger, reqTrigger } = irqs;
  irqs.errTrigger = undefined;
  irqs.reqTrigger = undefined;
  errTrigger?.release();
  reqTrigger?.release();
}
