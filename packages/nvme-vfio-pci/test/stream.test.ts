import { encodeRecord, encodeRecordBegin, RecordSum } from '@vfio/core';
import { describe, expect, test } from 'vitest';
import { encodeStream, StateReader, type StreamFormat, streamBytes } from '../src/stream.js';

const FORMAT: StreamFormat = { vendor: 0x1b36, version: 0, uuid: '00112233445566778899aabbccddeeff' };
const FORMAT_TAG = 0x464d564e;
const STATE_TAG = 0x534d564e;

/** A state of a suspended controller: two dwords of queues, one of the vendor's. */
function state(change: (view: DataView) => void = () => {}): Uint8Array {
  const bytes = Uint8Array.from({ length: 60 }, (_, n) => (n < 48 ? 0 : n));
  const view = new DataView(bytes.buffer);
  view.setUint8(2, 1);
  view.setUint32(16, 2, true);
  view.setUint32(32, 1, true);
  change(view);
  return bytes;
}

const stream = encodeStream(FORMAT, state());

async function read(bytes: Uint8Array, size = bytes.length, why?: string) {
  const reader = new StateReader(() => why);
  for (let at = 0; at < bytes.length; at += size) await reader.write(bytes.subarray(at, at + size));
  return reader.finish();
}

/** A stream of these records with a right end. */
function ended(...records: Uint8Array[]): Uint8Array {
  const sum = new RecordSum();
  const parts = [encodeRecordBegin(), ...records];
  for (const part of parts) {
    sum.records++;
    sum.add(part);
  }
  return Uint8Array.from([...parts, sum.encodeEnd()].flatMap((part) => [...part]));
}

function formatRecord(change: (view: DataView) => void = () => {}): Uint8Array {
  // Behind the record that begins the stream: 24 bytes, then a header of 16.
  const payload = stream.slice(40, 72);
  change(new DataView(payload.buffer));
  return encodeRecord(payload, FORMAT_TAG, false);
}

const stateRecord = (bytes = state()): Uint8Array => encodeRecord(bytes, STATE_TAG, false);

test.each([1, 3, 16, 17, 50, 1000])('a stream gives its state whatever the pieces: %i bytes', async (size) => {
  expect(await read(stream, size)).toMatchObject({ format: FORMAT, state: state() });
  expect(stream.length).toBe(streamBytes(60));
});

test('is refused wherever a byte of it was changed', async () => {
  for (let at = 0; at < stream.length; at++)
    for (const bit of [0x01, 0x80]) {
      const wrong = stream.slice();
      wrong[at] = (wrong[at] ?? 0) ^ bit;
      await expect(read(wrong), `byte ${at}`).rejects.toThrow();
    }
});

test('is refused wherever it was cut, and where something follows', async () => {
  for (let length = 0; length < stream.length; length++)
    await expect(read(stream.subarray(0, length)), `${length} bytes`).rejects.toMatchObject({ errno: 'EINVAL' });
  await expect(read(Uint8Array.from([...stream, 0]))).rejects.toMatchObject({ errno: 'EINVAL' });
});

describe('with sums that are right, a stream is refused', () => {
  const cases: [string, Uint8Array, RegExp, string?][] = [
    ['without a state', ended(formatRecord()), /there is no state/],
    ['without a format', ended(stateRecord()), /does not say what its state is in/],
    ['with two formats', ended(formatRecord(), formatRecord(), stateRecord()), /says twice/],
    ['with two states', ended(formatRecord(), stateRecord(), stateRecord()), /two states/],
    ['with a state of another length', ended(formatRecord(), stateRecord(new Uint8Array(64))), /64 bytes, 60 were/],
    ['with a format of another length', ended(encodeRecord(new Uint8Array(31), FORMAT_TAG, false)), /has 31 bytes/],
    ['with a format of another version', ended(formatRecord((v) => v.setUint32(0, 2, true))), /version 2/],
    ['with a field that must be 0', ended(formatRecord((v) => v.setUint8(31, 1))), /must be 0/],
    [
      'with a record that must be understood',
      ended(encodeRecord(new Uint8Array(1), 77, false)),
      /is not/,
      'EOPNOTSUPP',
    ],
    ['with a state larger than any', ended(encodeRecord(new Uint8Array(0x800001), STATE_TAG, false)), /most/, 'ENOMEM'],
    ['of mlx5', ended(encodeRecord(new Uint8Array(8), 0, false)), /must be understood/, 'EOPNOTSUPP'],
    [
      'with a state of another version',
      ended(formatRecord(), stateRecord(state((v) => v.setUint16(0, 1, true)))),
      /version 1/,
    ],
    [
      'with a state of a controller that ran',
      ended(formatRecord(), stateRecord(state((v) => v.setUint8(2, 0)))),
      /not suspended/,
    ],
    [
      'with a state that says it is longer',
      ended(formatRecord(), stateRecord(state((v) => v.setUint32(16, 3, true)))),
      /64 bytes, there are 60/,
    ],
    [
      'with a state that says it is endless',
      ended(formatRecord(), stateRecord(state((v) => v.setUint8(31, 1)))),
      /Infinity/,
    ],
    [
      'with a state without the vendor’s part',
      ended(
        formatRecord(),
        stateRecord(
          state((v) => {
            v.setUint32(16, 3, true);
            v.setUint32(32, 0, true);
          }),
        ),
      ),
      /without/,
    ],
  ];
  test.each(cases)('%s', async (_what, bytes, message, errno = 'EINVAL') => {
    await expect(read(bytes)).rejects.toMatchObject({ errno, message: expect.stringMatching(message) });
  });

  test('in a format that cannot be loaded here, with the reason', async () => {
    await expect(read(stream, 5, 'not here')).rejects.toMatchObject({
      errno: 'EINVAL',
      message: expect.stringContaining('not here'),
    });
  });
});

test('a record that is not known is skipped where it may be', async () => {
  const extra = encodeRecord(new Uint8Array(5), 77, true);
  expect((await read(ended(extra, formatRecord(), stateRecord()))).state).toEqual(state());
});
