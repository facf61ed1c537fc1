import {
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_STATUS,
  PCI_STATUS_INTERRUPT,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_INTX_IRQ_INDEX,
} from '@vfio/uapi';
import type { RawConfigSpace } from '../pci/raw-function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { IRQ_NONE } from './irq-state.js';
import { type OwnedRequest, takeTrigger } from './owned-request.js';
import type { EventTrigger } from './triggers.js';

/** Sets or clears DisINTx in hardware: `pci_intx`. */
export function pciIntx(config: RawConfigSpace, enable: boolean): void {
  const command = config.read(PCI_COMMAND, 2);
  const wanted = enable ? command & ~PCI_COMMAND_INTX_DISABLE : command | PCI_COMMAND_INTX_DISABLE;
  if (wanted !== command) config.write(PCI_COMMAND, 2, wanted);
}

/** Whether DisINTx can be flipped, which makes a function PCI 2.3: `pci_intx_mask_supported`. */
export function isIntxMaskSupported(config: RawConfigSpace): boolean {
  const before = config.read(PCI_COMMAND, 2);
  config.write(PCI_COMMAND, 2, before ^ PCI_COMMAND_INTX_DISABLE);
  const flipped = config.read(PCI_COMMAND, 2);
  config.write(PCI_COMMAND, 2, before);
  return ((before ^ flipped) & PCI_COMMAND_INTX_DISABLE) !== 0;
}

