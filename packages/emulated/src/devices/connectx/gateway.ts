import type { FunctionContext } from '../../model.js';

/** Registers of the vendor-specific capability, through which tools reach the device's address spaces. */
const VSC = { CONTROL: 0x4, COUNTER: 0x8, SEMAPHORE: 0xc, ADDRESS: 0x10, DATA: 0x14, LENGTH: 0x18 } as const;

/** The capability's header: id, next pointer, length. */
const HEADER = 3;

/**
 * The gateway in configuration space: a semaphore that one party takes with a number it read from a counter, and a
 * choice of address spaces. This device opens none of its spaces: the status of each stays 0, "not supported".
 */
export function addGateway(ctx: FunctionContext): void {
  const { config } = ctx;
  const writable = new Uint8Array(VSC.LENGTH - HEADER);
  const mask = new DataView(writable.buffer);
  mask.setUint16(VSC.CONTROL - HEADER, 0xffff, true);
  mask.setUint32(VSC.SEMAPHORE - HEADER, 0xffffffff, true);
  const at = ctx.vendor(new Uint8Array(writable.length), writable);
  config.set(at + VSC.COUNTER, 4, 1);
  config.onWrite(at + VSC.SEMAPHORE, (_offset, _width, owner) => {
    const wanted = config.get(at + VSC.SEMAPHORE, 4);
    // Taken: only giving it back has an effect.
    if (owner !== 0 && wanted !== 0) config.set(at + VSC.SEMAPHORE, 4, owner);
    // Nobody reads a number that somebody else has taken it with.
    config.set(at + VSC.COUNTER, 4, (config.get(at + VSC.COUNTER, 4) + 1) >>> 0 || 1);
  });
}
