/** What an {@link makeOpRegion} holds. */
export interface OpRegionOptions {
  /** Major in the high byte, minor in the low one. Default 0x0201. */
  readonly version?: number;
  /** The header's size field, in KiB. Default 8. */
  readonly sizeKib?: number;
  /** The video BIOS table. Above 6 KiB it is an extended one, outside mailbox 4 (from version 2.0 on). Default 4 KiB. */
  readonly vbt?: Uint8Array;
}

/** An OpRegion as firmware leaves it, and where an extended VBT must be. */
export interface OpRegionImage {
  readonly opRegion: Uint8Array;
  readonly extendedVbt: { readonly address: bigint; readonly bytes: Uint8Array } | undefined;
}

const OPREGION_SIZE = 0x2000;
/** Mailboxes 1 to 5: ACPI methods, software SCI, ASL events, VBT, BIOS to driver notices. */
const MAILBOXES = { ASL_EVENTS: 0x300, VBT: 0x400, NOTICES: 0x1c00 } as const;
const MAILBOX_4_SIZE = MAILBOXES.NOTICES - MAILBOXES.VBT;
/** Header, in bytes from the start. */
const HEADER = { SIZE: 0x10, VERSION: 0x16, MAILBOXES: 0x58 } as const;
/** Mailbox 3: address and size of an extended VBT. */
const RVDA = MAILBOXES.ASL_EVENTS + 0xba;
const RVDS = MAILBOXES.ASL_EVENTS + 0xc2;
const VERSION_2_0 = 0x0200;

/** A VBT of `size` bytes: the signature, and bytes of which each is recognised by its place. */
export function makeVbt(size: number): Uint8Array {
  const vbt = new Uint8Array(size);
  for (let at = 0; at < size; at++) vbt[at] = at ^ (at >> 8);
  vbt.set(new TextEncoder().encode('$VBT EMULATED       ').subarray(0, Math.min(20, size)));
  return vbt;
}

/**
 * Builds an OpRegion that is to lie at `address` (Intel: IGD OpRegion/Software SCI for Skylake processors, and its
 * extension for a VBT of more than 6 KiB: absolute address in version 2.0, an offset from 2.1 on).
 */
export function makeOpRegion(address: bigint, options: OpRegionOptions = {}): OpRegionImage {
  const { version = 0x0201, sizeKib = 8, vbt = makeVbt(4096) } = options;
  const opRegion = new Uint8Array(OPREGION_SIZE);
  const view = new DataView(opRegion.buffer);
  opRegion.set(new TextEncoder().encode('IntelGraphicsMem'));
  view.setUint32(HEADER.SIZE, sizeKib, true);
  view.setUint16(HEADER.VERSION, version, true);
  view.setUint32(HEADER.MAILBOXES, 0x1f, true);
  if (vbt.length <= MAILBOX_4_SIZE) {
    opRegion.set(vbt, MAILBOXES.VBT);
    return { opRegion, extendedVbt: undefined };
  }
  const at = address + BigInt(OPREGION_SIZE);
  if (version >= VERSION_2_0) {
    view.setBigUint64(RVDA, version === VERSION_2_0 ? at : BigInt(OPREGION_SIZE), true);
    view.setUint32(RVDS, vbt.length, true);
  }
  return { opRegion, extendedVbt: { address: at, bytes: vbt } };
}
