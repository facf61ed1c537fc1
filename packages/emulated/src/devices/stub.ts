import type { FunctionIdentity } from '../config/header.js';
import type { BarOptions, DeviceModel, FunctionContext } from '../model.js';

/** What a {@link StubDevice} shows. */
export interface StubOptions {
  readonly identity: FunctionIdentity;
  readonly bars?: Readonly<Record<number, BarOptions>>;
  /** MSI-X vectors, in a BAR of their own (BAR 4). */
  readonly msix?: number;
  readonly express?: boolean;
  readonly intx?: boolean;
}

/**
 * A function that can be found, matched and opened, with nothing behind its registers: for trying what drivers a
 * function would get without the device.
 */
export class StubDevice implements DeviceModel {
  constructor(ctx: FunctionContext, options: StubOptions) {
    ctx.identity(options.identity);
    if (options.intx === true) ctx.intx();
    for (const [index, bar] of Object.entries(options.bars ?? {})) ctx.bar(Number(index), bar);
    if (options.msix !== undefined) {
      ctx.bar(4, { size: 0x2000 * Math.ceil(options.msix / 256) });
      ctx.msix({
        vectors: options.msix,
        table: { bar: 4, offset: 0 },
        pba: { bar: 4, offset: 0x1000 * Math.ceil(options.msix / 256) },
      });
    }
    if (options.express === true) ctx.express({ flr: true });
  }

  reset(): void {}
}
