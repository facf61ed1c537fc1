import {
  errnoError,
  hex,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MAX,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PCIX,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_VNDR,
  PCI_CAP_ID_VPD,
  PCI_CFG_SPACE_SIZE,
  PCI_COMMAND,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_EXT_CAP_ID_DVSEC,
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_MAX,
  PCI_EXT_CAP_ID_PWR,
  PCI_EXT_CAP_ID_VNDR,
  PCI_INTERRUPT_PIN,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QMASK,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_QSIZE,
  PCI_MSIX_PBA,
  PCI_MSIX_PBA_BIR,
  PCI_MSIX_PBA_OFFSET,
  PCI_MSIX_TABLE,
  PCI_MSIX_TABLE_BIR,
  PCI_MSIX_TABLE_OFFSET,
  PCI_STD_HEADER_SIZEOF,
  PCI_VENDOR_ID,
  PCI_VENDOR_ID_INTEL,
} from '@vfio/uapi';
import type { AccessWidth } from '../../pci/raw-function.js';
import { findPciCap } from '../pci-caps.js';
import { byTable, type CapAccess, RAW, READ_ONLY, VENDOR, VIRTUAL } from './access.js';
import { ADVANCED_FEATURES } from './af.js';
import { saveBars } from './bars.js';
import { mapCapabilities } from './caps.js';
import { BASIC } from './command.js';
import { mapExtCapabilities } from './ecaps.js';
import { EXPRESS } from './express.js';
import type { ConfigSpaceHost } from './host.js';
import { MSI } from './msi.js';
import { ERR_TABLE, MAP_BASIC, MAP_UNASSIGNED, MAP_VIRTUAL, PCIX_TABLE, PWR_TABLE } from './permissions.js';
import { PM } from './pm.js';
import { checkSameView, type SavedView, userRegisters } from './saved-view.js';
import { ConfigState } from './state.js';
import { VITAL_PRODUCT_DATA } from './vpd.js';

/** Where the first MSI capability is and what it can do; as hardware shows it. */
export interface MsiCapability {
  readonly position: number;
  /** 1 << MMC: 1 to 32 (128 where hardware shows a reserved encoding). */
  readonly vectors: number;
  readonly is64Bit: boolean;
  readonly maskable: boolean;
}

/** Where the first MSI-X capability and its tables are; as hardware shows it. */
export interface MsixCapability {
  readonly position: number;
  /** 1 to 2048. */
  readonly vectors: number;
  readonly tableBar: number;
  readonly tableOffset: number;
  readonly pbaBar: number;
  readonly pbaOffset: number;
}

/** What a user changes of MSI's control. */
const MSI_USER = PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE;

/** Standard capabilities by id. A visible one without a rule of its own is read-only (MSI-X, HT, SATA, AGP). */
const STANDARD: readonly CapAccess[] = ((): readonly CapAccess[] => {
  const list = new Array<CapAccess>(PCI_CAP_ID_MAX + 1).fill(READ_ONLY);
  list[MAP_BASIC] = BASIC;
  list[PCI_CAP_ID_PM] = PM;
  list[PCI_CAP_ID_VPD] = VITAL_PRODUCT_DATA;
  list[PCI_CAP_ID_MSI] = MSI;
  list[PCI_CAP_ID_PCIX] = byTable(PCIX_TABLE);
  list[PCI_CAP_ID_VNDR] = VENDOR;
  list[PCI_CAP_ID_EXP] = EXPRESS;
  list[PCI_CAP_ID_AF] = ADVANCED_FEATURES;
  return list;
})();

/** Extended capabilities by id; most are read-only. */
const EXTENDED: readonly CapAccess[] = ((): readonly CapAccess[] => {
  const list = new Array<CapAccess>(PCI_EXT_CAP_ID_MAX + 1).fill(READ_ONLY);
  list[PCI_EXT_CAP_ID_ERR] = byTable(ERR_TABLE);
  list[PCI_EXT_CAP_ID_PWR] = byTable(PWR_TABLE);
  list[PCI_EXT_CAP_ID_VNDR] = VENDOR;
  list[PCI_EXT_CAP_ID_DVSEC] = VENDOR;
  return list;
})();

function accessOf(owner: number, position: number): CapAccess {
  if (owner === MAP_UNASSIGNED) return RAW;
  if (owner === MAP_VIRTUAL) return VIRTUAL;
  return (position < PCI_CFG_SPACE_SIZE ? STANDARD[owner] : EXTENDED[owner]) ?? READ_ONLY;
}

/**
 * The config space that a VFIO user sees, over the hardware's: `vfio_pci_config.c` of the kernel. One for each opening
 * of a device.
 *
 * An access of any length is cut into pieces that cross neither a dword nor an owner and are naturally aligned; each is
 * served by the rules of the capability that owns it. Reads and writes of 1, 2 and 4 bytes allocate nothing, traps
 * apart.
 */
export class VirtualConfigSpace {
  readonly #state: ConfigState;

  constructor(host: ConfigSpaceHost) {
    this.#state = new ConfigState(host);
  }

