import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { Sysroot } from './sysroot.js';

const ZSTD_MAGIC = 0xfd2fb528;

/**
 * The compressed kernel inside an x86 boot image (Documentation/arch/x86/boot.rst), without the four bytes that follow
 * it and give its unpacked size. Nothing when the image is too old or not one at all.
 */
export function bzImagePayload(image: Uint8Array): Uint8Array | undefined {
  if (image.length < 0x250) return undefined;
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const signature = Buffer.from(image.subarray(0x202, 0x206)).toString('latin1');
  // Protocol 2.08 brought the payload's place.
  if (signature !== 'HdrS' || view.getUint16(0x206, true) < 0x208) return undefined;
  const setupSectors = view.getUint8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + view.getUint32(0x248, true);
  const length = view.getUint32(0x24c, true);
  if (length < 8 || start + length > image.length) return undefined;
  return image.subarray(start, start + length - 4);
}

/**
 * Writes the kernel to `target` as the ELF file inside `vmlinuz`: QEMU starts that by PVH, and a guest is spared two to
 * four seconds of unpacking under TCG. A kernel packed in another way is copied as it is and boots as it is.
 */
export async function unpackVmlinux(sysroot: Sysroot, vmlinuz: string, target: string): Promise<void> {
  const payload = bzImagePayload(readFileSync(vmlinuz));
  if (payload === undefined || Buffer.from(payload).readUInt32LE(0) !== ZSTD_MAGIC) {
    copyFileSync(vmlinuz, target);
    return;
  }
  const packed = `${target}.zst`;
  writeFileSync(packed, payload);
  await sysroot.run('usr/bin/zstd', ['--quiet', '--decompress', '--force', '-o', target, packed]);
  rmSync(packed);
}
