import {
  hex,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '@vfio/uapi';
import type { SavedView } from './config/index.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { unwatchUnmaskTrigger, watchUnmaskTrigger } from './intx.js';
import { IRQ_NONE } from './irq-state.js';
import { irqCount } from './set-irqs.js';
import type { EventTrigger } from './triggers.js';

/** The interrupts that a user has set up. */
export interface VirtualIrqs {
  /** VFIO_PCI_INTX_IRQ_INDEX, MSI, MSIX; undefined: none is active. */
  readonly type: number | undefined;
  /** Of INTx, MSI or MSI-X, by vector; null where one is not armed. As many as were allocated together come first. */
  readonly vectors: readonly (EventTrigger | null)[];
  /** Vectors that were allocated when the type was enabled: MSI-X ones may have been added later. */
  readonly allocated: number;
  /** INTx is masked: it was signalled and not unmasked, or the user masked it. */
  readonly intxMasked: boolean;
  readonly unmask: EventTrigger | null;
  readonly err: EventTrigger | null;
  readonly req: EventTrigger | null;
}

/**
 * What core keeps for the user of an opened device, and what a VMM would set up anew after a migration: the config space that
 * the user sees and the interrupts. With the driver's migration stream it is all that makes the device the same one in
 * another process. Memory is not part of it: who maps it maps it again.
 */
export interface VirtualState {
  readonly config: SavedView;
  readonly irqs: VirtualIrqs;
}

/**
 * The virtual state of an opened device. Nothing changes; the triggers stay the device's.
 * @throws ENOTTY on a function whose config space is not core's (the kernel's device, a peer's), ENODEV where it is not open,
 *   EBUSY where it has what cannot be set up anew: low power with a wake-up, ioeventfds
 */
export function saveVirtualState(dev: VfioPciCoreDevice): VirtualState {
  const op = 'saveVirtualState';
  if (dev.fn.base.kind !== 'raw') throw dev.error('ENOTTY', op, 'its config space is kept by whoever has the hardware');
  const { config, irqs } = dev;
  if (config === undefined) throw dev.error('ENODEV', op, 'the device is not open');
  if (dev.power.engaged) throw dev.error('EBUSY', op, 'the user has put it into low power');
  if (dev.ioeventfds.count > 0) throw dev.error('EBUSY', op, 'the user has set ioeventfds');
  const isIntx = irqs.type === VFIO_PCI_INTX_IRQ_INDEX;
  const armed = isIntx ? [irqs.intxTrigger] : irqs.vectors;
  return {
    config: config.save(),
    irqs: {
      type: irqs.type === IRQ_NONE ? undefined : irqs.type,
      vectors: Array.from({ length: Math.max(armed.length, irqs.allocated) }, (_, vector) => armed[vector] ?? null),
      allocated: isIntx ? 1 : irqs.allocated,
      intxMasked: irqs.intxMasked,
      unmask: irqs.unmaskTrigger ?? null,
      err: irqs.errTrigger ?? null,
      req: irqs.reqTrigger ?? null,
    },
  };
}

/** Between this and {@link resumeVirtualState} nothing that the user signals is consumed: it waits for who goes on. */
export function holdVirtualState(dev: VfioPciCoreDevice): void {
  unwatchUnmaskTrigger(dev);
}

/** The user is heard: after {@link restoreVirtualState}, and where {@link holdVirtualState} came to nothing. */
export function resumeVirtualState(dev: VfioPciCoreDevice): void {
  watchUnmaskTrigger(dev);
}

/**
 * Gives a device that was just opened the virtual state of another one; the user is not heard before
 * {@link resumeVirtualState}. The triggers are the device's from now on, whatever comes of it. After a failure the device is to
 * be closed.
 * @throws EINVAL: another function, interrupts that it does not have; ENOTTY, ENODEV as {@link saveVirtualState};
 *   ENOSPC: fewer vectors than were allocated; what arming an interrupt throws
 */
export async function restoreVirtualState(dev: VfioPciCoreDevice, state: VirtualState): Promise<void> {
  const { irqs } = state;
  const unused = new Set([...irqs.vectors, irqs.unmask, irqs.err, irqs.req].filter((trigger) => trigger !== null));
  const take = <T extends EventTrigger | null>(trigger: T): T => {
    if (trigger !== null) unused.delete(trigger);
    return trigger;
  };
  try {
    const mine = saveVirtualState(dev);
    checkIrqs(dev, mine.irqs, irqs);
    // INTx starts masked where DisINTx is set, which is how one starts that is masked already.
    dev.irqs.virqDisabled = irqs.intxMasked;
    armVectors(dev, irqs, take);
    // The write to COMMAND does the rest, which is nothing where INTx is active.
    const command = state.config.values[PCI_COMMAND + 1] ?? 0;
    dev.irqs.virqDisabled = irqs.type === VFIO_PCI_INTX_IRQ_INDEX && (command & (PCI_COMMAND_INTX_DISABLE >> 8)) !== 0;
    for (const [index, trigger] of [
      [VFIO_PCI_ERR_IRQ_INDEX, irqs.err],
      [VFIO_PCI_REQ_IRQ_INDEX, irqs.req],
    ] as const) {
      if (trigger !== null) arm(dev, index, 0, [take(trigger)]);
    }
    if (irqs.unmask !== null) dev.irqs.unmaskTrigger = take(irqs.unmask);
    await dev.config!.restore(state.config);
  } finally {
    for (const trigger of unused) trigger.release();
  }
}

function checkIrqs(dev: VfioPciCoreDevice, mine: VirtualIrqs, irqs: VirtualIrqs): void {
  const refuse = (why: string) => dev.error('EINVAL', 'restoreVirtualState', why);
  if (mine.type !== undefined) throw refuse('it has interrupts already');
  const { type, allocated, vectors } = irqs;
  if (type === undefined) {
    if (vectors.length > 0 || allocated > 0) throw refuse('vectors of no type of interrupt');
  } else {
    const has = type <= VFIO_PCI_MSIX_IRQ_INDEX ? irqCount(dev, type) : 0;
    if (allocated < 1 || allocated > vectors.length || vectors.length > has) {
      throw refuse(`${allocated} of ${vectors.length} vectors of interrupt type ${type}, of which it has ${has}`);
    }
  }
  if (type !== VFIO_PCI_INTX_IRQ_INDEX && (irqs.unmask !== null || irqs.intxMasked)) {
    throw refuse(`INTx is masked or has an unmask trigger, and is not active (type ${hex(type ?? -1)})`);
  }
}

function armVectors(
  dev: VfioPciCoreDevice,
  { type, vectors, allocated }: VirtualIrqs,
  take: (trigger: EventTrigger | null) => EventTrigger | null,
): void {
  if (type === undefined) return;
  arm(dev, type, 0, vectors.slice(0, allocated).map(take));
  for (let vector = allocated; vector < vectors.length; vector++) {
    const trigger = vectors[vector]!;
    if (trigger !== null) arm(dev, type, vector, [take(trigger)]);
  }
}

/** @throws ENOSPC where fewer vectors can be had; what SET_IRQS throws */
function arm(dev: VfioPciCoreDevice, index: number, start: number, triggers: readonly (EventTrigger | null)[]): void {
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  const short = dev.ops.setIrqs(dev, { flags, index, start, count: triggers.length, triggers });
  if (short > 0) {
    throw dev.error('ENOSPC', 'restoreVirtualState', `${triggers.length} vectors wanted, ${short} can be had`);
  }
}
