import {
  hex,
  PCI_ACS_CAP,
  PCI_ACS_EC,
  PCI_ACS_EGRESS_BITS,
  PCI_ACS_EGRESS_CTL_V,
  PCI_CAP_SIZEOF,
  PCI_CAP_VC_BASE_SIZEOF,
  PCI_CAP_VC_PER_VC_SIZEOF,
  PCI_CFG_SPACE_SIZE,
  PCI_DPA_BASE_SIZEOF,
  PCI_DPA_CAP,
  PCI_DPA_CAP_SUBSTATE_MASK,
  PCI_DVSEC_HEADER1,
  PCI_ERR_ROOT_COMMAND,
  PCI_EXT_CAP_ARI_SIZEOF,
  PCI_EXT_CAP_ATS_SIZEOF,
  PCI_EXT_CAP_DSN_SIZEOF,
  PCI_EXT_CAP_ID_ACS,
  PCI_EXT_CAP_ID_ARI,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_DPA,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_DVSEC,
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_LTR,
  PCI_EXT_CAP_ID_MCAST,
  PCI_EXT_CAP_ID_MFVC,
  PCI_EXT_CAP_ID_PRI,
  PCI_EXT_CAP_ID_PWR,
  PCI_EXT_CAP_ID_REBAR,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_EXT_CAP_ID_TPH,
  PCI_EXT_CAP_ID_VC,
  PCI_EXT_CAP_ID_VC9,
  PCI_EXT_CAP_ID_VNDR,
  PCI_EXT_CAP_LTR_SIZEOF,
  PCI_EXT_CAP_MCAST_ENDPOINT_SIZEOF,
  PCI_EXT_CAP_PRI_SIZEOF,
  PCI_EXT_CAP_PWR_SIZEOF,
  PCI_EXT_CAP_SRIOV_SIZEOF,
  PCI_REBAR_CTRL,
  PCI_REBAR_CTRL_NBAR_MASK,
  PCI_REBAR_CTRL_NBAR_SHIFT,
  PCI_TPH_BASE_SIZEOF,
  PCI_TPH_CAP,
  PCI_TPH_CAP_LOC_MASK,
  PCI_TPH_CAP_ST_MASK,
  PCI_TPH_CAP_ST_SHIFT,
  PCI_TPH_LOC_CAP,
  PCI_VC_CAP1_EVCC,
  PCI_VC_CAP2_32_PHASE,
  PCI_VC_CAP2_64_PHASE,
  PCI_VC_CAP2_128_PHASE,
  PCI_VC_PORT_CAP1,
  PCI_VC_PORT_CAP2,
  PCI_VSEC_HDR,
  PCI_VSEC_HDR_LEN_SHIFT,
  pciDvsecHeader1Len,
  pciExtCapId,
  pciExtCapNext,
} from '@vfio/uapi';
import { claim } from './caps.js';
import type { ConfigState } from './state.js';

/** Next pointer of an extended capability's header. */
const NEXT_MASK = 0xffc00000;

/** A register of a capability; 0 where a list that runs to the end of config space leaves no room for it. */
function dwordAt(state: ConfigState, position: number): number {
  return position < state.size ? state.hw.read(position, 4) : 0;
}

function byteAt(state: ConfigState, position: number): number {
  return position < state.size ? state.hw.read(position, 1) : 0;
}

function roundUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

/** Resources of each virtual channel, then the arbitration table of the function, 4 bits a phase. */
function virtualChannelLength(state: ConfigState, position: number): number {
  const extra = dwordAt(state, position + PCI_VC_PORT_CAP1) & PCI_VC_CAP1_EVCC;
  const cap2 = dwordAt(state, position + PCI_VC_PORT_CAP2);
  const phases =
    (cap2 & PCI_VC_CAP2_128_PHASE) !== 0
      ? 128
      : (cap2 & PCI_VC_CAP2_64_PHASE) !== 0
        ? 64
        : (cap2 & PCI_VC_CAP2_32_PHASE) !== 0
          ? 32
          : 0;
  const length = PCI_CAP_VC_BASE_SIZEOF + (1 + extra) * PCI_CAP_VC_PER_VC_SIZEOF;
  return phases === 0 ? length : roundUp(length, 16) + (phases * 4) / 8;
}

function accessControlLength(state: ConfigState, position: number): number {
  if ((byteAt(state, position + PCI_ACS_CAP) & PCI_ACS_EC) === 0) return PCI_ACS_EGRESS_CTL_V;
  // 0 stands for 256, which has no 8 bits.
  const bits = byteAt(state, position + PCI_ACS_EGRESS_BITS) || 256;
  return PCI_ACS_EGRESS_CTL_V + roundUp(bits, 32) / 8;
}

