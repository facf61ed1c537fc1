import {
  errnoError,
  PCI_ACS_CAP,
  PCI_ACS_CR,
  PCI_ACS_CTRL,
  PCI_ACS_RR,
  PCI_ACS_SV,
  PCI_ACS_TB,
  PCI_ACS_UF,
  PCI_ARI_CAP,
  PCI_ARI_CTRL,
  PCI_ERR_CAP,
  PCI_ERR_COR_ADV_NFAT,
  PCI_ERR_COR_MASK,
  PCI_ERR_COR_STATUS,
  PCI_ERR_UNCOR_MASK,
  PCI_ERR_UNCOR_SEVER,
  PCI_ERR_UNCOR_STATUS,
  PCI_EXT_CAP_ARI_SIZEOF,
  PCI_EXT_CAP_DSN_SIZEOF,
  PCI_EXT_CAP_ID_ACS,
  PCI_EXT_CAP_ID_ARI,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_LTR,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_EXT_CAP_ID_VNDR,
  PCI_EXT_CAP_LTR_SIZEOF,
  PCI_EXT_CAP_SRIOV_SIZEOF,
  PCI_LTR_MAX_NOSNOOP_LAT,
  PCI_LTR_MAX_SNOOP_LAT,
  PCI_SRIOV_BAR,
  PCI_SRIOV_CTRL,
  PCI_SRIOV_CTRL_ARI,
  PCI_SRIOV_CTRL_MSE,
  PCI_SRIOV_CTRL_VFE,
  PCI_SRIOV_FUNC_LINK,
  PCI_SRIOV_INITIAL_VF,
  PCI_SRIOV_NUM_VF,
  PCI_SRIOV_SUP_PGSIZE,
  PCI_SRIOV_SYS_PGSIZE,
  PCI_SRIOV_TOTAL_VF,
  PCI_SRIOV_VF_DID,
  PCI_SRIOV_VF_OFFSET,
  PCI_SRIOV_VF_STRIDE,
  PCI_VNDR_HEADER,
} from '@vfio/uapi';
import type { ConfigSpace } from './config-space.js';
import { type BarShape, defineBarRegister } from './header.js';

/** Errors that the AER capability of a PCIe endpoint reports (PCIe Base 7.8.4.2). */
export const AER_UNCORRECTABLE = 0x03fff030 & ~0x00000020;
/** Those that are fatal unless software says otherwise: data link protocol, flow control, receiver overflow, malformed. */
const AER_FATAL = 0x00062010;
const AER_CORRECTABLE = 0x0000f1c1;

/** Advanced Error Reporting. Its registers are sticky: the cause of a reset can be read after it. */
export function addAer(config: ConfigSpace): number {
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_ERR, 2, 0x2c);
  config.define(at + PCI_ERR_UNCOR_STATUS, 4, 0, { w1c: AER_UNCORRECTABLE, sticky: AER_UNCORRECTABLE });
  config.define(at + PCI_ERR_UNCOR_MASK, 4, 0, { rw: AER_UNCORRECTABLE, sticky: AER_UNCORRECTABLE });
  config.define(at + PCI_ERR_UNCOR_SEVER, 4, AER_FATAL, { rw: AER_UNCORRECTABLE, sticky: AER_UNCORRECTABLE });
  config.define(at + PCI_ERR_COR_STATUS, 4, 0, { w1c: AER_CORRECTABLE, sticky: AER_CORRECTABLE });
  config.define(at + PCI_ERR_COR_MASK, 4, PCI_ERR_COR_ADV_NFAT, { rw: AER_CORRECTABLE, sticky: AER_CORRECTABLE });
  config.define(at + PCI_ERR_CAP, 4, 0, { sticky: 0x1f });
  return at;
}

/** Device Serial Number: 64 bits, hard-wired. */
export function addDsn(config: ConfigSpace, serial: bigint): number {
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_DSN, 1, PCI_EXT_CAP_DSN_SIZEOF);
  config.define(at + 4, 4, Number(BigInt.asIntN(32, serial)));
  config.define(at + 8, 4, Number(BigInt.asIntN(32, serial >> 32n)));
  return at;
}

/** Alternative Routing-ID Interpretation. @param nextFunction 0 for the last one of the device. */
export function addAri(config: ConfigSpace, nextFunction: number): number {
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_ARI, 1, PCI_EXT_CAP_ARI_SIZEOF);
  config.define(at + PCI_ARI_CAP, 2, nextFunction << 8);
  config.define(at + PCI_ARI_CTRL, 2, 0);
  return at;
}

