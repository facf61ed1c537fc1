import { Edu, type FunctionContext } from '@vfio/emulated';
import { MemfdMemory } from '../helpers/devices.js';
import { generic } from '../helpers/generic.js';
import { cleanup } from '../helpers/serve.js';

/** How the device that peers attach to is made. */
export interface PeerDeviceOptions {
  /** PCI Express with FLR: it can be reset. @default true */
  readonly express?: boolean;
  /** BAR 2: memory that can be mapped. @default true */
  readonly memory?: boolean;
  /** Vectors of MSI-X, whose table is in BAR 4. @default 20 */
  readonly vectors?: number;
}

/** 2 KiB with the signatures that a ROM is known by, and one image. */
function romImage(): Uint8Array {
  const rom = Uint8Array.from({ length: 2048 }, (_, at) => at & 0xff);
  rom.set([0x55, 0xaa, 4]);
  rom.set([0x1c, 0], 0x18);
  rom.set(new TextEncoder().encode('PCIR'), 0x1c);
  rom.set([0x34, 0x12, 0xe8, 0x11], 0x20);
  rom.set([4, 0], 0x1c + 0x10);
  rom.set([0x80], 0x1c + 0x15);
  return rom;
}

/** An edu with all that a monitor looks at: memory that can be mapped, MSI-X, INTx, a ROM, reset; behind the generic driver. */
export async function peerDevice(options: PeerDeviceOptions = {}) {
  const { express = true, memory = true, vectors = 20 } = options;
  const provider = new MemfdMemory();
  cleanup(() => provider.close());
  const rom = romImage();
  const made = await generic(
    (ctx: FunctionContext) => {
      const edu = new Edu(ctx, { express });
      if (memory) ctx.bar(2, { size: 0x4000, memory: true });
      ctx.bar(4, { size: 0x2000 });
      ctx.msix({ vectors, table: { bar: 4, offset: 0 }, pba: { bar: 4, offset: 0x1000 } });
      ctx.rom(rom);
      return Object.assign(edu, { send: (vector: number) => ctx.irq.send(vector) });
    },
    { memory: provider },
  );
  return { ...made, rom };
}
