/** VERSION: framing, JSON, types and limits. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  decodeVfioUserVersion,
  encodeVfioUserVersion,
  VFIO_USER_MAX_VERSION_JSON,
  type VfioUserCapabilities,
} from '../src/index.js';
import { caught, hexOf } from './support/hex.js';

/** A payload of version 0.2 with a text. */
function payload(text: string, end = '\0'): Uint8Array {
  return Uint8Array.of(0, 0, 2, 0, ...new TextEncoder().encode(text + end));
}

function withCapabilities(json: string): Uint8Array {
  return payload(`{"capabilities":${json}}`);
}

const NOTHING: VfioUserCapabilities = {
  maxMsgFds: undefined,
  maxDataXferSize: undefined,
  maxDmaMaps: undefined,
  pgsizes: undefined,
  migration: undefined,
  twinSocket: undefined,
  writeMultiple: undefined,
};

/** What QEMU 11.1 sends. */
const QEMU =
  '{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, ' +
  '"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}';

describe('decodeVfioUserVersion', () => {
  test.each([
    ['little-endian', true, Uint8Array.of(1, 2, 3, 4)],
    ['big-endian', false, Uint8Array.of(2, 1, 4, 3)],
  ])('reads the numbers of %s bytes, without a text as SPDK sends them', (_order, littleEndian, bytes) => {
    expect(decodeVfioUserVersion(bytes, littleEndian)).toEqual({
      major: 0x0201,
      minor: 0x0403,
      capabilities: undefined,
      unknownKeys: [],
    });
  });

  test('reads what QEMU sends', () => {
    const bytes = payload(QEMU);
    // With the header before it, the 214 bytes that are seen on its socket.
    expect(bytes.length).toBe(198);
    expect(decodeVfioUserVersion(bytes, true)).toEqual({
      major: 0,
      minor: 2,
      capabilities: {
        maxMsgFds: 16,
        maxDataXferSize: 1048576,
        maxDmaMaps: 65535,
        pgsizes: 4096n,
        migration: { pgsize: 4096, maxBitmapSize: 268435456 },
        twinSocket: undefined,
        writeMultiple: true,
      },
      unknownKeys: [],
    });
  });

  test.each([
    ['an empty object', '{}'],
    ['an object without capabilities', '{"other":1}'],
    ['empty capabilities', '{"capabilities":{}}'],
    ['blanks around it', ' \n{ "capabilities" : {} }\t'],
  ])('takes %s', (_name, text) => {
    expect(decodeVfioUserVersion(payload(text), true)).toMatchObject({ capabilities: NOTHING, unknownKeys: [] });
  });

  test('ends the text at the first NUL', () => {
    expect(decodeVfioUserVersion(payload('{}\0garbage'), true).capabilities).toEqual(NOTHING);
  });

  test('names the keys that are not known', () => {
    const decoded = decodeVfioUserVersion(withCapabilities('{"max_msg_fds":1,"future":{},"other":[]}'), true);
    expect(decoded.unknownKeys).toEqual(['future', 'other']);
    expect(decoded.capabilities).toEqual({ ...NOTHING, maxMsgFds: 1 });
  });

  test.each([
    [
      'the twin socket of a command',
      '{"twin_socket":{"supported":true}}',
      { twinSocket: { supported: true, fdIndex: undefined } },
    ],
    [
      'the twin socket of a reply',
      '{"twin_socket":{"supported":true,"fd_index":0}}',
      { twinSocket: { supported: true, fdIndex: 0 } },
    ],
    ['a twin socket that says nothing', '{"twin_socket":{}}', { twinSocket: { supported: false, fdIndex: undefined } }],
    [
      'a migration that says nothing',
      '{"migration":{}}',
      { migration: { pgsize: undefined, maxBitmapSize: undefined } },
    ],
    ['no descriptors at all', '{"max_msg_fds":0}', { maxMsgFds: 0 }],
    ['as many descriptors as there can be', '{"max_msg_fds":1024}', { maxMsgFds: 1024 }],
    ['no multiple writes', '{"write_multiple":false}', { writeMultiple: false }],
    ['every page size there is', '{"pgsizes":18446744073709547520}', { pgsizes: 0xfffffffffffff000n }],
    [
      'integers written as fractions',
      '{"max_dma_maps":65535.0,"max_data_xfer_size":1e6}',
      { maxDmaMaps: 65535, maxDataXferSize: 1000000 },
    ],
  ])('reads %s', (_name, json, capabilities) => {
    expect(decodeVfioUserVersion(withCapabilities(json), true).capabilities).toEqual({ ...NOTHING, ...capabilities });
  });

  test('does not take what an object inherits for a key', () => {
    const decoded = decodeVfioUserVersion(withCapabilities('{"__proto__":{"max_msg_fds":7},"constructor":1}'), true);
    expect(decoded.capabilities).toEqual(NOTHING);
    expect(decoded.unknownKeys).toEqual(['__proto__', 'constructor']);
  });

  test.each<[string, Uint8Array]>([
    ['no payload', new Uint8Array(0)],
    ['3 bytes', new Uint8Array(3)],
    ['a text without NUL', payload('{}', '')],
    ['an empty text', payload('')],
    ['a text that is no JSON', payload('{capabilities}')],
    ['a text that is cut off', payload('{"capabilities":{')],
    ['a text after an end', payload('{}{}')],
    ['a text that is no UTF-8', Uint8Array.of(0, 0, 0, 0, 0x22, 0xff, 0x22, 0)],
    ['null', payload('null')],
    ['a number', payload('1')],
    ['a string', payload('"{}"')],
    ['a list', payload('[]')],
    ['capabilities as a list', payload('{"capabilities":[]}')],
    ['capabilities as null', payload('{"capabilities":null}')],
    ['capabilities as a number', payload('{"capabilities":1}')],
    ['a text that is too long', payload(`{"a":"${'x'.repeat(VFIO_USER_MAX_VERSION_JSON)}"}`)],
    ...['max_msg_fds', 'max_data_xfer_size', 'max_dma_maps', 'pgsizes'].flatMap((key) =>
      ['"1"', 'true', 'null', '-1', '1.5', '[]', '{}', '1e400', '36893488147419103232'].map(
        (value): [string, Uint8Array] => [`${key} of ${value}`, withCapabilities(`{"${key}":${value}}`)],
      ),
    ),
    ['more descriptors than there can be', withCapabilities('{"max_msg_fds":1025}')],
    ['a data size above 2^53-1', withCapabilities('{"max_data_xfer_size":9007199254740992}')],
    ['page sizes of 65 bits', withCapabilities('{"pgsizes":18446744073709551616}')],
    ...['migration', 'twin_socket'].flatMap((key) =>
      ['1', 'true', 'null', '[]', '"x"'].map((value): [string, Uint8Array] => [
        `${key} of ${value}`,
        withCapabilities(`{"${key}":${value}}`),
      ]),
    ),
    ['a migration page size that is no number', withCapabilities('{"migration":{"pgsize":"4096"}}')],
    ['a migration bitmap size below 0', withCapabilities('{"migration":{"max_bitmap_size":-1}}')],
    ['a twin socket that is supported by 1', withCapabilities('{"twin_socket":{"supported":1}}')],
    ['a twin socket index that is no number', withCapabilities('{"twin_socket":{"supported":true,"fd_index":"0"}}')],
    ['multiple writes by 1', withCapabilities('{"write_multiple":1}')],
  ])('refuses %s', (_name, bytes) => {
    expect(caught(() => decodeVfioUserVersion(bytes, true))).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
      errno: 'EINVAL',
    });
  });

  test('does not repeat a long value in its message', () => {
    const error = caught(() => decodeVfioUserVersion(withCapabilities(`{"max_msg_fds":"${'x'.repeat(60000)}"}`), true));
    expect(String(error).length).toBeLessThan(200);
  });

  test('survives a text of many brackets', () => {
    const deep = '['.repeat(30000) + ']'.repeat(30000);
    expect(decodeVfioUserVersion(withCapabilities(`{"future":${deep}}`), true).unknownKeys).toEqual(['future']);
    const error = caught(() => decodeVfioUserVersion(withCapabilities(`{"max_msg_fds":${deep}}`), true));
    expect(error).toMatchObject({ code: 'ERR_VFIO_INVALID_STRUCT', errno: 'EINVAL' });
  });
});

