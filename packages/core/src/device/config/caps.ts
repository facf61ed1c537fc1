import {
  errnoError,
  HT_3BIT_CAP_MASK,
  HT_CAP_SIZEOF_LONG,
  HT_CAP_SIZEOF_SHORT,
  hex,
  PCI_AGP_SIZEOF,
  PCI_CAP_AF_SIZEOF,
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V1,
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V2,
  PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V1,
  PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V2,
  PCI_CAP_FLAGS,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_AGP,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_HT,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PCIX,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_SATA,
  PCI_CAP_ID_VNDR,
  PCI_CAP_ID_VPD,
  PCI_CAP_LIST_NEXT,
  PCI_CAP_MSIX_SIZEOF,
  PCI_CAP_PCIX_SIZEOF_V0,
  PCI_CAP_PCIX_SIZEOF_V2,
  PCI_CAP_SIZEOF,
  PCI_CAP_VPD_SIZEOF,
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_SIZE,
  PCI_EXP_FLAGS,
  PCI_EXP_FLAGS_TYPE,
  PCI_EXP_FLAGS_VERS,
  PCI_EXP_TYPE_RC_END,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_PM_SIZEOF,
  PCI_SATA_REGS,
  PCI_SATA_REGS_INLINE,
  PCI_SATA_REGS_MASK,
  PCI_SATA_SIZEOF_LONG,
  PCI_SATA_SIZEOF_SHORT,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
  PCI_X_CMD,
  pciXCmdVersion,
} from '@vfio/uapi';
import { MAP_UNASSIGNED, msiTable } from './permissions.js';
import { hidePme } from './pm.js';
import type { ConfigState } from './state.js';

/** As many as fit between the header and 0x100, one a dword. */
const MAX_STEPS = (PCI_CFG_SPACE_SIZE - PCI_STD_HEADER_SIZEOF) / PCI_CAP_SIZEOF;

/** A register of a capability; 0 where a list that runs to the end of standard space leaves no room for it. */
function byteAt(state: ConfigState, position: number): number {
  return position < PCI_CFG_SPACE_SIZE ? state.hw.read(position, 1) : 0;
}

function wordAt(state: ConfigState, position: number, what: string): number {
  if ((position & 1) !== 0) {
    throw errnoError('EFAULT', `the ${what} capability has a register at the odd offset ${hex(position)}`, {
      op: 'openDevice',
      device: state.host.address,
    });
  }
  return position < PCI_CFG_SPACE_SIZE ? state.hw.read(position, 2) : 0;
}

/** Whether hardware has anything in extended space; asked only by capabilities that can bring it. */
function noteExtendedCaps(state: ConfigState): void {
  if (state.size > PCI_CFG_SPACE_SIZE) state.extendedCaps = state.hw.read(PCI_CFG_SPACE_SIZE, 4) !== 0;
}

function msiLength(state: ConfigState, position: number): number {
  const flags = wordAt(state, position + PCI_MSI_FLAGS, 'MSI');
  const length = 10 + ((flags & PCI_MSI_FLAGS_64BIT) !== 0 ? 4 : 0) + ((flags & PCI_MSI_FLAGS_MASKBIT) !== 0 ? 10 : 0);
  state.msiTable ??= msiTable(length, flags);
  return length;
}

function pcixLength(state: ConfigState, position: number): number {
  if (pciXCmdVersion(wordAt(state, position + PCI_X_CMD, 'PCI-X')) === 0) return PCI_CAP_PCIX_SIZEOF_V0;
  noteExtendedCaps(state);
  return PCI_CAP_PCIX_SIZEOF_V2;
}

function expressLength(state: ConfigState): number {
  noteExtendedCaps(state);
  // The host's first capability speaks for all: a function has one.
  const flags = state.expressAt === 0 ? 0 : state.hw.read(state.expressAt + PCI_EXP_FLAGS, 2);
  const integrated = (flags & PCI_EXP_FLAGS_TYPE) >> 4 === PCI_EXP_TYPE_RC_END;
  return (flags & PCI_EXP_FLAGS_VERS) === 1
    ? integrated
      ? PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V1
      : PCI_CAP_EXP_ENDPOINT_SIZEOF_V1
    : integrated
      ? PCI_CAP_EXP_RC_ENDPOINT_SIZEOF_V2
      : PCI_CAP_EXP_ENDPOINT_SIZEOF_V2;
}

