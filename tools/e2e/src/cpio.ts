/** One entry of a cpio archive. Paths are relative, without a leading slash. */
export type CpioEntry =
  | { kind: 'directory'; path: string; mode?: number }
  | { kind: 'file'; path: string; data: Uint8Array; mode?: number }
  | { kind: 'symlink'; path: string; target: string }
  | { kind: 'character-device'; path: string; major: number; minor: number; mode?: number };

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;
const TRAILER = 'TRAILER!!!';

/**
 * Packs entries as a cpio archive in the "newc" format, which the kernel unpacks as an initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs to root and has time 0, so the
 * same entries give the same bytes.
 */
export function packCpio(entries: readonly CpioEntry[]): Uint8Array {
  const parts: Uint8Array[] = [];
  let inode = 1;
  for (const entry of entries) {
    switch (entry.kind) {
      case 'directory':
        push(parts, inode++, entry.path, S_IFDIR | (entry.mode ?? 0o755), new Uint8Array());
        break;
      case 'file':
        push(parts, inode++, entry.path, S_IFREG | (entry.mode ?? 0o644), entry.data);
        break;
      case 'symlink':
        push(parts, inode++, entry.path, S_IFLNK | 0o777, Buffer.from(entry.target));
        break;
      case 'character-device':
        push(parts, inode++, entry.path, S_IFCHR | (entry.mode ?? 0o600), new Uint8Array(), entry.major, entry.minor);
        break;
    }
  }
  push(parts, 0, TRAILER, 0, new Uint8Array());
  return Buffer.concat(parts);
}

function push(
  parts: Uint8Array[],
  inode: number,
  path: string,
  mode: number,
  data: Uint8Array,
  major = 0,
  minor = 0,
): void {
  if (path.startsWith('/')) throw new RangeError(`cpio: ${path} is absolute; paths in an archive are relative`);
  const name = Buffer.from(`${path}\0`);
  const fields = [inode, mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0];
  const header = Buffer.from(`070701${fields.map((value) => value.toString(16).padStart(8, '0')).join('')}`, 'latin1');
  parts.push(header, name, padding(header.length + name.length), data, padding(data.length));
}

/** Header with name, and data, each end on a multiple of four bytes. */
function padding(length: number): Uint8Array {
  return new Uint8Array(-length & 3);
}
