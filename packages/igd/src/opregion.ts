import {
  type DevRegionOps,
  intersectRanges,
  MAP_VIRTUAL,
  OPREGION_MEMORY,
  type PhysicalMapping,
  type VfioPciCoreDevice,
} from '@vfio/core';
import { VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION } from '@vfio/uapi';
import { clipRead, INTEL_REGION_TYPE, refuseWrite } from './region.js';

/** ASL Storage: the register of the graphics function that holds the OpRegion's physical address. */
const ASLS = 0xfc;

// The OpRegion: Intel's "IGD OpRegion/Software SCI". Its header, and the extended VBT's place in mailbox 3.
const OPREGION_SIZE = 0x2000;
const SIGNATURE = 'IntelGraphicsMem';
/** u32, in KiB. */
const SIZE = 0x10;
/** u16: BCD-like, 0x0201 is 2.1. */
const VERSION = 0x16;
/** u64: where the extended VBT is; in 2.0 a physical address, from 2.1 on relative to the OpRegion. */
const RVDA = 0x3ba;
/** u32: its bytes. */
const RVDS = 0x3c2;

const VERSION_2_0 = 0x0200;
const VERSION_2_1 = 0x0201;

/**
 * The OpRegion with its extended VBT right behind it, read-only, as one of version 2.1 would lie in memory: a guest
 * has it somewhere else, where an absolute address leads nowhere.
 *
 * @throws ENODEV where the function has none, EINVAL for one that is broken, EPERM or ENOMEM where it cannot be read
 */
export function registerOpRegion(dev: VfioPciCoreDevice): void {
  const address = dev.raw.config.read(ASLS, 4) >>> 0;
  const memory = dev.fn.platform(OPREGION_MEMORY);
  if (address === 0 || address === 0xffffffff) throw dev.error('ENODEV', 'openDevice', 'the function has no OpRegion');
  if (memory === undefined) {
    throw dev.error(
      'EPERM',
      'openDevice',
      `the OpRegion at 0x${address.toString(16)} is in memory that this host does not let us read`,
    );
  }
  const opRegion = memory.map(BigInt(address), OPREGION_SIZE);
  let extended: PhysicalMapping | undefined;
  try {
    const found = inspect(dev, opRegion.bytes);
    if (found.vbtSize > 0) {
      const at = found.version === VERSION_2_0 ? found.vbtAddress : BigInt(address) + found.vbtAddress;
      extended = memory.map(at, found.vbtSize);
    }
    dev.registerDevRegion({
      type: INTEL_REGION_TYPE,
      subtype: VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION,
      size: found.size + found.vbtSize,
      flags: VFIO_REGION_INFO_FLAG_READ,
      ops: opRegionOps(opRegion, extended),
    });
  } catch (error) {
    opRegion.unmap();
    extended?.unmap();
    throw error;
  }
  virtualizeAsls(dev, address);
}

/** What the header says of the OpRegion. @throws EINVAL */
function inspect(dev: VfioPciCoreDevice, bytes: Uint8Array) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let index = 0; index < SIGNATURE.length; index++) {
    if (bytes[index] !== SIGNATURE.charCodeAt(index)) {
      throw dev.error('EINVAL', 'openDevice', `the OpRegion does not start with "${SIGNATURE}"`);
    }
  }
  const kib = view.getUint32(SIZE, true);
  if (kib === 0) throw dev.error('EINVAL', 'openDevice', 'the OpRegion has a size of 0');
  const version = view.getUint16(VERSION, true);
  const vbtAddress = view.getBigUint64(RVDA, true);
  const rvds = view.getUint32(RVDS, true);
  const hasExtended = version >= VERSION_2_0 && vbtAddress !== 0n && rvds !== 0;
  // The kernel believes a larger size and then reads past what it has mapped.
  return { version, vbtAddress, size: Math.min(kib * 1024, OPREGION_SIZE), vbtSize: hasExtended ? rvds : 0 };
}

/** The user may write where it has put its copy; hardware keeps the host's address. The kernel shows the extended VBT's
 * address here where there is one, for want of a second variable: no user can mean that. */
function virtualizeAsls(dev: VfioPciCoreDevice, address: number): void {
  const { vconfig, map } = dev.config!;
  new DataView(vconfig.buffer, vconfig.byteOffset).setUint32(ASLS, address, true);
  map.fill(MAP_VIRTUAL, ASLS, ASLS + 4);
}

const opRegionOps = (opRegion: PhysicalMapping, extended: PhysicalMapping | undefined): DevRegionOps => ({
  read(dev, region, offset, data) {
    const count = clipRead(dev, region, offset, data);
    const into = data.subarray(0, count);
    copy(into, offset, 0, opRegion.bytes);
    const view = new DataView(opRegion.bytes.buffer, opRegion.bytes.byteOffset);
    if (extended !== undefined && view.getUint16(VERSION, true) === VERSION_2_0) {
      copy(into, offset, VERSION, littleEndian(VERSION_2_1, 2));
    }
    copy(into, offset, RVDA, littleEndian(extended === undefined ? 0 : OPREGION_SIZE, 8));
    if (extended !== undefined) copy(into, offset, OPREGION_SIZE, extended.bytes);
    return count;
  },
  write: refuseWrite,
  release() {
    opRegion.unmap();
    extended?.unmap();
  },
});

/** Copies what lies at `at` in the region into a read of it from `offset` on, as far as they meet. */
function copy(into: Uint8Array, offset: number, at: number, bytes: Uint8Array): void {
  const part = intersectRanges(offset, into.length, at, bytes.length);
  if (part === undefined) return;
  into.set(bytes.subarray(part.registerOffset, part.registerOffset + part.count), part.bufferOffset);
}

function littleEndian(value: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  new DataView(bytes.buffer).setUint16(0, value, true);
  return bytes;
}
