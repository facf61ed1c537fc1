import { NVME_VERSION } from './constants.js';
import { LBA_FORMATS, type NvmeNamespace } from './namespace.js';

/** What the identify data structure of a controller is made from. */
export interface ControllerIdentity {
  readonly vendor: number;
  readonly subvendor: number;
  readonly serial: string;
  readonly model: string;
  readonly firmware: string;
  readonly subnqn: string;
  readonly controllerId: number;
  /** The only controller of its subsystem, the one that manages the migration of others, or one of those. */
  readonly role: 'only' | 'manager' | 'managed';
  readonly mdts: number;
  readonly namespaces: number;
  readonly hasCache: boolean;
  readonly capacity: number;
  readonly errorLogSize: number;
  readonly asyncEvents: number;
  readonly warningTemperature: number;
  readonly criticalTemperature: number;
}

/** Identify data is always this long. */
export const IDENTIFY_SIZE = 4096;

/** Optional asynchronous events that are supported: namespace attribute notices. */
export const OAES_NAMESPACE = 0x100;

/** Bits of OACS: Format NVM, and Host Managed Live Migration (Base 2.1, figure 312). */
const OACS_FORMAT = 0x0002;
const OACS_LIVE_MIGRATION = 0x0800;

/** Limits of tracking that a manager announces (Base 2.1, figure 312, bytes 570 to 576). */
export const TRACKING = {
  /** Ranges of host memory that are tracked at a time, over all controllers. */
  DESCRIPTORS: 16,
  /** Granularity as powers of two of 4 KiB: 4 KiB to 2 MiB. */
  MIN_GRANULARITY: 0,
  MAX_GRANULARITY: 9,
  /** Host memory changes are tracked (THMCS), user data changes too (TUDCS). */
  ATTRIBUTES: 0x3,
} as const;

/** Limits of data queues (bytes 578 to 587). */
export const QUEUE_LIMITS = {
  /** MCUDMQ, MNSUDMQ, and as many pieces of memory: MCMR, NMCMR. */
  QUEUES: 4,
} as const;

/** Identify Controller (figure 247). */
export function identifyController(id: ControllerIdentity): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, id.vendor, true);
  view.setUint16(2, id.subvendor, true);
  ascii(bytes, 4, 20, id.serial);
  ascii(bytes, 24, 40, id.model);
  ascii(bytes, 64, 8, id.firmware);
  view.setUint8(72, 3); // recommended arbitration burst: 8 commands
  bytes.set([0x00, 0x54, 0x52], 73); // OUI 52:54:00, low byte first
  // CMIC: more controllers than one, one of a virtual function.
  view.setUint8(76, { only: 0, manager: 0x02, managed: 0x06 }[id.role]);
  view.setUint8(77, id.mdts);
  view.setUint16(78, id.controllerId, true);
  view.setUint32(80, NVME_VERSION, true);
  view.setUint32(84, 500_000, true); // RTD3 resume latency, us
  view.setUint32(88, 5_000_000, true); // RTD3 entry latency, us: how long a shutdown may take
  view.setUint32(92, OAES_NAMESPACE, true);
  view.setUint8(111, 1); // an I/O controller
  view.setUint16(256, OACS_FORMAT | (id.role === 'manager' ? OACS_LIVE_MIGRATION : 0), true);
  view.setUint8(258, 3); // ACL: 4 aborts
  view.setUint8(259, id.asyncEvents - 1);
  view.setUint8(260, 0x03); // one firmware slot, read only
  view.setUint8(261, 0x06); // LPA: commands supported and effects; extended offsets and lengths
  view.setUint8(262, id.errorLogSize - 1);
  view.setUint16(266, id.warningTemperature, true);
  view.setUint16(268, id.criticalTemperature, true);
  view.setBigUint64(280, BigInt(id.capacity), true); // TNVMCAP
  view.setUint8(512, 0x66);
  view.setUint8(513, 0x44);
  view.setUint32(516, id.namespaces, true);
  view.setUint16(520, 0x009d, true); // ONCS: compare, DSM, write zeroes, save and select, verify
  view.setUint8(524, 0); // FNA: formats are per namespace
  view.setUint8(525, id.hasCache ? 0x07 : 0x06); // a cache; Flush takes all namespaces
  view.setUint8(531, 0);
  if (id.role === 'manager') {
    view.setUint16(570, TRACKING.DESCRIPTORS, true); // CMMRTD
    view.setUint16(572, TRACKING.DESCRIPTORS, true); // NMMRTD
    view.setUint8(574, TRACKING.MIN_GRANULARITY);
    view.setUint8(575, TRACKING.MAX_GRANULARITY);
    view.setUint8(576, TRACKING.ATTRIBUTES); // TRATTR
    view.setUint16(578, QUEUE_LIMITS.QUEUES, true); // MCUDMQ
    view.setUint16(580, QUEUE_LIMITS.QUEUES, true); // MNSUDMQ
    view.setUint16(582, 1, true); // MCMR: a queue is in one piece
    view.setUint16(584, QUEUE_LIMITS.QUEUES, true); // NMCMR
  }
  ascii(bytes, 768, 256, id.subnqn, 0);
  view.setUint16(2048, 2500, true); // power state 0: 25 W
  return bytes;
}