  /** 256 or 4096. */
  get size(): number {
    return this.#state.size;
  }

  /**
   * The virtual values, one byte each; what of them a user sees is decided by permissions. For drivers that overlay
   * registers: bytes in the map as {@link MAP_VIRTUAL} are shown as they stand here.
   */
  get vconfig(): Uint8Array {
    return this.#state.vconfig;
  }

  /** Owner of each byte: a capability id (low 8 bits), or MAP_BASIC, MAP_VIRTUAL, MAP_UNASSIGNED. */
  get map(): Uint8Array {
    return this.#state.map;
  }

  /**
   * Builds the virtual view from hardware. Called at open, after the device is in D0, decodes, and its DisINTx is
   * settled.
   * @throws EFAULT for an MSI or PCI-X capability at an odd position.
   */
  init(): void {
    const state = this.#state;
    const { host } = state;
    // Bytes outside the header and the visible capabilities have no virtual value; upstream leaves them uninitialised.
    state.vconfig.fill(0);
    state.map.fill(MAP_BASIC, 0, PCI_STD_HEADER_SIZEOF);
    state.map.fill(MAP_UNASSIGNED, PCI_STD_HEADER_SIZEOF);
    state.fill(0, PCI_STD_HEADER_SIZEOF);
    state.barsDirty = true;
    state.extendedCaps = false;
    state.msiTable = undefined;
    state.vpdLength = undefined;
    state.expressAt = findPciCap(state.hw, PCI_CAP_ID_EXP);
    state.vpdAt = findPciCap(state.hw, PCI_CAP_ID_VPD);
    state.msiAt = findPciCap(state.hw, PCI_CAP_ID_MSI);
    state.msixAt = findPciCap(state.hw, PCI_CAP_ID_MSIX);
    saveBars(state);
    if (host.isVf) {
      state.setWord(PCI_VENDOR_ID, host.vendor);
      state.setWord(PCI_DEVICE_ID, host.device);
      // A VF has no pin; some show their PF's, one family knowingly.
      const knownBogus = host.vendor === PCI_VENDOR_ID_INTEL && host.device === 0x270c;
      if (state.vconfig[PCI_INTERRUPT_PIN] !== 0 && !knownBogus) {
        host.warn(`the virtual function shows the bogus interrupt pin ${hex(state.vconfig[PCI_INTERRUPT_PIN]!)}`);
      }
      state.vconfig[PCI_INTERRUPT_PIN] = 0;
    }
    if (host.noCommandMemory) state.setWord(PCI_COMMAND, state.word(PCI_COMMAND) | PCI_COMMAND_MEMORY);
    if (!host.intxUsable || host.nointx) state.vconfig[PCI_INTERRUPT_PIN] = 0;
    mapCapabilities(state);
    mapExtCapabilities(state);
  }

