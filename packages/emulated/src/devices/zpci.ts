import type { ZpciErrors, ZpciFacts, ZpciGroup } from '@vfio/core';

/** Error records that are kept for a user; later ones are lost. */
const MAX_ERRORS = 4;

/** Bytes of a record, and where its fields are, in the byte order of this machine. */
const RECORD = { SIZE: 32, FH: 4, FID: 8, FADDR: 0x10, PEC: 0x1e } as const;

/** An error event, as the machine reports it. */
export interface ZpciErrorEvent {
  /** PCI event code. */
  readonly pec: number;
  /** Address of the DMA that failed. @default 0 */
  readonly faddr?: bigint;
}

/** What can be told of an {@link EmulatedZpci}; the rest is as QEMU's s390 machine has it. */
export interface ZpciOptions extends Partial<Omit<ZpciFacts, 'errors' | 'group'>> {
  readonly group?: Partial<ZpciGroup>;
  /** Function id. @default 0 */
  readonly fid?: number;
  /** The host gives error records away. @default true */
  readonly hasErrors?: boolean;
}

/** The s390 side of a function. Give it to `host.add` as the platform fact `ZPCI`. */
export class EmulatedZpci implements ZpciFacts, ZpciErrors {
  readonly startDma: bigint;
  readonly endDma: bigint;
  readonly pchid: number;
  readonly vfn: number;
  readonly fmbLength: number;
  readonly pft: number;
  readonly gid: number;
  /** Changes when the function is enabled anew. */
  fh: number;
  readonly fid: number;
  readonly group: ZpciGroup;
  readonly utilStr: Uint8Array | undefined;
  readonly pfip: Uint8Array;
  readonly errors: ZpciErrors | undefined;
  readonly #records: Uint8Array[] = [];
  #isKept = false;

  constructor(options: ZpciOptions = {}) {
    this.startDma = options.startDma ?? 0x1_0000_0000n;
    this.endDma = options.endDma ?? 0x1_3fff_ffffn;
    this.pchid = options.pchid ?? 0;
    this.vfn = options.vfn ?? 0;
    this.fmbLength = options.fmbLength ?? 0;
    this.pft = options.pft ?? 0;
    this.gid = options.gid ?? 0xff;
    this.fid = options.fid ?? 0;
    this.fh = options.fh ?? 0x80000000 + this.fid;
    this.group = {
      dasm: 0n,
      msiAddr: 0xfe00_0000_0000_0000n,
      mui: 4000,
      noi: 128,
      maxstbl: 128,
      version: 0,
      ...options.group,
    };
    this.utilStr = options.utilStr;
    this.pfip = options.pfip ?? new Uint8Array(4);
    this.errors = options.hasErrors === false ? undefined : this;
  }

  /** An error of the function. Nobody hears of it while no user has the function: the host handles those. */
  report({ pec, faddr = 0n }: ZpciErrorEvent): void {
    if (!this.#isKept || this.#records.length === MAX_ERRORS) return;
    const record = new Uint8Array(RECORD.SIZE);
    const view = new DataView(record.buffer);
    const isLittleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;
    view.setUint32(RECORD.FH, this.fh, isLittleEndian);
    view.setUint32(RECORD.FID, this.fid, isLittleEndian);
    view.setBigUint64(RECORD.FADDR, faddr, isLittleEndian);
    view.setUint16(RECORD.PEC, pec, isLittleEndian);
    this.#records.push(record);
  }

  start(): void {
    this.#isKept = true;
  }

  stop(): void {
    this.#isKept = false;
    this.#records.length = 0;
  }

  take(): Uint8Array | undefined {
    return this.#records.shift();
  }
}