/** Length in bytes of a capability, 0 for one that is hidden: no user can do anything good with it, or nobody knows it. */
function capabilityLength(state: ConfigState, id: number, position: number): number {
  switch (id) {
    case PCI_CAP_ID_PM:
      return PCI_PM_SIZEOF;
    case PCI_CAP_ID_AGP:
      return PCI_AGP_SIZEOF;
    case PCI_CAP_ID_VPD:
      return PCI_CAP_VPD_SIZEOF;
    case PCI_CAP_ID_MSI:
      return msiLength(state, position);
    case PCI_CAP_ID_PCIX:
      return pcixLength(state, position);
    case PCI_CAP_ID_HT:
      return (byteAt(state, position + 3) & HT_3BIT_CAP_MASK) !== 0 ? HT_CAP_SIZEOF_SHORT : HT_CAP_SIZEOF_LONG;
    case PCI_CAP_ID_VNDR:
      return byteAt(state, position + PCI_CAP_FLAGS);
    case PCI_CAP_ID_EXP:
      return expressLength(state);
    case PCI_CAP_ID_MSIX:
      return PCI_CAP_MSIX_SIZEOF;
    case PCI_CAP_ID_SATA:
      return (byteAt(state, position + PCI_SATA_REGS) & PCI_SATA_REGS_MASK) === PCI_SATA_REGS_INLINE
        ? PCI_SATA_SIZEOF_LONG
        : PCI_SATA_SIZEOF_SHORT;
    case PCI_CAP_ID_AF:
      return PCI_CAP_AF_SIZEOF;
    default:
      // Among the known ids: SLOTID, CHSWP, DBG, CCRC, SHPC, SSVID, AGP3, SECDEV, EA; and 0, the NULL capability.
      return 0;
  }
}

/** Gives bytes to a capability and copies them from hardware. Where they were another's, the newest owner wins. */
export function claim(state: ConfigState, owner: number, name: string, position: number, length: number): void {
  let taken = 0;
  for (let at = position; at < position + length; at++) if (state.map[at] !== MAP_UNASSIGNED) taken++;
  if (taken > 0) {
    state.host.warn(`the ${name} at ${hex(position)} overlaps ${taken} bytes of another one`);
  }
  state.map.fill(owner, position, position + length);
  state.fill(position, length);
}

/**
 * Walks hardware's capability list: gives each visible capability its bytes, and leads the virtual links past the
 * hidden ones. A hidden one's bytes stay unassigned.
 *
 * Links are followed and shown as they are, low two bits included. A link into the header ends the list, and what
 * reaches past standard space is cut there: upstream checks neither.
 *
 * @throws EFAULT for an MSI or PCI-X capability at an odd position.
 */
export function mapCapabilities(state: ConfigState): void {
  if ((state.hw.read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST) === 0) return;
  let link = PCI_CAPABILITY_LIST;
  let position = state.hw.read(PCI_CAPABILITY_LIST, 1);
  let kept = 0;
  for (let step = 0; position !== 0 && step < MAX_STEPS; step++) {
    if (position < PCI_STD_HEADER_SIZEOF) {
      state.vconfig[link] = 0;
      break;
    }
    const id = state.hw.read(position, 1);
    const next = byteAt(state, position + PCI_CAP_LIST_NEXT);
    const length = capabilityLength(state, id, position);
    if (length === 0) {
      state.vconfig[link] = next;
    } else {
      claim(state, id, `capability ${hex(id)}`, position, Math.min(length, PCI_CFG_SPACE_SIZE - position));
      if (id === PCI_CAP_ID_PM) hidePme(state, position);
      kept++;
      link = position + PCI_CAP_LIST_NEXT;
      // No room for a link: the list ends.
      if (link >= PCI_CFG_SPACE_SIZE) break;
    }
    position = next;
  }
  if (kept === 0) state.setWord(PCI_STATUS, state.word(PCI_STATUS) & ~PCI_STATUS_CAP_LIST);
}
