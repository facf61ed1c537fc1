import type { ConfigSpaceHost } from './host.js';

/** Where the first MSI capability is and what it can do; as hardware shows it. */
export interface MsiCapability {
  readonly position: number;
  /** 1 << MMC: 1 to 32. */
  readonly vectors: number;
  readonly is64Bit: boolean;
  readonly maskable: boolean;
}

/** Where the first MSI-X capability and its tables are; as hardware shows it. */
export interface MsixCapability {
  readonly position: number;
  /** 1 to 2048. */
  readonly vectors: number;
  readonly tableBar: number;
  readonly tableOffset: number;
  readonly pbaBar: number;
  readonly pbaOffset: number;
}

/** The config space that a VFIO user sees, over the hardware's. One for each opening of a device. */
export declare class VirtualConfigSpace {
  constructor(host: ConfigSpaceHost);
  /** 256 or 4096. */
  readonly size: number;
  /** The virtual values, one byte each; hardware is behind those whose permission says so. For drivers that overlay. */
  readonly vconfig: Uint8Array;
  /** Owner of each byte: capability id, or one of MAP_BASIC (0), MAP_VIRTUAL (0xfe), MAP_UNASSIGNED (0xff). */
  readonly map: Uint8Array;
  /** Builds the virtual view; called at open, after DisINTx was settled. @throws EFAULT (MSI or PCI-X at an odd position). */
  init(): void;
  /** Reads `data.length` bytes. @throws EFAULT out of range, before anything is read. */
  read(offset: number, data: Uint8Array): number;
  /** Writes; a promise only where the host's reset or power change returned one. @throws EFAULT out of range, before anything is written. */
  write(offset: number, data: Uint8Array): number | Promise<number>;
  /** Whether BAR memory may be accessed: power above D3hot, and memory enabled virtually or the function has no such bit. */
  get memoryEnabled(): boolean;
  /** Virtual interrupt pin: 0 where the user has no INTx. */
  get interruptPin(): number;
  get msi(): MsiCapability | undefined;
  get msix(): MsixCapability | undefined;
  /** Makes bytes the user's own: readable, writable, never hardware (IGD: 0xfc, 4). */
  markVirtual(offset: number, length: number): void;
}