describe('encodeVfioUserVersion', () => {
  test.each([
    [true, '00000200'],
    [false, '00000002'],
  ])('without capabilities sends the numbers alone (little-endian: %s)', (littleEndian, hex) => {
    expect(hexOf(encodeVfioUserVersion({ major: 0, minor: 2 }, littleEndian))).toBe(hex);
  });

  test('sends the keys that are there, as short as they can be, and a NUL', () => {
    const capabilities: VfioUserCapabilities = {
      maxMsgFds: 8,
      maxDataXferSize: 1048576,
      maxDmaMaps: 65535,
      pgsizes: 4096n,
      migration: { pgsize: 4096, maxBitmapSize: 268435456 },
      twinSocket: { supported: true, fdIndex: 0 },
      writeMultiple: true,
    };
    const bytes = encodeVfioUserVersion({ major: 0, minor: 2, capabilities }, true);
    expect(new TextDecoder().decode(bytes.subarray(4))).toBe(
      '{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096,' +
        '"migration":{"pgsize":4096,"max_bitmap_size":268435456},"twin_socket":{"supported":true,"fd_index":0},' +
        '"write_multiple":true}}\0',
    );
  });

  test('sends an empty object for capabilities without keys', () => {
    const bytes = encodeVfioUserVersion({ major: 0, minor: 0, capabilities: {} }, true);
    expect(new TextDecoder().decode(bytes.subarray(4))).toBe('{"capabilities":{}}\0');
  });

  test('sends page sizes beyond 2^53 digit by digit', () => {
    const bytes = encodeVfioUserVersion({ major: 0, minor: 0, capabilities: { pgsizes: 0xfffffffffffff000n } }, true);
    expect(new TextDecoder().decode(bytes)).toContain('"pgsizes":18446744073709547520}');
  });

  test.each<[string, VfioUserCapabilities]>([
    ['a number below 0', { maxMsgFds: -1 }],
    ['a fraction', { maxDataXferSize: 1.5 }],
    ['no number', { maxDmaMaps: Number.NaN }],
    ['an endless one', { maxDmaMaps: Number.POSITIVE_INFINITY }],
    ['page sizes below 0', { pgsizes: -1n }],
    ['page sizes of 65 bits', { pgsizes: 1n << 64n }],
    ['a migration page size that is too large', { migration: { pgsize: 2 ** 53 } }],
  ])('refuses %s', (_name, capabilities) => {
    expect(caught(() => encodeVfioUserVersion({ major: 0, minor: 0, capabilities }, true))).toMatchObject({
      errno: 'EINVAL',
    });
  });

  test('refuses a version that does not fit', () => {
    expect(caught(() => encodeVfioUserVersion({ major: 0x10000, minor: 0 }, true))).toMatchObject({ errno: 'EINVAL' });
  });

  test('is read back as it was', () => {
    const some = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
      fc.option(arbitrary, { nil: undefined });
    fc.assert(
      fc.property(
        fc.nat(0xffff),
        fc.nat(0xffff),
        fc.record({
          maxMsgFds: some(fc.nat(1024)),
          maxDataXferSize: some(fc.maxSafeNat()),
          maxDmaMaps: some(fc.maxSafeNat()),
          pgsizes: some(
            fc
              .bigInt(0n, 2n ** 52n)
              .map((bits) => bits << 12n)
              .filter((bits) => bits < 2n ** 64n),
          ),
          migration: some(fc.record({ pgsize: some(fc.maxSafeNat()), maxBitmapSize: some(fc.maxSafeNat()) })),
          twinSocket: some(fc.record({ supported: fc.boolean(), fdIndex: some(fc.nat(16)) })),
          writeMultiple: some(fc.boolean()),
        }),
        fc.boolean(),
        (major, minor, capabilities, littleEndian) => {
          const bytes = encodeVfioUserVersion({ major, minor, capabilities }, littleEndian);
          expect(decodeVfioUserVersion(bytes, littleEndian)).toEqual({ major, minor, capabilities, unknownKeys: [] });
        },
      ),
    );
  });
});
