import type { RawFunctionBase } from '../../pci/raw-function.js';

/** PCI power states as PMCSR numbers them: D0, D1, D2, D3hot. */
export type PciPowerState = 0 | 1 | 2 | 3;

/**
 * What the virtual config space asks of the device it belongs to. The device implements it; config space never reaches
 * around it. Properties are read at each use, so getters over live state are fine; none may allocate.
 */
export interface ConfigSpaceHost {
  /** The hardware. */
  readonly raw: RawFunctionBase;
  /** Address of the function, for messages. */
  readonly address: string;
  /** The ids that the host knows the function by. A VF's own id registers read all ones, so these are shown. */
  readonly vendor: number;
  readonly device: number;
  /** A virtual function: no interrupt pin, ids from {@link vendor}, nothing rewritten after a backdoor reset. */
  readonly isVf: boolean;
  /** The function decodes memory whatever COMMAND says (VFs): the enable bit exists only virtually. */
  readonly noCommandMemory: boolean;
  /** INTx can be delivered: support is not switched off and the line is connected. Where not, the pin reads 0. */
  readonly intxUsable: boolean;
  /** INTx of this device is broken: the pin reads 0 and hardware's DisINTx stays set, also after a backdoor reset. */
  readonly nointx: boolean;

  /** The user has set DisINTx in COMMAND. Owned by interrupts, switched here. False at open. */
  virqDisabled: boolean;
  /** Called after {@link virqDisabled} became true. Where INTx is not the active type the device only lets hardware's
   * DisINTx follow, and that only on PCI 2.3 functions. */
  maskIntx(): void;
  /** Called after {@link virqDisabled} became false; likewise. */
  unmaskIntx(): void;
  /** MSI is the active interrupt type: the only time that the user's MSI enable bit may stand. */
  readonly msiActive: boolean;
  /** ceil(log2(vectors)) of the last MSI enabling, 0 before any: the most that the user may write as QSIZE. */
  readonly msiQmax: number;

  /** Current power state of the hardware. */
  readonly powerState: PciPowerState;
  /**
   * Moves the function between power states: saves and restores what the transition loses, refuses (EBUSY) a PF with
   * VFs, a state that the function does not have (EIO), and any way up but to D0 (EINVAL). Called between
   * {@link lockMemory} and {@link unlockMemory}; a failure is the user's to notice by reading PMCSR.
   */
  setPowerState(state: PciPowerState): void | Promise<void>;
  /**
   * `pci_try_reset_function`: saves state, resets the function, restores, and brings the migration state machine back
   * to RUNNING. Called between {@link lockMemory} and {@link unlockMemory}; a failure is not reported to the user.
   */
  tryResetFunction(): void | Promise<void>;

  /**
   * Takes memory decode for changing: until {@link unlockMemory} no BAR access may reach the hardware. With `zap` the
   * BAR mappings of users die and DMA buffers over BARs are revoked.
   */
  lockMemory(zap: boolean): void;
  /** Ends {@link lockMemory}. Where memory is enabled now (`VirtualConfigSpace.memoryEnabled`), what was revoked is given back. */
  unlockMemory(): void;

  /** A sentence for the log: a device that breaks the rules, not a user who does. Never throws. */
  warn(message: string): void;
}