/** Latency Tolerance Reporting. */
export function addLtr(config: ConfigSpace): number {
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_LTR, 1, PCI_EXT_CAP_LTR_SIZEOF);
  config.define(at + PCI_LTR_MAX_SNOOP_LAT, 2, 0, { rw: 0x1fff });
  config.define(at + PCI_LTR_MAX_NOSNOOP_LAT, 2, 0, { rw: 0x1fff });
  return at;
}

/** Access Control Services of a downstream port: what isolates the functions below it. */
export function addAcs(config: ConfigSpace): number {
  const bits = PCI_ACS_SV | PCI_ACS_TB | PCI_ACS_RR | PCI_ACS_CR | PCI_ACS_UF;
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_ACS, 1, 8);
  config.define(at + PCI_ACS_CAP, 2, bits);
  config.define(at + PCI_ACS_CTRL, 2, 0, { rw: bits });
  return at;
}

/** Vendor-specific extended capability. @param body the bytes after the two header dwords. */
export function addVendorExtended(config: ConfigSpace, id: number, revision: number, body: Uint8Array): number {
  const length = body.length + 8;
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_VNDR, 1, length);
  config.define(at + PCI_VNDR_HEADER, 4, (id & 0xffff) | ((revision & 0xf) << 16) | (length << 20));
  for (let i = 0; i < body.length; i++) config.define(at + 8 + i, 1, body[i] ?? 0);
  return at;
}

/** Single Root I/O Virtualization of a physical function (PCIe Base 9.3.3). */
export interface SriovShape {
  readonly totalVfs: number;
  /** Routing id of the first VF minus that of the PF. Default 1. */
  readonly offset?: number;
  /** Routing id from one VF to the next. Default 1. */
  readonly stride?: number;
  /** Device id of the VFs. */
  readonly device: number;
  /** BARs of each VF by index; memory only. */
  readonly bars?: Readonly<Record<number, BarShape>>;
}

/** @param onControl VF Enable, memory space enable or the number of VFs was written. */
export function addSriov(config: ConfigSpace, shape: SriovShape, onControl: () => void): number {
  const { totalVfs, offset = 1, stride = 1 } = shape;
  if (!Number.isInteger(totalVfs) || totalVfs < 1 || totalVfs > 0xff)
    throw errnoError('EINVAL', `SR-IOV with ${totalVfs} VFs: 1 to 255 are allowed`);
  if (!(offset > 0) || !(stride > 0))
    throw errnoError('EINVAL', `SR-IOV with first VF offset ${offset} and stride ${stride}: both must be positive`);
  const at = config.addExtendedCapability(PCI_EXT_CAP_ID_SRIOV, 1, PCI_EXT_CAP_SRIOV_SIZEOF);
  config.define(at + PCI_SRIOV_CTRL, 2, 0, { rw: PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE | PCI_SRIOV_CTRL_ARI });
  config.define(at + PCI_SRIOV_INITIAL_VF, 2, totalVfs);
  config.define(at + PCI_SRIOV_TOTAL_VF, 2, totalVfs);
  config.define(at + PCI_SRIOV_NUM_VF, 2, 0, { rw: 0xffff });
  config.define(at + PCI_SRIOV_FUNC_LINK, 1, 0);
  config.define(at + PCI_SRIOV_VF_OFFSET, 2, offset);
  config.define(at + PCI_SRIOV_VF_STRIDE, 2, stride);
  config.define(at + PCI_SRIOV_VF_DID, 2, shape.device);
  config.define(at + PCI_SRIOV_SUP_PGSIZE, 4, 0x553);
  config.define(at + PCI_SRIOV_SYS_PGSIZE, 4, 1, { rw: 0x553 });
  for (const [index, bar] of Object.entries(shape.bars ?? {})) {
    if (bar.io === true) throw errnoError('EINVAL', `VF BAR ${index}: VFs have no I/O space`);
    defineBarRegister(config, at + PCI_SRIOV_BAR + 4 * Number(index), bar);
  }
  config.onWrite(at + PCI_SRIOV_CTRL, (_offset, _width, before) => {
    if (((config.get(at + PCI_SRIOV_CTRL, 4) ^ before) & 0xffff) !== 0) onControl();
  });
  config.onWrite(at + PCI_SRIOV_NUM_VF, (_offset, _width, before) => {
    // Results are undefined while VFs are enabled (9.3.3.7); here the count stays what it was, and never beyond the total.
    const enabled = (config.get(at + PCI_SRIOV_CTRL, 2) & PCI_SRIOV_CTRL_VFE) !== 0;
    if (enabled || config.get(at + PCI_SRIOV_NUM_VF, 2) > totalVfs) config.set(at + PCI_SRIOV_NUM_VF, 4, before);
  });
  return at;
}
