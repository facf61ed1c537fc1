import { isVfioError } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import {
  checkSameShape,
  decodeOffer,
  decodeTakeover,
  encodeOffer,
  encodeTakeover,
  type Offer,
  type Takeover,
} from '../src/handover/documents.js';
import { decodeProblem, encodeProblem } from '../src/handover/protocol.js';

const OFFER: Offer = {
  shape: {
    ops: 'nvme-vfio-pci',
    function: { vendor: 0x1b36, device: 0x10, subvendor: 0x1af4, subdevice: 0x1100, class: 0x010802, revision: 2 },
    regions: [
      { flags: 7, size: 0x4000 },
      { flags: 3, size: 256 },
    ],
    irqs: [{ flags: 9, count: 9 }],
  },
  agreement: {
    minor: 0,
    compat: { peer: 'qemu', errorsAsData: false, invertResetFlag: false, mayBeLegacyQemu: true },
    limits: {
      maxSendFds: 16,
      maxReceiveFds: 16,
      maxSendData: 1 << 20,
      maxReceiveData: 1 << 20,
      maxDmaMaps: 65535,
      twinSocket: false,
      writeMultiple: true,
    },
  },
  hasTwin: false,
  hasListener: true,
  file: { path: '/run/device', identity: '1:2' },
};

const TAKEOVER: Takeover = {
  config: {
    seen: Uint8Array.from({ length: 256 }, (_, at) => at),
    values: Uint8Array.from({ length: 256 }, (_, at) => at ^ 0x55),
    owners: new Uint8Array(256).fill(0xff),
    msiControl: 0x81,
  },
  irqs: { type: 2, vectors: [0, null, 1], allocated: 3, intxMasked: false, unmask: null, err: 2, req: 3 },
  irqsGiven: [2, 3],
  chunked: { end: 3, fds: 2 },
  lastId: 0xffff,
  isLegacyDma: null,
};

const json = (bytes: Uint8Array): unknown => JSON.parse(new TextDecoder().decode(bytes));
const text = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));

type Path = readonly (string | number)[];

/** Every place of a document, the outer ones first. */
function places(value: unknown, at: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [at];
  const keys = Array.isArray(value) ? [...value.keys()] : Object.keys(value);
  const inner = keys.flatMap((key) => places((value as Record<string | number, unknown>)[key], [...at, key]));
  return at.length === 0 ? inner : [at, ...inner];
}

/** The document with something else at a place; undefined takes it out. */
function changed(value: unknown, [key, ...rest]: Path, to: unknown): unknown {
  const copy = structuredClone(value) as Record<string | number, unknown>;
  copy[key!] = rest.length === 0 ? to : changed(copy[key!], rest, to);
  return copy;
}

const nameOf = (document: string, path: Path) =>
  path.reduce<string>((name, key) => (typeof key === 'number' ? `${name}[${key}]` : `${name}.${key}`), document);

describe.each([
  ['offer', OFFER, encodeOffer as (value: unknown) => Uint8Array, decodeOffer],
  ['takeover', TAKEOVER, encodeTakeover as (value: unknown) => Uint8Array, decodeTakeover],
] as const)('the %s', (name, document, encode, decode) => {
  const valid = json(encode(document));

  test('comes back as it was', () => {
    expect(decode(encode(document))).toEqual(document);
  });

  const errorOf = (value: unknown): string => {
    try {
      decode(text(value));
      return 'none';
    } catch (error) {
      expect(isVfioError(error) && error.errno).toBe('EINVAL');
      return (error as Error).message;
    }
  };

  test('without any one of its fields, or with another kind of thing there, is refused by the name of the field', () => {
    for (const path of places(valid)) {
      const field = nameOf(name, path);
      const isItem = typeof path.at(-1) === 'number';
      for (const wrong of isItem ? [-1, 'x', true, 1.5] : [undefined, -1, [[]], 1.5, 1e300]) {
        const message = errorOf(changed(valid, path, wrong));
        expect(message, `${field}: ${JSON.stringify(wrong)}`).toContain(field);
      }
    }
  });

  test('of another version, or that is no document, is refused', () => {
    expect(errorOf(changed(valid, ['format'], 2))).toContain(`${name}.format is 2`);
    for (const wrong of [null, [], 'x', 1]) expect(errorOf(wrong)).toContain(`${name} is`);
    expect(() => decode(Uint8Array.of(0xff, 0xfe))).toThrow(`${name} is missing: JSON is wanted`);
    expect(() => decode(encode(document).subarray(0, -1))).toThrow('JSON is wanted');
  });

  test('may have fields that only a later version knows', () => {
    expect(decode(text(changed(valid, ['later'], 1)))).toEqual(document);
  });
});

