/** What a controller's writable registers hold (NVM Express 1.4, 3.1). */
export class ControllerRegisters {
  cc = 0;
  csts = 0;
  aqa = 0;
  /** Low and high half. */
  readonly asq = new Int32Array(2);
  readonly acq = new Int32Array(2);

  /** A function reset. */
  clear(): void {
    this.cc = 0;
    this.csts = 0;
    this.aqa = 0;
    this.asq.fill(0);
    this.acq.fill(0);
  }

  get asqAddress(): number {
    return address(this.asq);
  }

  get acqAddress(): number {
    return address(this.acq);
  }

  get adminSqSize(): number {
    return (this.aqa & 0xfff) + 1;
  }

  get adminCqSize(): number {
    return ((this.aqa >>> 16) & 0xfff) + 1;
  }
}

function address(halves: Int32Array): number {
  return ((halves[1] ?? 0) >>> 0) * 0x100000000 + ((halves[0] ?? 0) >>> 0);
}
