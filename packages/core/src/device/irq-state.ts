import { VFIO_PCI_NUM_IRQS } from '@vfio/uapi';
import type { EventTrigger } from './triggers.js';

/** No interrupt type is active. */
export const IRQ_NONE = VFIO_PCI_NUM_IRQS;

/** What a device keeps of its interrupts. */
export class IrqState {
  /** VFIO_PCI_INTX_IRQ_INDEX, MSI, MSIX, or {@link IRQ_NONE}: only one at a time. */
  type: number = IRQ_NONE;
  /** The user has set DisINTx. */
  virqDisabled = false;
  /** INTx is masked: by the user or by having been signalled. */
  intxMasked = false;
  intxTrigger: EventTrigger | undefined = undefined;
  /** Unmasks INTx whenever it is signalled (the resample eventfd). */
  unmaskTrigger: EventTrigger | undefined = undefined;
  stopUnmaskWatch: (() => void) | undefined = undefined;
  /** Triggers of MSI and MSI-X vectors. */
  readonly vectors: (EventTrigger | undefined)[] = [];
  /** Vectors that were allocated when the type was enabled. */
  allocated = 0;
  /** MSI-X vectors that were added later; kept until the type is disabled. */
  readonly added = new Set<number>();
  /** ceil(log2(vectors)) of the last MSI enabling. */
  msiQmax = 0;
  errTrigger: EventTrigger | undefined = undefined;
  reqTrigger: EventTrigger | undefined = undefined;
  /** The host can add MSI-X vectors one by one; settled at enable. */
  dynamicMsix = false;
}
