import type { VfioPciCoreDevice, ZpciFacts } from '@vfio/core';
import {
  encodeDeviceCap,
  type TypedDeviceCap,
  VFIO_DEVICE_INFO_CAP_ZPCI_BASE,
  VFIO_DEVICE_INFO_CAP_ZPCI_GROUP,
  VFIO_DEVICE_INFO_CAP_ZPCI_PFIP,
  VFIO_DEVICE_INFO_CAP_ZPCI_UTIL,
  VFIO_DEVICE_INFO_ZPCI_FLAG_REFRESH,
} from '@vfio/uapi';
import { ZPCI_ERROR_SIZE } from './errors.js';

/** Longest store block that a user is told of: what the kernel splits stores into. The group's own is `imaxstbl`. */
const MAX_WRITE_SIZE = 128;

const LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/** The capabilities of a function, in the kernel's order. */
export function zpciCaps(facts: ZpciFacts): TypedDeviceCap[] {
  return makersOf(facts).map((make) => make(facts));
}

/** Adds them to a device. The handle may change, so they are made at each GET_INFO. */
export function addZpciCaps(dev: VfioPciCoreDevice, facts: ZpciFacts): void {
  for (const make of makersOf(facts)) dev.addInfoCap(() => encodeDeviceCap(make(facts), LITTLE_ENDIAN));
}

const makersOf = (facts: ZpciFacts) =>
  facts.utilStr === undefined ? [baseCap, groupCap, pfipCap] : [baseCap, groupCap, utilCap, pfipCap];

/** Version 3 says that there are error records, and how long one is. */
function baseCap(facts: ZpciFacts): TypedDeviceCap {
  const { startDma, endDma, pchid, vfn, fmbLength, pft, gid, fh } = facts;
  const common = { id: VFIO_DEVICE_INFO_CAP_ZPCI_BASE, startDma, endDma, pchid, vfn, fmbLength, pft, gid, fh } as const;
  return facts.errors === undefined
    ? { ...common, version: 2, ccdfErrLength: undefined }
    : { ...common, version: 3, ccdfErrLength: ZPCI_ERROR_SIZE };
}

function groupCap({ group }: ZpciFacts): TypedDeviceCap {
  const { dasm, msiAddr, mui, noi, maxstbl, version } = group;
  return {
    id: VFIO_DEVICE_INFO_CAP_ZPCI_GROUP,
    version: 2,
    dasm,
    msiAddr,
    // Set for every group, as the kernel does: a guest then tells of each change of its translation tables.
    flags: BigInt(VFIO_DEVICE_INFO_ZPCI_FLAG_REFRESH),
    mui,
    noi,
    maxstbl: MAX_WRITE_SIZE,
    pciVersion: version,
    imaxstbl: maxstbl,
  };
}

function utilCap({ utilStr }: ZpciFacts): TypedDeviceCap {
  return { id: VFIO_DEVICE_INFO_CAP_ZPCI_UTIL, version: 1, utilStr: utilStr ?? new Uint8Array(0) };
}

function pfipCap({ pfip }: ZpciFacts): TypedDeviceCap {
  return { id: VFIO_DEVICE_INFO_CAP_ZPCI_PFIP, version: 1, pfip };
}
