import {
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { busyType, pciIntx } from './intx.js';
import { IRQ_NONE } from './irq-state.js';
import { withMemoryEnabled } from './memory.js';
import { type OwnedRequest, takeTrigger } from './owned-request.js';
import type { EventTrigger } from './triggers.js';

function nameOf(index: number): string {
  return index === VFIO_PCI_MSIX_IRQ_INDEX ? 'MSI-X' : 'MSI';
}

/** VFIO_PCI_MSI_IRQ_INDEX and MSIX, ACTION_TRIGGER. */
export function setMsiTrigger(dev: VfioPciCoreDevice, request: OwnedRequest): number {
  const { irqs } = dev;
  const { index, flags, start, count } = request;
  const isActive = irqs.type === index;
  if (isActive && count === 0 && (flags & VFIO_IRQ_SET_DATA_NONE) !== 0) {
    disableMsi(dev);
    return 0;
  }
  if (!(isActive || irqs.type === IRQ_NONE)) throw busyType(dev, nameOf(index));
  if ((flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0) {
    if (isActive) {
      setBlock(dev, request);
      return 0;
    }
    const short = enableMsi(dev, index, start + count);
    if (short !== 0) return short;
    try {
      setBlock(dev, request);
    } catch (error) {
      disableMsi(dev);
      throw error;
    }
    return 0;
  }
  if (!isActive) throw dev.error('EINVAL', 'setIrqs', `${nameOf(index)} is not active, so it cannot be signalled`);
  for (let i = 0; i < count; i++) {
    if ((flags & VFIO_IRQ_SET_DATA_NONE) !== 0 || (request.bools?.[i] ?? 0) !== 0) irqs.vectors[start + i]?.signal();
  }
  return 0;
}

/** Allocates vectors and makes the type active. Returns 0, or how many can be had where that is fewer than asked.
 * @throws ERANGE for none at all. */
function enableMsi(dev: VfioPciCoreDevice, index: number, vectors: number): number {
  const { irqs } = dev;
  if (vectors === 0)
    throw dev.error('ERANGE', 'setIrqs', `${nameOf(index)}: 0 vectors asked for; at least 1 is needed`);
  const got = withMemoryEnabled(dev, () =>
    dev.raw.interrupts.allocVectors(index === VFIO_PCI_MSI_IRQ_INDEX ? 'msi' : 'msix', vectors),
  );
  if (got < vectors) return got;
  irqs.type = index;
  irqs.allocated = vectors;
  if (index === VFIO_PCI_MSI_IRQ_INDEX) irqs.msiQmax = 32 - Math.clz32(vectors - 1);
  return 0;
}

/** Ends MSI or MSI-X: every vector goes, nothing is signalled from now on. */
export function disableMsi(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  for (let vector = 0; vector < irqs.vectors.length; vector++) clearVector(dev, vector);
  irqs.vectors.length = 0;
  withMemoryEnabled(dev, () => dev.raw.interrupts.freeVectors());
  irqs.allocated = 0;
  irqs.added.clear();
  irqs.type = IRQ_NONE;
  // Ending MSI clears DisINTx, which must stay set where INTx is broken.
  if (dev.nointx) pciIntx(dev.raw.config, false);
}

/**
 * Sets `count` vectors from `start`. At a failure every vector from the first to the failing one is freed, what was there
 * before included.
 */
function setBlock(dev: VfioPciCoreDevice, request: OwnedRequest): void {
  const { start, count } = request;
  for (let i = 0; i < count; i++) {
    try {
      setVector(dev, request.index, start + i, request.owned[i] ?? undefined);
      takeTrigger(request, i);
    } catch (error) {
      for (let done = start; done <= start + i; done++) clearVector(dev, done);
      throw error;
    }
  }
}

/** Frees a vector's trigger; the vector itself stays allocated. */
function clearVector(dev: VfioPciCoreDevice, vector: number): void {
  const { irqs } = dev;
  const trigger = irqs.vectors[vector];
  if (trigger === undefined) return;
  irqs.vectors[vector] = undefined;
  withMemoryEnabled(dev, () => dev.raw.interrupts.setVectorHandler(vector, undefined));
  trigger.release();
}

function setVector(dev: VfioPciCoreDevice, index: number, vector: number, trigger: EventTrigger | undefined): void {
  const { irqs } = dev;
  const { interrupts } = dev.raw;
  clearVector(dev, vector);
  if (trigger === undefined) return;
  if (vector >= irqs.allocated && !irqs.added.has(vector)) {
    if (index !== VFIO_PCI_MSIX_IRQ_INDEX || !irqs.dynamicMsix) {
      throw dev.error(
        'EINVAL',
        'setIrqs',
        `${nameOf(index)} vector ${vector}: only ${irqs.allocated} are allocated; disable and enable again with more`,
      );
    }
    withMemoryEnabled(dev, () => interrupts.allocMsixAt(vector));
    irqs.added.add(vector);
  }
  withMemoryEnabled(dev, () => {
    // A reset behind our back has emptied the table: the message is written before the vector is unmasked.
    if (index === VFIO_PCI_MSIX_IRQ_INDEX) interrupts.rewriteMessage(vector);
    irqs.vectors[vector] = trigger;
    try {
      interrupts.setVectorHandler(vector, () => irqs.vectors[vector]?.signal());
    } catch (error) {
      irqs.vectors[vector] = undefined;
      throw error;
    }
  });
}