function tphLength(state: ConfigState, position: number): number {
  const cap = dwordAt(state, position + PCI_TPH_CAP);
  if ((cap & PCI_TPH_CAP_LOC_MASK) !== PCI_TPH_LOC_CAP) return PCI_TPH_BASE_SIZEOF;
  return PCI_TPH_BASE_SIZEOF + 2 * (((cap & PCI_TPH_CAP_ST_MASK) >> PCI_TPH_CAP_ST_SHIFT) + 1);
}

/** Length in bytes of an extended capability, 0 for one that is hidden, as every id is that is not named here. */
function extCapabilityLength(state: ConfigState, id: number, position: number): number {
  switch (id) {
    case PCI_EXT_CAP_ID_ERR:
      return PCI_ERR_ROOT_COMMAND;
    case PCI_EXT_CAP_ID_VC:
    case PCI_EXT_CAP_ID_MFVC:
    case PCI_EXT_CAP_ID_VC9:
      return virtualChannelLength(state, position);
    case PCI_EXT_CAP_ID_DSN:
      return PCI_EXT_CAP_DSN_SIZEOF;
    case PCI_EXT_CAP_ID_PWR:
      return PCI_EXT_CAP_PWR_SIZEOF;
    case PCI_EXT_CAP_ID_VNDR:
      return dwordAt(state, position + PCI_VSEC_HDR) >>> PCI_VSEC_HDR_LEN_SHIFT;
    case PCI_EXT_CAP_ID_ACS:
      return accessControlLength(state, position);
    case PCI_EXT_CAP_ID_ARI:
      return PCI_EXT_CAP_ARI_SIZEOF;
    case PCI_EXT_CAP_ID_ATS:
      return PCI_EXT_CAP_ATS_SIZEOF;
    case PCI_EXT_CAP_ID_SRIOV:
      return PCI_EXT_CAP_SRIOV_SIZEOF;
    case PCI_EXT_CAP_ID_MCAST:
      return PCI_EXT_CAP_MCAST_ENDPOINT_SIZEOF;
    case PCI_EXT_CAP_ID_PRI:
      return PCI_EXT_CAP_PRI_SIZEOF;
    case PCI_EXT_CAP_ID_REBAR: {
      const bars = (byteAt(state, position + PCI_REBAR_CTRL) & PCI_REBAR_CTRL_NBAR_MASK) >> PCI_REBAR_CTRL_NBAR_SHIFT;
      return PCI_CAP_SIZEOF + 8 * bars;
    }
    case PCI_EXT_CAP_ID_DPA:
      return PCI_DPA_BASE_SIZEOF + (byteAt(state, position + PCI_DPA_CAP) & PCI_DPA_CAP_SUBSTATE_MASK) + 1;
    case PCI_EXT_CAP_ID_TPH:
      return tphLength(state, position);
    case PCI_EXT_CAP_ID_LTR:
      return PCI_EXT_CAP_LTR_SIZEOF;
    case PCI_EXT_CAP_ID_DVSEC:
      return pciDvsecHeader1Len(dwordAt(state, position + PCI_DVSEC_HEADER1));
    default:
      return 0;
  }
}

/**
 * Walks hardware's list of extended capabilities, where there is one that a user may see. A hidden one is led past; a
 * hidden one at the head of the list, whose place is fixed, leaves a header of id 0 that only carries the link.
 */
export function mapExtCapabilities(state: ConfigState): void {
  if (!state.extendedCaps) return;
  const steps = (state.size - PCI_CFG_SPACE_SIZE) / PCI_CAP_SIZEOF;
  let link = 0;
  let position = PCI_CFG_SPACE_SIZE;
  let kept = 0;
  for (let step = 0; position >= PCI_CFG_SPACE_SIZE && step < steps; step++) {
    const header = state.hw.read(position, 4);
    const id = pciExtCapId(header);
    const next = pciExtCapNext(header);
    const length = extCapabilityLength(state, id, position);
    if (length === 0 && link !== 0) {
      state.setDword(link, (state.dword(link) & ~NEXT_MASK) | (next << 20));
    } else {
      // The map has a byte for an owner. Only a hidden id at the head of the list can be larger, and then what its low
      // byte means is how its four bytes are served, as upstream does it.
      claim(
        state,
        id & 0xff,
        `extended capability ${hex(id)}`,
        position,
        Math.min(length === 0 ? PCI_CAP_SIZEOF : length, state.size - position),
      );
      if (length === 0) state.setDword(position, state.dword(position) & NEXT_MASK);
      else kept++;
      link = position;
    }
    position = next;
  }
  if (kept === 0) state.setDword(PCI_CFG_SPACE_SIZE, 0);
}
