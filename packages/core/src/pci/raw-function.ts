import type { DmaSpace } from '../device/dma-space.js';
import type { PciFunction } from './function.js';

/** Width of one register access in bytes. An 8-byte access is the optional qword pair of {@link RegisterSpace}. */
export type AccessWidth = 1 | 2 | 4;

/** Memory that can be handed out for loads and stores. */
export interface SharedMemory {
  /** The bytes as this process sees them. Length 0 once the memory is gone. */
  readonly bytes: Uint8Array;
  /** A descriptor that another process can map at `fdOffset`; undefined where the memory is private. Owned by the giver. */
  readonly fd: number | undefined;
  readonly fdOffset: number;
}

/** A page-aligned part of a region that is plain memory and may be mapped. */
export interface MmapArea {
  /** Bytes from the start of the region. */
  readonly offset: number;
  readonly size: number;
  readonly memory: SharedMemory;
}

/**
 * A BAR or ROM as loads and stores reach it. Offsets are naturally aligned to the width and in range: the caller has
 * checked. Accessors are synchronous, do not throw and do not allocate. Values are int32 patterns: a 32-bit value is
 * returned as `v | 0` (an unsigned one above 2^31 would be a heap number), narrower ones are 0..0xffff; who needs the
 * unsigned value takes `>>> 0`. A load from nowhere is all ones (-1); a store to nowhere is dropped.
 */
export interface RegisterSpace {
  readonly size: number;
  read(offset: number, width: AccessWidth): number;
  write(offset: number, width: AccessWidth, value: number): void;
  /** One 8-byte access, little-endian bytes at `at`. Absent: callers make two 4-byte accesses, low half first. */
  readQword?(offset: number, into: DataView, at: number): void;
  writeQword?(offset: number, from: DataView, at: number): void;
  /** The parts that are plain memory; empty where every access must be seen. */
  readonly mmapAreas: readonly MmapArea[];
}

/** Hardware config space, little-endian registers. Same rules as {@link RegisterSpace}. */
export interface RawConfigSpace {
  /** 256 or 4096. */
  readonly size: number;
  read(offset: number, width: AccessWidth): number;
  write(offset: number, width: AccessWidth, value: number): void;
}

/** A decoded address range of a function: the kernel's `struct resource`. */
export interface PciResource {
  /** Address on the host's bus; 0 where none is assigned. Below 2^53. */
  readonly start: number;
  /** Bytes; a power of two for real BARs. */
  readonly size: number;
  readonly io: boolean;
  readonly prefetchable: boolean;
  /** A memory BAR that takes two BAR registers. */
  readonly is64Bit: boolean;
  /** Bytes of the copy of a ROM that firmware kept in memory; it stands for a ROM without a BAR (`start` 0). */
  readonly shadowLength?: number;
}

/**
 * The host's interrupt services: what `pci_alloc_irq_vectors`, `request_irq` and friends are to the kernel's driver.
 * Handlers run synchronously in the device's thread.
 */
export interface RawInterrupts {
  /** The INTx line's number, or undefined where the pin is not connected. */
  readonly intxLine: number | undefined;
  /** Takes the line. The handler is called whenever the line becomes asserted and unmasked (DisINTx clear, line enabled).
   * @throws EBUSY where `exclusive` cannot be had or the line is taken. */
  requestIntx(handler: () => void, exclusive: boolean): void;
  freeIntx(): void;
  /** Masks or unmasks at the interrupt controller. On unmasking an asserted line the handler is called again. */
  setIntxLineEnabled(enabled: boolean): void;
  /** Whether single MSI-X vectors can be added while the type is enabled. */
  readonly dynamicMsix: boolean;
  /** Allocates 1..count vectors and enables the capability; returns how many there are. Count is what was asked, or
   * the most that can be had. If the answer is smaller than `count` nothing is enabled.
   * @throws ENOSPC where there is none. */
  allocVectors(type: 'msi' | 'msix', count: number): number;
  /** Adds one MSI-X vector beyond the allocated ones. @throws ENOSPC, EINVAL beyond the table. */
  allocMsixAt(vector: number): void;
  /** Disables the capability and frees every vector. */
  freeVectors(): void;
  /** Sets or (undefined) removes the handler of an allocated vector. A vector without a handler is masked; an
   * interrupt that came while it was masked is delivered on unmasking (MSI-X pending bit).
   * @throws EINVAL for a vector that is not allocated. */
  setVectorHandler(vector: number, handler: (() => void) | undefined): void;
  /** Writes the cached message of a vector to the hardware again: protection from resets behind the driver's back. */
  rewriteMessage(vector: number): void;
}