  /**
   * Reads `data.length` bytes from `offset`; returns that length.
   * @throws EFAULT where any byte is out of range, before anything is read.
   */
  read(offset: number, data: Uint8Array): number {
    const count = data.length;
    this.#check('read', offset, count);
    const state = this.#state;
    for (let done = 0; done < count; ) {
      const position = offset + done;
      const owner = state.map[position]!;
      const width = this.#pieceWidth(position, count - done, owner);
      const value = accessOf(owner, position).read(state, position, width, this.#start(position, owner));
      data[done] = value;
      if (width > 1) data[done + 1] = value >> 8;
      if (width > 2) {
        data[done + 2] = value >> 16;
        data[done + 3] = value >> 24;
      }
      done += width;
    }
    return count;
  }

  /**
   * Writes `data` to `offset`; returns its length, also where permissions drop bits. A promise only where a trap is
   * still at work: a reset or power change for which the host gave one, or VPD hardware that takes its time. Then the
   * bytes behind the trap are written when it is done; they are copied, so `data` may be used again at once.
   * @throws EFAULT where any byte is out of range, before anything is written.
   */
  write(offset: number, data: Uint8Array): number | Promise<number> {
    const count = data.length;
    this.#check('write', offset, count);
    const state = this.#state;
    for (let done = 0; done < count; ) {
      const position = offset + done;
      const owner = state.map[position]!;
      const width = this.#pieceWidth(position, count - done, owner);
      let value = data[done]!;
      if (width > 1) value |= data[done + 1]! << 8;
      if (width > 2) value |= (data[done + 2]! << 16) | (data[done + 3]! << 24);
      const pending = accessOf(owner, position).write(state, position, width, this.#start(position, owner), value);
      done += width;
      if (pending !== undefined) return this.#writeRest(pending, offset + done, data.slice(done), count);
    }
    return count;
  }

  async #writeRest(pending: Promise<void>, offset: number, rest: Uint8Array, count: number): Promise<number> {
    await pending;
    await this.write(offset, rest);
    return count;
  }

  /**
   * Whether BAR memory may be accessed: power above D3hot, and memory decode enabled virtually, or the function has no
   * such bit.
   */
  get memoryEnabled(): boolean {
    const { host } = this.#state;
    return (
      host.powerState < 3 && (host.noCommandMemory || (this.#state.vconfig[PCI_COMMAND]! & PCI_COMMAND_MEMORY) !== 0)
    );
  }

  /** Virtual interrupt pin: 0 where the user has no INTx. */
  get interruptPin(): number {
    return this.#state.vconfig[PCI_INTERRUPT_PIN]!;
  }

  /** The first MSI capability, or undefined. */
  get msi(): MsiCapability | undefined {
    const { hw, msiAt: position } = this.#state;
    if (position === 0) return undefined;
    const flags = hw.read(position + PCI_MSI_FLAGS, 2);
    return {
      position,
      vectors: 1 << ((flags & PCI_MSI_FLAGS_QMASK) >> 1),
      is64Bit: (flags & PCI_MSI_FLAGS_64BIT) !== 0,
      maskable: (flags & PCI_MSI_FLAGS_MASKBIT) !== 0,
    };
  }

  /** The first MSI-X capability, or undefined. */
  get msix(): MsixCapability | undefined {
    const { hw, msixAt: position } = this.#state;
    // One that does not fit below 0x100 has no table to speak of.
    if (position === 0 || position + PCI_MSIX_PBA >= PCI_CFG_SPACE_SIZE) return undefined;
    const table = hw.read(position + PCI_MSIX_TABLE, 4);
    const pba = hw.read(position + PCI_MSIX_PBA, 4);
    return {
      position,
      vectors: (hw.read(position + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_QSIZE) + 1,
      tableBar: table & PCI_MSIX_TABLE_BIR,
      tableOffset: (table & PCI_MSIX_TABLE_OFFSET) >>> 0,
      pbaBar: pba & PCI_MSIX_PBA_BIR,
      pbaOffset: (pba & PCI_MSIX_PBA_OFFSET) >>> 0,
    };
  }

  /**
   * Makes bytes the user's own: readable, writable, never hardware's. IGD does this to the OpRegion's address at 0xfc.
   * Their virtual values stay as they are in {@link vconfig}. Called after {@link init}.
   * @throws EFAULT out of range.
   */
  markVirtual(offset: number, length: number): void {
    this.#check('markVirtual', offset, length);
    this.#state.map.fill(MAP_VIRTUAL, offset, offset + length);
  }

  /** What the user has made of this view, and how it is laid out: for {@link restore} on the same kind of function. */
  save(): SavedView {
    const seen = new Uint8Array(this.size);
    // Also settles what was written to BARs.
    this.read(0, seen);
    const { hw, msiAt } = this.#state;
    const msiControl = msiAt === 0 ? 0 : hw.read(msiAt + PCI_MSI_FLAGS, 2);
    return { seen, values: this.vconfig.slice(), owners: this.map.slice(), msiControl };
  }

  /**
   * Makes this view what another one was, and sets in hardware what its user had set there; power state last. Interrupts are
   * in place already.
   * @throws EINVAL where a user would find another function; nothing was changed then
   */
  async restore(view: SavedView): Promise<void> {
    const state = this.#state;
    checkSameView(this.save(), view, state.host.address);
    // Before the values: a trap acts on what differs from them.
    for (const { offset, width } of userRegisters(view)) {
      await this.write(offset, view.seen.slice(offset, offset + width));
    }
    if (state.msiAt !== 0 && state.host.msiActive) {
      const at = state.msiAt + PCI_MSI_FLAGS;
      state.hw.write(at, 2, (state.hw.read(at, 2) & ~MSI_USER) | (view.msiControl & MSI_USER));
    }
    state.vconfig.set(view.values);
    state.barsDirty = true;
  }

  #check(op: string, offset: number, count: number): void {
    const { size, host } = this.#state;
    if (Number.isInteger(offset) && offset >= 0 && offset < size && offset + count <= size) return;
    if (count === 0) return;
    throw errnoError(
      'EFAULT',
      `${count} bytes of config space at ${hex(Number.isInteger(offset) ? offset : -1)} were asked for; it has ${hex(size)}`,
      { op, device: host.address },
    );
  }

  /** 4, 2 or 1: as many bytes as are wanted, aligned, and of the same owner up to the end of the dword. */
  #pieceWidth(position: number, wanted: number, owner: number): AccessWidth {
    if ((position & 1) !== 0 || wanted < 2) return 1;
    const { map } = this.#state;
    if (map[position + 1] !== owner) return 1;
    if ((position & 2) !== 0 || wanted < 4 || map[position + 2] !== owner || map[position + 3] !== owner) return 2;
    return 4;
  }

  /** Where the run of bytes of this owner begins. Two capabilities of one type that touch are one run. */
  #start(position: number, owner: number): number {
    if (owner === MAP_BASIC) return 0;
    if (owner === MAP_UNASSIGNED || owner === MAP_VIRTUAL) return position;
    const base = position >= PCI_CFG_SPACE_SIZE ? PCI_CFG_SPACE_SIZE : PCI_STD_HEADER_SIZEOF;
    const { map } = this.#state;
    let start = position;
    while (start > base && map[start - 1] === owner) start--;
    return start;
  }
}
