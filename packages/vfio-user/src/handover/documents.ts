import type { IrqInfo, RegionInfo, SavedView, VfioDevice } from '@vfio/core';
import { errnoError, hex, VFIO_USER_MINOR } from '@vfio/uapi';
import type { Agreement } from '../attach.js';
import { COMPAT_MODES } from '../compat.js';
import { MAX_CLIENT_XFER_SIZE, MAX_DMA_MAPS, MAX_IRQ_COUNT } from '../limits.js';
import type { PeerKind } from '../negotiation.js';
import { Fields, wholeNumber } from './fields.js';
import { HANDOVER_FORMAT } from './protocol.js';

const U16 = 0xffff;
const U32 = 0xffffffff;
const MAX_NAME = 64;
const MAX_PATH = 4096;
const MAX_INDEXES = 64;
/** Bytes of config space. */
const MAX_CONFIG = 4096;
/** Descriptors of one takeover: two for each vector of the largest table, and a few. */
export const MAX_FDS = 2 * MAX_IRQ_COUNT + 16;

/** What a client has seen of its device and will not ask again. */
export interface Shape {
  /** Ops name of the driver: only it reads what it has written. */
  readonly ops: string;
  readonly function: {
    readonly vendor: number;
    readonly device: number;
    readonly subvendor: number;
    readonly subdevice: number;
    readonly class: number;
    readonly revision: number;
  };
  readonly regions: readonly Pick<RegionInfo, 'flags' | 'size'>[];
  readonly irqs: readonly Pick<IrqInfo, 'flags' | 'count'>[];
}

/** The first message: what is to be taken over. */
export interface Offer {
  readonly shape: Shape;
  readonly agreement: Agreement;
  readonly hasTwin: boolean;
  /** The socket on which the next client comes goes along; false: this client's connection is all that there is. */
  readonly hasListener: boolean;
  /** Its file; null where it was inherited. */
  readonly file: { readonly path: string; readonly identity: string } | null;
}

/** The last message: what stands beside the device's own state. Descriptors by their number among those that were sent. */
export interface Takeover {
  readonly config: SavedView;
  readonly irqs: {
    readonly type: number | null;
    readonly vectors: readonly (number | null)[];
    readonly allocated: number;
    readonly intxMasked: boolean;
    readonly unmask: number | null;
    readonly err: number | null;
    readonly req: number | null;
  };
  /** Interrupt indexes that the client gave descriptors for. */
  readonly irqsGiven: readonly number[];
  /** Of the active index, where it cannot grow: see `ChunkedVectors.last`. */
  readonly chunked: { readonly end: number; readonly fds: number } | null;
  /** Id of the last command of ours. */
  readonly lastId: number;
  /** The client lays DMA messages out as QEMU before 11 does; null: it was not asked yet. */
  readonly isLegacyDma: boolean | null;
}

/** The shape of an opened device. */
export function shapeOf(device: VfioDevice): Shape {
  const { vendor, device: id, subvendor, subdevice, class: classCode, revision } = device.function;
  const { numRegions, numIrqs } = device.getInfo();
  return {
    ops: device.name,
    function: { vendor, device: id, subvendor, subdevice, class: classCode, revision },
    regions: Array.from({ length: numRegions }, (_, index) => {
      const { flags = 0, size = 0 } = orNothing(() => device.getRegionInfo(index));
      return { flags, size };
    }),
    irqs: Array.from({ length: numIrqs }, (_, index) => {
      const { flags = 0, count = 0 } = orNothing(() => device.getIrqInfo(index));
      return { flags, count };
    }),
  };
}

/** An index that the device does not have is refused by it. */
function orNothing<T extends object>(ask: () => T): Partial<T> {
  try {
    return ask();
  } catch {
    return {};
  }
}

/** @throws EINVAL where a client would find another device than the one that it has */
export function checkSameShape(mine: Shape, other: Shape): void {
  const refuse = (what: string, there: unknown, here: unknown) =>
    errnoError('EINVAL', `${what} of the device is ${there}, here it is ${here}`, { op: 'handover' });
  if (mine.ops !== other.ops) throw refuse('the driver', other.ops, mine.ops);
  for (const [name, here] of Object.entries(mine.function)) {
    const there = other.function[name as keyof Shape['function']];
    if (there !== here) throw refuse(name, hex(there), hex(here));
  }
  for (const what of ['regions', 'irqs'] as const) {
    const [here, there] = [mine[what], other[what]];
    if (here.length !== there.length) throw refuse(`the number of ${what}`, there.length, here.length);
    const at = here.findIndex((one, index) => JSON.stringify(one) !== JSON.stringify(there[index]));
    if (at >= 0) throw refuse(`${what}[${at}]`, JSON.stringify(there[at]), JSON.stringify(here[at]));
  }
}

function encode(document: object): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ format: HANDOVER_FORMAT, ...document }));
}

function decode(name: string, bytes: Uint8Array): Fields {
  const fields = Fields.parse(name, bytes);
  fields.whole('format', HANDOVER_FORMAT, HANDOVER_FORMAT);
  return fields;
}