test('lists and texts are bounded before anything is made of them', () => {
  const offer = json(encodeOffer(OFFER));
  const takeover = json(encodeTakeover(TAKEOVER));
  const many = (count: number, item: unknown) => new Array(count).fill(item);
  for (const [document, path, value] of [
    [offer, ['shape', 'regions'], many(65, { flags: 0, size: 0 })],
    [offer, ['shape', 'ops'], 'x'.repeat(65)],
    [offer, ['file', 'path'], 'x'.repeat(4097)],
    [offer, ['agreement', 'compat', 'peer'], 'nobody'],
    [offer, ['agreement', 'limits', 'maxReceiveData'], 0],
    [takeover, ['irqs', 'vectors'], many(2049, null)],
    [takeover, ['irqsGiven'], many(65, 0)],
    [takeover, ['config', 'seen'], Buffer.alloc(5000).toString('base64')],
    [takeover, ['config', 'values'], '!!!!'],
  ] as const) {
    const decode = document === offer ? decodeOffer : decodeTakeover;
    expect(() => decode(text(changed(document, path, value))), path.join('.')).toThrow();
  }
});

test('a device of another shape is refused, with what differs', () => {
  const differ: [Path, unknown, string][] = [
    [['ops'], 'other', 'the driver of the device is other, here it is nvme-vfio-pci'],
    [['function', 'class'], 0x020000, 'class of the device is 0x20000, here it is 0x10802'],
    [['regions', 1, 'size'], 512, 'regions[1] of the device is {"flags":3,"size":512}'],
    [['regions'], [], 'the number of regions of the device is 0, here it is 2'],
    [['irqs', 0, 'count'], 1, 'irqs[0] of the device is {"flags":9,"count":1}'],
  ];
  for (const [path, value, message] of differ) {
    expect(() => checkSameShape(OFFER.shape, changed(OFFER.shape, path, value) as Offer['shape'])).toThrow(message);
  }
  checkSameShape(OFFER.shape, structuredClone(OFFER.shape));
});

test('an error goes to the other server with its code, errno and sentence; what is no error is one', () => {
  const sent = decodeOfferError();
  const came = decodeProblem(encodeProblem(sent));
  expect([came?.code, came?.errno, came?.message]).toEqual([
    sent.code,
    sent.errno,
    `the other server: ${sent.message}`,
  ]);
  expect(decodeProblem(new Uint8Array(0))).toBeUndefined();
  for (const wrong of [text(null), Uint8Array.of(1), text('x'), text({ code: 'x' })]) {
    expect(decodeProblem(wrong)).toMatchObject({ errno: 'EPROTO' });
  }
  const later = { code: 'ERR_VFIO_LATER', errno: 'ELATER', message: 'what only a later version knows' };
  expect(decodeProblem(text(later))).toMatchObject({ code: 'ERR_VFIO_REMOTE', errno: 'EIO' });
});

function decodeOfferError() {
  try {
    decodeOffer(text({}));
  } catch (error) {
    if (isVfioError(error)) return error;
  }
  throw new Error('it was taken');
}