function isIntxPending(config: RawConfigSpace): boolean {
  return (config.read(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT) !== 0;
}

function isIntx(dev: VfioPciCoreDevice): boolean {
  return dev.irqs.type === VFIO_PCI_INTX_IRQ_INDEX;
}

/**
 * Masks INTx. Where it is not the active type only DisINTx follows, and that only on PCI 2.3 functions. Returns whether
 * it was unmasked before.
 */
export function maskIntx(dev: VfioPciCoreDevice): boolean {
  const { irqs } = dev;
  const raw = dev.raw;
  if (!isIntx(dev)) {
    if (dev.pci23) pciIntx(raw.config, false);
    return false;
  }
  if (irqs.intxMasked) return false;
  if (dev.pci23) pciIntx(raw.config, false);
  else raw.interrupts.setIntxLineEnabled(false);
  irqs.intxMasked = true;
  return true;
}

/** Unmasks INTx. If it is still asserted it is signalled again at once and stays masked: the line is level-triggered. */
export function unmaskIntx(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  const raw = dev.raw;
  if (!isIntx(dev)) {
    if (dev.pci23) pciIntx(raw.config, true);
    return;
  }
  if (!irqs.intxMasked || irqs.virqDisabled) return;
  if (!dev.pci23) {
    irqs.intxMasked = false;
    raw.interrupts.setIntxLineEnabled(true);
    return;
  }
  if (isIntxPending(raw.config)) {
    signalIntx(dev);
    return;
  }
  // Before the write: clearing DisINTx may call the handler right away.
  irqs.intxMasked = false;
  pciIntx(raw.config, true);
}

function signalIntx(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  if (isIntx(dev) && !irqs.virqDisabled) irqs.intxTrigger?.signal();
}

/** The line was asserted. */
function handleIntx(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  if (irqs.intxMasked) return;
  const raw = dev.raw;
  if (dev.pci23) {
    // The line is shared: somebody else's interrupt is not ours to mask.
    if (!isIntxPending(raw.config)) return;
    irqs.intxMasked = true;
    pciIntx(raw.config, false);
  } else {
    irqs.intxMasked = true;
    raw.interrupts.setIntxLineEnabled(false);
  }
  signalIntx(dev);
}

/** Makes INTx the active type. @throws EINVAL while another is, ENODEV without a line, EBUSY where the line is taken. */
function enableIntx(dev: VfioPciCoreDevice, request: OwnedRequest): void {
  const { irqs } = dev;
  const raw = dev.raw;
  if (raw.interrupts.intxLine === undefined)
    throw dev.error('ENODEV', 'setIrqs', 'INTx: the pin is not connected to a line');
  // In place before the line is requested: an asserted line calls the handler at once.
  irqs.intxTrigger = request.owned[0] ?? undefined;
  irqs.intxMasked = irqs.virqDisabled;
  irqs.type = VFIO_PCI_INTX_IRQ_INDEX;
  try {
    if (dev.pci23) pciIntx(raw.config, !irqs.intxMasked);
    else raw.interrupts.setIntxLineEnabled(!irqs.intxMasked);
    raw.interrupts.requestIntx(() => handleIntx(dev), !dev.pci23);
    takeTrigger(request, 0);
  } catch (error) {
    irqs.type = IRQ_NONE;
    irqs.intxTrigger = undefined;
    irqs.intxMasked = false;
    throw error;
  }
}

/** Ends INTx: nothing is signalled from now on. */
export function disableIntx(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  stopUnmaskTrigger(dev);
  dev.raw.interrupts.freeIntx();
  irqs.type = IRQ_NONE;
  irqs.intxMasked = false;
  const trigger = irqs.intxTrigger;
  irqs.intxTrigger = undefined;
  trigger?.release();
}

/** From now on the unmask trigger, where there is one, is heard. */
export function watchUnmaskTrigger(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  const trigger = irqs.unmaskTrigger;
  if (trigger === undefined || irqs.stopUnmaskWatch !== undefined) return;
  const stop = trigger.watch(() => unmaskIntx(dev));
  // A trigger that was signalled already may have run code that took it away again.
  if (irqs.unmaskTrigger === trigger) irqs.stopUnmaskWatch = stop;
  else stop();
}

/** The unmask trigger is left alone, so that what it is signalled waits in it. */
export function unwatchUnmaskTrigger(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  irqs.stopUnmaskWatch?.();
  irqs.stopUnmaskWatch = undefined;
}

function stopUnmaskTrigger(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  unwatchUnmaskTrigger(dev);
  const trigger = irqs.unmaskTrigger;
  irqs.unmaskTrigger = undefined;
  trigger?.release();
}

/** VFIO_PCI_INTX_IRQ_INDEX, ACTION_TRIGGER. */
export function setIntxTrigger(dev: VfioPciCoreDevice, request: OwnedRequest): number {
  const { irqs } = dev;
  const { flags, start, count } = request;
  if (isIntx(dev) && count === 0 && (flags & VFIO_IRQ_SET_DATA_NONE) !== 0) {
    disableIntx(dev);
    return 0;
  }
  if (!(isIntx(dev) || irqs.type === IRQ_NONE)) throw busyType(dev, 'INTx');
  requireOne(dev, start, count);
  if ((flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0) {
    if (!isIntx(dev)) {
      enableIntx(dev, request);
      return 0;
    }
    const before = irqs.intxTrigger;
    irqs.intxTrigger = takeTrigger(request, 0);
    before?.release();
    return 0;
  }
  if (!isIntx(dev)) throw dev.error('EINVAL', 'setIrqs', 'INTx is not active, so it cannot be signalled');
  if ((flags & VFIO_IRQ_SET_DATA_NONE) !== 0 || (request.bools?.[0] ?? 0) !== 0) signalIntx(dev);
  return 0;
}

/** VFIO_PCI_INTX_IRQ_INDEX, ACTION_MASK. */
export function setIntxMask(dev: VfioPciCoreDevice, request: OwnedRequest): number {
  requireActive(dev, 'mask');
  requireOne(dev, request.start, request.count);
  if ((request.flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0) {
    throw dev.error('ENOTTY', 'setIrqs', 'INTx: masking by an eventfd is not implemented, as in the kernel');
  }
  if ((request.flags & VFIO_IRQ_SET_DATA_BOOL) === 0 || (request.bools?.[0] ?? 0) !== 0) maskIntx(dev);
  return 0;
}

/** VFIO_PCI_INTX_IRQ_INDEX, ACTION_UNMASK. */
export function setIntxUnmask(dev: VfioPciCoreDevice, request: OwnedRequest): number {
  const { irqs } = dev;
  requireActive(dev, 'unmask');
  requireOne(dev, request.start, request.count);
  if ((request.flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0) {
    const wanted = request.owned[0] ?? undefined;
    if (wanted === undefined) {
      stopUnmaskTrigger(dev);
      return 0;
    }
    if (irqs.unmaskTrigger !== undefined) {
      throw dev.error('EBUSY', 'setIrqs', 'INTx has an unmask eventfd already; remove it first');
    }
    const trigger: EventTrigger = wanted;
    takeTrigger(request, 0);
    irqs.unmaskTrigger = trigger;
    watchUnmaskTrigger(dev);
    return 0;
  }
  if ((request.flags & VFIO_IRQ_SET_DATA_BOOL) === 0 || (request.bools?.[0] ?? 0) !== 0) unmaskIntx(dev);
  return 0;
}

function requireActive(dev: VfioPciCoreDevice, what: string): void {
  if (!isIntx(dev)) throw dev.error('EINVAL', 'setIrqs', `INTx is not active, so there is nothing to ${what}`);
}

function requireOne(dev: VfioPciCoreDevice, start: number, count: number): void {
  if (start === 0 && count === 1) return;
  throw dev.error('EINVAL', 'setIrqs', `INTx: start ${start}, count ${count}; only 0 and 1 are allowed`);
}

const TYPE_NAMES = ['INTx', 'MSI', 'MSI-X'];

/** Another type than the wanted one is active. */
export function busyType(dev: VfioPciCoreDevice, wanted: string) {
  const active = TYPE_NAMES[dev.irqs.type] ?? 'none';
  return dev.error('EINVAL', 'setIrqs', `${wanted} asked for while ${active} is active; disable that first`);
}