export function encodeOffer(offer: Offer): Uint8Array {
  return encode(offer);
}

/** @throws EINVAL naming the field that cannot be */
export function decodeOffer(bytes: Uint8Array): Offer {
  const fields = decode('offer', bytes);
  const file = fields.objectOrNull('file');
  return {
    shape: decodeShape(fields.object('shape')),
    agreement: decodeAgreement(fields.object('agreement')),
    hasTwin: fields.flag('hasTwin'),
    hasListener: fields.flag('hasListener'),
    file: file && { path: file.text('path', MAX_PATH), identity: file.text('identity', MAX_NAME) },
  };
}

function decodeShape(fields: Fields): Shape {
  const fn = fields.object('function');
  return {
    ops: fields.text('ops', MAX_NAME),
    function: {
      vendor: fn.whole('vendor', 0, U16),
      device: fn.whole('device', 0, U16),
      subvendor: fn.whole('subvendor', 0, U16),
      subdevice: fn.whole('subdevice', 0, U16),
      class: fn.whole('class', 0, 0xffffff),
      revision: fn.whole('revision', 0, 0xff),
    },
    regions: fields.list('regions', MAX_INDEXES, (name, value) => {
      const region = new Fields(name, value);
      return { flags: region.whole('flags', 0, U32), size: region.whole('size', 0, Number.MAX_SAFE_INTEGER) };
    }),
    irqs: fields.list('irqs', MAX_INDEXES, (name, value) => {
      const irq = new Fields(name, value);
      return { flags: irq.whole('flags', 0, U32), count: irq.whole('count', 0, MAX_IRQ_COUNT) };
    }),
  };
}

function decodeAgreement(fields: Fields): Agreement {
  const limits = fields.object('limits');
  const compat = fields.object('compat');
  const peer = compat.text('peer', MAX_NAME) as PeerKind;
  if (!COMPAT_MODES.includes(peer))
    throw errnoError('EINVAL', `a client of an unknown kind: ${peer}`, { op: 'handover' });
  return {
    minor: fields.whole('minor', 0, VFIO_USER_MINOR),
    compat: {
      peer,
      errorsAsData: compat.flag('errorsAsData'),
      invertResetFlag: compat.flag('invertResetFlag'),
      mayBeLegacyQemu: compat.flag('mayBeLegacyQemu'),
    },
    limits: {
      maxSendFds: limits.whole('maxSendFds', 0, U32),
      maxReceiveFds: limits.whole('maxReceiveFds', 0, U32),
      maxSendData: limits.whole('maxSendData', 1, U32),
      maxReceiveData: limits.whole('maxReceiveData', 1, MAX_CLIENT_XFER_SIZE),
      maxDmaMaps: limits.whole('maxDmaMaps', 0, MAX_DMA_MAPS),
      twinSocket: limits.flag('twinSocket'),
      writeMultiple: limits.flag('writeMultiple'),
    },
  };
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');

export function encodeTakeover({ config, ...rest }: Takeover): Uint8Array {
  const { seen, values, owners, msiControl } = config;
  const bytes = { seen: base64(seen), values: base64(values), owners: base64(owners) };
  return encode({ config: { ...bytes, msiControl }, ...rest });
}

/** @throws EINVAL naming the field that cannot be */
export function decodeTakeover(bytes: Uint8Array): Takeover {
  const fields = decode('takeover', bytes);
  const config = fields.object('config');
  const irqs = fields.object('irqs');
  const chunked = fields.objectOrNull('chunked');
  return {
    config: {
      seen: config.bytes('seen', MAX_CONFIG),
      values: config.bytes('values', MAX_CONFIG),
      owners: config.bytes('owners', MAX_CONFIG),
      msiControl: config.whole('msiControl', 0, U16),
    },
    irqs: {
      type: irqs.wholeOrNull('type', 0, 2),
      vectors: irqs.list('vectors', MAX_IRQ_COUNT, (name, value) =>
        value === null ? null : wholeNumber(name, value, 0, MAX_FDS),
      ),
      allocated: irqs.whole('allocated', 0, MAX_IRQ_COUNT),
      intxMasked: irqs.flag('intxMasked'),
      unmask: irqs.wholeOrNull('unmask', 0, MAX_FDS),
      err: irqs.wholeOrNull('err', 0, MAX_FDS),
      req: irqs.wholeOrNull('req', 0, MAX_FDS),
    },
    irqsGiven: fields.list('irqsGiven', MAX_INDEXES, (name, value) => wholeNumber(name, value, 0, MAX_INDEXES)),
    chunked: chunked && {
      end: chunked.whole('end', 0, MAX_IRQ_COUNT),
      fds: chunked.whole('fds', 0, MAX_IRQ_COUNT),
    },
    lastId: fields.whole('lastId', 0, U16),
    isLegacyDma: fields.flagOrNull('isLegacyDma'),
  };
}