/** Identify Namespace (figure 245). */
export function identifyNamespace(namespace: NvmeNamespace, isShared: boolean): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_SIZE);
  const view = new DataView(bytes.buffer);
  const blocks = BigInt(namespace.blocks);
  for (const at of [0, 8, 16]) view.setBigUint64(at, blocks, true);
  view.setUint8(25, LBA_FORMATS.length - 1);
  view.setUint8(26, namespace.format);
  view.setUint8(30, isShared ? 1 : 0); // NMIC: attached to more controllers than one
  view.setUint8(33, 0x09); // DLFEAT: deallocated blocks read as zeros; Write Zeroes can deallocate
  view.setBigUint64(48, BigInt(namespace.size), true);
  bytes.set(guid(namespace), 104);
  view.setBigUint64(120, namespace.eui64, false);
  for (const [index, shift] of LBA_FORMATS.entries()) view.setUint32(128 + 4 * index, shift << 16, true);
  return bytes;
}

/** Namespace Identification Descriptor list (figure 249): EUI-64, NGUID, UUID. */
export function identifyDescriptors(namespace: NvmeNamespace): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set([1, 8], 0);
  view.setBigUint64(4, namespace.eui64, false);
  bytes.set([2, 16], 12);
  bytes.set(guid(namespace), 16);
  bytes.set([3, 16], 32);
  const uuid = guid(namespace);
  uuid[6] = ((uuid[6] ?? 0) & 0x0f) | 0x80; // version 8: made by a rule of its own (RFC 9562)
  uuid[8] = ((uuid[8] ?? 0) & 0x3f) | 0x80;
  bytes.set(uuid, 36);
  return bytes;
}

/** Active namespaces above `after`, ascending. */
export function identifyActive(namespaces: Iterable<number>, after: number): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_SIZE);
  const view = new DataView(bytes.buffer);
  const ids = [...namespaces].filter((nsid) => nsid > after).sort((a, b) => a - b);
  for (const [index, nsid] of ids.slice(0, 1024).entries()) view.setUint32(4 * index, nsid, true);
  return bytes;
}

function guid(namespace: NvmeNamespace): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, namespace.eui64 ^ 0x7666696f2d6e766dn, false);
  view.setBigUint64(8, namespace.eui64, false);
  return bytes;
}

/** Text as identify data has it: padded with spaces (or zeros), cut where it is too long, printable only. */
function ascii(bytes: Uint8Array, at: number, length: number, text: string, pad = 0x20): void {
  for (let i = 0; i < length; i++) {
    const code = i < text.length ? text.charCodeAt(i) : pad;
    bytes[at + i] = i < text.length && (code < 0x20 || code > 0x7e) ? 0x3f : code;
  }
}