/** The functions that one slot or bus reset takes with it. */
export interface RawResetScope {
  readonly kind: 'slot' | 'bus';
  /** Every function under the slot or bus, bridges included, this one too. */
  functions(): readonly PciFunction[];
  /** Resets all of them. @throws EAGAIN where a lock is contended, ENOTTY where it cannot. */
  tryReset(): void | Promise<void>;
}

/** SR-IOV of a physical function. */
export interface RawSriov {
  readonly totalVfs: number;
  readonly numVfs: number;
  /** The kernel's `sriov_drivers_autoprobe`. */
  readonly driversAutoprobe: boolean;
  /** Creates VFs; the host announces each. @throws EBUSY where some exist, EINVAL out of range. */
  enable(count: number): void | Promise<void>;
  disable(): void | Promise<void>;
}

/** Ranges of a BAR as a DMA buffer (dma-buf) of the host. */
export interface RawDmaBuf {
  /** Belongs to whoever asked for the buffer. */
  readonly fd: number;
  /** Accesses through the buffer fail while it is revoked. */
  setRevoked(revoked: boolean): void;
}

/** What resets a function alone, best first: the kernel's reset methods. */
export type FunctionResetMethod = 'flr' | 'af_flr' | 'pm' | 'bus' | 'device_specific';

/**
 * What befalls a function without its driver's doing: an uncorrectable error was reported (AER), or the host has reset it,
 * to recover it from one or because its owner wanted it, and written its configuration back.
 */
export type RawErrorEvent = 'error-detected' | 'reset-done';

/**
 * A function as bare hardware: our core virtualises it, as `vfio_pci_core` does in the kernel. Everything the kernel's
 * PCI core does for that driver is either here or in core's helpers over {@link RawConfigSpace}.
 */
export interface RawFunctionBase {
  readonly kind: 'raw';
  readonly config: RawConfigSpace;
  /** Index 0-5 BARs (the upper register of a 64-bit BAR is undefined), 6 ROM. */
  readonly resources: readonly (PciResource | undefined)[];
  /** The accessor of BAR 0-5 or ROM (6). @throws EBUSY where the range cannot be reserved, ENOMEM where it cannot be mapped. */
  open(index: number): RegisterSpace;
  /** The legacy VGA ranges, at identity offsets, where the function decodes them. */
  readonly vga: RegisterSpace | undefined;
  readonly interrupts: RawInterrupts;
  /** Empty where the function cannot be reset alone. */
  readonly resetMethods: readonly FunctionResetMethod[];
  /** `pci_try_reset_function`, config space saved and restored around it by the caller.
   * @throws ENOTTY without a method, EAGAIN where a lock is contended. */
  tryResetFunction(): void | Promise<void>;
  readonly resetScope: RawResetScope | undefined;
  /** Moves the function to D0..D3hot, with the state loss that this has in hardware. Asked only where there is a power
   * management capability, and for ways and states that it allows; what PMCSR shows afterwards is where it got to. */
  setPowerState(state: 0 | 1 | 2 | 3): void | Promise<void>;
  readonly sriov: RawSriov | undefined;
  /** Where the function's DMA goes from now on; undefined: nowhere (every access faults). */
  attachDma(space: DmaSpace | undefined): void;
  /** Registers for what befalls the function; the result unregisters. */
  onError(handler: (event: RawErrorEvent) => void): () => void;
  /** Makes a DMA buffer of page-aligned ranges of a BAR. Absent where the host cannot. */
  exportDmaBuf?(
    region: number,
    ranges: readonly { readonly offset: number; readonly length: number }[],
    openFlags: number,
  ): RawDmaBuf;
  /** The function's BARs may not be mapped by users (`non_mappable_bars`). */
  readonly nonMappableBars?: boolean;
}
