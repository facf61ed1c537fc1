import {
  errnoError,
  hex,
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_MEM_PREFETCH,
  PCI_BASE_ADDRESS_MEM_TYPE_64,
  PCI_BASE_ADDRESS_MEM_TYPE_MASK,
  PCI_BASE_ADDRESS_SPACE_IO,
  PCI_CAPABILITY_LIST,
  PCI_CB_CAPABILITY_LIST,
  PCI_CB_SUBSYSTEM_ID,
  PCI_CB_SUBSYSTEM_VENDOR_ID,
  PCI_CLASS_REVISION,
  PCI_COMMAND,
  PCI_DEVICE_ID,
  PCI_HEADER_TYPE,
  PCI_HEADER_TYPE_MASK,
  PCI_HEADER_TYPE_MFD,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_ROM_ADDRESS,
  PCI_ROM_ADDRESS1,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '@vfio/uapi';
import { type DecodedField, decodeFields } from './cap-fields.js';
import { CAP_NAMES, EXT_CAP_NAMES } from './cap-names.js';
import { ConfigBytes } from './config-bytes.js';

/** A capability found by following the chain. */
export interface DecodedCapability {
  readonly offset: number;
  readonly id: number;
  readonly name: string;
  readonly extended: boolean;
  /** Extended capabilities only. */
  readonly version: number | undefined;
  readonly fields: readonly DecodedField[];
}

/** A base address register in use. */
export interface DecodedBar {
  readonly index: number;
  readonly kind: 'memory' | 'io';
  readonly address: bigint;
  readonly is64Bit: boolean;
  readonly prefetchable: boolean;
}

/** A config space in words. */
export interface DecodedConfigSpace {
  readonly vendor: number;
  readonly device: number;
  readonly subvendor: number;
  readonly subdevice: number;
  readonly class: number;
  readonly revision: number;
  readonly headerType: number;
  readonly multifunction: boolean;
  readonly command: number;
  readonly commandFlags: readonly DecodedField[];
  readonly status: number;
  readonly statusFlags: readonly DecodedField[];
  readonly bars: readonly DecodedBar[];
  readonly rom: { readonly address: number; readonly enabled: boolean } | undefined;
  readonly interruptLine: number;
  /** 0 where the function has no INTx. */
  readonly interruptPin: number;
  readonly capabilities: readonly DecodedCapability[];
  /** What is wrong with the chains: loops, pointers out of range. */
  readonly problems: readonly string[];
}

const COMMAND_BITS: readonly (readonly [string, number])[] = [
  ['I/O', 0],
  ['Mem', 1],
  ['BusMaster', 2],
  ['SpecCycle', 3],
  ['MemWINV', 4],
  ['VGASnoop', 5],
  ['ParErr', 6],
  ['SERR', 8],
  ['FastB2B', 9],
  ['DisINTx', 10],
];
const STATUS_BITS: readonly (readonly [string, number])[] = [
  ['INTx', 3],
  ['Cap', 4],
  ['66MHz', 5],
  ['FastB2B', 7],
  ['ParErr', 8],
  ['TAbort signalled', 11],
  ['TAbort', 12],
  ['MAbort', 13],
  ['SERR', 14],
  ['PERR', 15],
];

/** Where the parts of a header lie whose place depends on its type. Other types than these have none of them. */
interface HeaderLayout {
  readonly bars: number;
  readonly capabilityList: number;
  readonly rom?: number;
  readonly subvendor?: number;
  readonly subdevice?: number;
}
const HEADER_LAYOUTS: readonly HeaderLayout[] = [
  {
    bars: 6,
    capabilityList: PCI_CAPABILITY_LIST,
    rom: PCI_ROM_ADDRESS,
    subvendor: PCI_SUBSYSTEM_VENDOR_ID,
    subdevice: PCI_SUBSYSTEM_ID,
  },
  { bars: 2, capabilityList: PCI_CAPABILITY_LIST, rom: PCI_ROM_ADDRESS1 },
  {
    bars: 1,
    capabilityList: PCI_CB_CAPABILITY_LIST,
    subvendor: PCI_CB_SUBSYSTEM_VENDOR_ID,
    subdevice: PCI_CB_SUBSYSTEM_ID,
  },
];
const NO_LAYOUT: HeaderLayout = { bars: 0, capabilityList: PCI_CAPABILITY_LIST };

function flags(value: number, bits: readonly (readonly [string, number])[]): DecodedField[] {
  return bits.map(([name, bit]) => ({ name, value: (value >>> bit) & 1 ? '+' : '-' }));
}

/**
 * Decodes config space bytes: a whole one (4096), a conventional one (256) or a header (64), as `lspci -xxxx` shows
 * them. Broken chains are reported in `problems`, never followed.
 *
 * @throws EINVAL for fewer than 64 bytes.
 */
export function decodeConfigSpace(bytes: Uint8Array): DecodedConfigSpace {
  if (bytes.byteLength < 64) {
    throw errnoError('EINVAL', `config space of ${hex(bytes.byteLength)} bytes: at least the header (0x40) is needed`, {
      op: 'decodeConfigSpace',
    });
  }
  const config = new ConfigBytes(bytes);
  // The header is whole: checked above.
  const at = (offset: number, width: 1 | 2 | 4): number => config.read(offset, width) as number;
  const headerType = at(PCI_HEADER_TYPE, 1);
  const type = headerType & PCI_HEADER_TYPE_MASK;
  const layout = HEADER_LAYOUTS[type] ?? NO_LAYOUT;
  // Those of a CardBus bridge lie behind the header.
  const optional = (offset: number | undefined, width: 2 | 4): number =>
    offset === undefined ? 0 : (config.read(offset, width) ?? 0);
  const command = at(PCI_COMMAND, 2);
  const status = at(PCI_STATUS, 2);
  const rom = optional(layout.rom, 4);
  const problems: string[] = [];
  return {
    vendor: at(PCI_VENDOR_ID, 2),
    device: at(PCI_DEVICE_ID, 2),
    subvendor: optional(layout.subvendor, 2),
    subdevice: optional(layout.subdevice, 2),
    class: at(PCI_CLASS_REVISION, 4) >>> 8,
    revision: at(PCI_CLASS_REVISION, 1),
    headerType: type,
    multifunction: (headerType & PCI_HEADER_TYPE_MFD) !== 0,
    command,
    commandFlags: flags(command, COMMAND_BITS),
    status,
    statusFlags: flags(status, STATUS_BITS),
    bars: decodeBars(config, layout.bars),
    rom: rom === 0 ? undefined : { address: (rom & ~0x7ff) >>> 0, enabled: (rom & 1) !== 0 },
    interruptLine: at(PCI_INTERRUPT_LINE, 1),
    interruptPin: at(PCI_INTERRUPT_PIN, 1),
    capabilities: [
      ...((status & PCI_STATUS_CAP_LIST) !== 0 ? walkCapabilities(config, at(layout.capabilityList, 1), problems) : []),
      ...walkExtended(config, problems),
    ],
    problems,
  };
}

function decodeBars(config: ConfigBytes, count: number): DecodedBar[] {
  const bars: DecodedBar[] = [];
  for (let index = 0; index < count; index++) {
    const low = config.read(PCI_BASE_ADDRESS_0 + index * 4, 4) ?? 0;
    const io = (low & PCI_BASE_ADDRESS_SPACE_IO) !== 0;
    const is64Bit = !io && (low & PCI_BASE_ADDRESS_MEM_TYPE_MASK) === PCI_BASE_ADDRESS_MEM_TYPE_64;
    const high = is64Bit && index + 1 < count ? (config.read(PCI_BASE_ADDRESS_0 + index * 4 + 4, 4) ?? 0) : 0;
    if (low !== 0 || high !== 0) {
      bars.push({
        index,
        kind: io ? 'io' : 'memory',
        address: (BigInt(high) << 32n) | BigInt((low & (io ? ~0x3 : ~0xf)) >>> 0),
        is64Bit,
        prefetchable: !io && (low & PCI_BASE_ADDRESS_MEM_PREFETCH) !== 0,
      });
    }
    if (is64Bit) index++;
  }
  return bars;
}

function walkCapabilities(config: ConfigBytes, first: number, problems: string[]): DecodedCapability[] {
  const found: DecodedCapability[] = [];
  const seen = new Set<number>();
  for (let offset = first & ~3; offset !== 0; ) {
    if (seen.has(offset)) {
      problems.push(`capability chain returns to ${hex(offset)}`);
      break;
    }
    if (offset < 0x40) {
      problems.push(`capability pointer ${hex(offset)} lies in the header`);
      break;
    }
    seen.add(offset);
    const id = config.read(offset, 1);
    const next = config.read(offset + 1, 1);
    if (id === undefined || next === undefined) {
      problems.push(`capability at ${hex(offset)} lies outside of the ${hex(config.size)} bytes given`);
      break;
    }
    if (id === 0xff) {
      problems.push(`capability at ${hex(offset)} reads all ones`);
      break;
    }
    found.push({
      offset,
      id,
      name: CAP_NAMES[id] ?? 'unknown',
      extended: false,
      version: undefined,
      fields: decodeFields(config, id, offset, false),
    });
    offset = next & ~3;
  }
  return found;
}

function walkExtended(config: ConfigBytes, problems: string[]): DecodedCapability[] {
  const found: DecodedCapability[] = [];
  const seen = new Set<number>();
  for (let offset = 0x100; offset !== 0 && config.size > 0x100; ) {
    if (seen.has(offset)) {
      problems.push(`extended capability chain returns to ${hex(offset)}`);
      break;
    }
    if (offset < 0x100) {
      problems.push(`extended capability pointer ${hex(offset)} lies below 0x100`);
      break;
    }
    seen.add(offset);
    const header = config.read(offset, 4);
    if (header === undefined) {
      problems.push(`extended capability at ${hex(offset)} lies outside of the ${hex(config.size)} bytes given`);
      break;
    }
    if (header === 0 || header === 0xffffffff) break;
    const id = header & 0xffff;
    // Id 0 is a placeholder: a hidden first capability of which only the link is left.
    if (id !== 0) {
      found.push({
        offset,
        id,
        name: EXT_CAP_NAMES[id] ?? 'unknown',
        extended: true,
        version: (header >>> 16) & 0xf,
        fields: decodeFields(config, id, offset, true),
      });
    }
    offset = (header >>> 20) & ~3;
  }
  return found;
}
