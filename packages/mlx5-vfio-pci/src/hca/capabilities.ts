import { bit } from './bits.js';

/** Kinds of capabilities. */
export const CAP_TYPE = { GENERAL: 0x00, GENERAL_2: 0x20, ADV_VIRTUALIZATION: 0x26 } as const;

/** Bytes of the output of QUERY_HCA_CAP, and where the structure starts in it. */
export const CAP_OUTPUT = 16 + 4096;
export const CAP_START = 16;

/** What of the general capabilities matters here. */
export interface GeneralCaps {
  readonly vhcaId: number;
  readonly hasGeneral2: boolean;
  readonly migration: boolean;
  readonly advVirtualization: boolean;
  readonly maxEqs: number;
  readonly logMaxMessage: number;
}

export interface General2Caps {
  readonly migratable: boolean;
  readonly multiLoad: boolean;
  readonly trackingState: boolean;
  readonly inChunks: boolean;
  readonly migrationState: boolean;
}

/** Limits of page trackers. */
export interface TrackerCaps {
  readonly maxRanges: number;
  readonly logMinAddressSpace: number;
  readonly logMaxAddressSpace: number;
  readonly logMaxMessage: number;
  readonly logMinPage: number;
  readonly logMaxPage: number;
}

export function parseGeneral(cap: Uint8Array): GeneralCaps {
  const view = new DataView(cap.buffer, cap.byteOffset, cap.byteLength);
  return {
    vhcaId: view.getUint16(0x06),
    hasGeneral2: bit(cap, 0x20),
    migration: bit(cap, 0x68d),
    advVirtualization: bit(cap, 0x579),
    maxEqs: view.getUint16(0x8e) || 1 << (view.getUint8(0x1f) & 0xf),
    logMaxMessage: view.getUint8(0x38) & 0x1f,
  };
}

export function parseGeneral2(cap: Uint8Array): General2Caps {
  return {
    migratable: bit(cap, 0x80),
    multiLoad: bit(cap, 0xc8),
    trackingState: bit(cap, 0xc9),
    inChunks: bit(cap, 0xd0),
    migrationState: bit(cap, 0xd9),
  };
}

export function parseTracker(cap: Uint8Array): TrackerCaps {
  const at = (offset: number, mask = 0xff): number => (cap[offset] ?? 0) & mask;
  return {
    maxRanges: at(1),
    logMinAddressSpace: at(2),
    logMaxAddressSpace: at(3),
    logMaxMessage: at(5, 0x1f),
    logMinPage: at(6, 0x1f),
    logMaxPage: at(7, 0x1f),
  };
}
