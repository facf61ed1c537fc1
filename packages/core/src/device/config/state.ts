import type { RawConfigSpace } from '../../pci/raw-function.js';
import type { ConfigSpaceHost } from './host.js';
import { MAP_UNASSIGNED, type PermissionTable } from './permissions.js';

/**
 * The two shadow arrays of a virtual config space and what else its rules remember between accesses. One owner, the
 * {@link VirtualConfigSpace}; the rule files work on it.
 *
 * Values are little-endian and int32 patterns, as {@link RawConfigSpace} has them.
 */
export class ConfigState {
  readonly host: ConfigSpaceHost;
  readonly hw: RawConfigSpace;
  /** 256 or 4096. */
  readonly size: number;
  /** The virtual values. */
  readonly vconfig: Uint8Array;
  /** Owner of each byte: a capability id, or a MAP_* value. */
  readonly map: Uint8Array;
  /** BAR 0-5 and ROM as hardware had them at open: what a backdoor reset is told by and repaired with. */
  readonly savedBars = new Int32Array(7);
  /** A BAR was written since its virtual value was last cut to size. */
  barsDirty = true;
  /** Hardware has a list of extended capabilities that a user may see. */
  extendedCaps = false;
  /**
   * Where the host knows the first capability of an id, as its list was at open: dword-aligned, which a hostile list's own
   * positions may not be, and out of reach of whoever can write to the links of hidden ones. 0: nowhere.
   */
  expressAt = 0;
  vpdAt = 0;
  msiAt = 0;
  msixAt = 0;
  /** Permissions of the first MSI capability, whose layout depends on its flags; any further one is served by it. */
  msiTable: PermissionTable | undefined;
  /** Bytes of vital product data; undefined until somebody asks, 0 where there is none that makes sense. */
  vpdLength: number | undefined;

  constructor(host: ConfigSpaceHost) {
    this.host = host;
    this.hw = host.raw.config;
    this.size = this.hw.size;
    this.vconfig = new Uint8Array(this.size);
    this.map = new Uint8Array(this.size).fill(MAP_UNASSIGNED);
  }

  /** A virtual word; 0 past the end. */
  word(position: number): number {
    return (this.vconfig[position] ?? 0) | ((this.vconfig[position + 1] ?? 0) << 8);
  }

  setWord(position: number, value: number): void {
    this.vconfig[position] = value;
    this.vconfig[position + 1] = value >> 8;
  }

  /** A virtual dword, int32; 0 past the end. */
  dword(position: number): number {
    return this.word(position) | (this.word(position + 2) << 16);
  }

  setDword(position: number, value: number): void {
    this.setWord(position, value);
    this.setWord(position + 2, value >> 16);
  }

  /** Copies hardware bytes to the virtual ones, with naturally aligned accesses. */
  fill(position: number, length: number): void {
    const end = position + length;
    let at = position;
    while (at < end) {
      const left = end - at;
      if (left >= 4 && (at & 3) === 0) {
        this.setDword(at, this.hw.read(at, 4));
        at += 4;
      } else if (left >= 2 && (at & 1) === 0) {
        this.setWord(at, this.hw.read(at, 2));
        at += 2;
      } else {
        this.vconfig[at] = this.hw.read(at, 1);
        at += 1;
      }
    }
  }

  /** Whether every byte of a register belongs to one owner: what cut, overlapped or merged capabilities break. */
  owns(owner: number, position: number, length: number): boolean {
    for (let at = position; at < position + length; at++) if (this.map[at] !== owner) return false;
    return true;
  }
}
