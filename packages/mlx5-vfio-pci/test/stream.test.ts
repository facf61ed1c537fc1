import {
  crc32c,
  encodeRecordBegin,
  encodeRecordHeader,
  newCrc32c,
  RECORD_BEGIN,
  RECORD_END,
  RecordSum,
} from '@vfio/core';
import { describe, expect, test } from 'vitest';
import { encodeImageHeader, encodeStopCopySize, imageReader, TAG } from '../src/stream.js';

/** What a reader made of a stream. */
class Sink {
  images: Uint8Array[] = [];
  sizes: number[] = [];
  #bytes = new Uint8Array(0);

  begin(size: number): Uint8Array {
    this.#bytes = new Uint8Array(size);
    return this.#bytes;
  }

  async complete(size: number): Promise<void> {
    this.images.push(this.#bytes.slice(0, size));
  }

  stopCopySize(size: number): void {
    this.sizes.push(size);
  }
}

function bytes(...parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

const image = (length: number, seed: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + seed) & 0xff);

/** A stream as the driver writes it, and where its records end. */
function written(images: readonly Uint8Array[], withEnd = true): { stream: Uint8Array; edges: number[] } {
  const sum = new RecordSum();
  const parts: Uint8Array[] = [];
  const edges: number[] = [];
  const add = (part: Uint8Array, isRecord: boolean) => {
    if (isRecord) sum.records++;
    sum.add(part);
    parts.push(part);
  };
  if (withEnd) {
    add(encodeRecordBegin(), true);
    edges.push(sum.bytes);
  }
  add(encodeStopCopySize(1234), true);
  edges.push(sum.bytes);
  for (const one of images) {
    add(encodeImageHeader(one.length), true);
    add(one, false);
    edges.push(sum.bytes);
  }
  if (withEnd) parts.push(sum.encodeEnd());
  return { stream: bytes(...parts), edges };
}

async function read(stream: Uint8Array, size = stream.length): Promise<Sink> {
  const sink = new Sink();
  const reader = imageReader(sink);
  for (let at = 0; at < stream.length; at += size) await reader.write(stream.subarray(at, at + size));
  reader.finish();
  return sink;
}

test('a header is that of the kernel’s driver', () => {
  expect([...encodeImageHeader(0x123456789a)]).toEqual([0x9a, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  expect([...encodeStopCopySize(0x1000)]).toEqual([
    8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
  ]);
});

describe('reading', () => {
  const images = [image(1000, 1), image(0, 2), image(37, 3)];
  const { stream } = written(images);

  test.each([1, 2, 3, 7, 16, 17, 64, 999, 5000])('gives the images whatever the pieces: %i bytes', async (size) => {
    const sink = await read(stream, size);
    expect(sink.images).toEqual(images);
    expect(sink.sizes).toEqual([1234]);
  });

  test('a stream without an end is one of the kernel’s', async () => {
    expect((await read(written(images, false).stream)).images).toEqual(images);
  });

  test('a record that is not known is skipped where it may be, and refused where not', async () => {
    const optional = bytes(encodeRecordHeader(5, 77, true), image(5, 0));
    expect((await read(bytes(optional, written(images, false).stream))).images).toEqual(images);
    const mandatory = optional.slice();
    mandatory[8] = 0;
    await expect(read(mandatory)).rejects.toMatchObject({ errno: 'EOPNOTSUPP' });
  });

  test.each<[string, (header: DataView) => void, string]>([
    ['a record above the largest image', (header) => header.setBigUint64(0, 0x100000000n, true), 'ENOMEM'],
    ['a flag that is not known', (header) => header.setUint32(8, 2, true), 'EINVAL'],
  ])('%s is refused', async (_name, change, errno) => {
    const header = encodeImageHeader(8);
    change(new DataView(header.buffer));
    await expect(read(header)).rejects.toMatchObject({ errno });
  });

  const record = (tag: number, payload: Uint8Array, change: (header: DataView) => void = () => {}): Uint8Array => {
    const header = encodeRecordHeader(payload.length, tag, tag !== TAG.FW_DATA);
    change(new DataView(header.buffer));
    return bytes(header, payload);
  };
  const end = (records: number, length: number, crc: number, last = 0): Uint8Array => {
    const payload = new Uint8Array(24);
    const view = new DataView(payload.buffer);
    view.setBigUint64(0, BigInt(records), true);
    view.setBigUint64(8, BigInt(length), true);
    view.setUint32(16, crc, true);
    view.setUint32(20, last, true);
    return record(RECORD_END, payload);
  };
  const one = encodeStopCopySize(7);
  const sumOf = (part: Uint8Array): number => ~crc32c(part, newCrc32c()) >>> 0;

  test.each<[string, Uint8Array]>([
    ['a stop-copy size that is longer', record(TAG.STOP_COPY_SIZE, image(9, 0))],
    ['a stop-copy size that is shorter', record(TAG.STOP_COPY_SIZE, image(7, 0))],
    ['a begin that is longer', record(RECORD_BEGIN, image(9, 0))],
    ['a begin of another version', record(RECORD_BEGIN, Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0))],
    ['a begin with a field that must be 0', record(RECORD_BEGIN, Uint8Array.of(1, 0, 0, 0, 1, 0, 0, 0))],
    ['a begin that is not the first', bytes(one, encodeRecordBegin())],
    ['a begin twice', bytes(encodeRecordBegin(), encodeRecordBegin())],
    ['an end that is longer', record(RECORD_END, image(25, 0))],
    ['an end that is shorter', record(RECORD_END, image(23, 0))],
    ['an end that says another count of records', bytes(one, end(2, one.length, sumOf(one)))],
    ['an end that says another count of bytes', bytes(one, end(1, one.length + 1, sumOf(one)))],
    ['an end that says another sum', bytes(one, end(1, one.length, sumOf(one) ^ 1))],
    ['an end with a field that must be 0', bytes(one, end(1, one.length, sumOf(one), 1))],
    ['an end twice', bytes(one, end(1, one.length, sumOf(one)), end(1, one.length, sumOf(one)))],
    ['an end that is missing', bytes(encodeRecordBegin(), one)],
    [
      'an end that must be understood',
      bytes(
        one,
        record(RECORD_END, end(1, one.length, sumOf(one)).subarray(16), (header) => header.setUint32(8, 0, true)),
      ),
    ],
  ])('%s is refused', async (_name, wrong) => {
    await expect(read(wrong)).rejects.toMatchObject({ errno: 'EINVAL', message: expect.stringMatching(/\w+ \w+ \w+/) });
    // Nor does it matter where the pieces end.
    await expect(read(wrong, 1)).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('the end that the cases above are made of is right', async () => {
    expect((await read(bytes(one, end(1, one.length, sumOf(one))))).sizes).toEqual([7]);
  });

  test('nothing may follow the end', async () => {
    await expect(read(bytes(stream, new Uint8Array(1)))).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('what the last image will need is clamped to what can be loaded', async () => {
    const huge = encodeStopCopySize(2 ** 40);
    expect((await read(huge)).sizes).toEqual([0xffffffff]);
  });
});

const KIB = 1024;

describe('a stream that was harmed', () => {
  // Not more than 8 KiB in all: every place is tried.
  const small = written([image(5000, 5), image(3000, 6)]);
  const large = written([image(100 * KIB, 7), image(0, 8), image(17 * KIB + 3, 9)]);
  const kernel = written([image(5000, 5), image(3000, 6)], false);

  /** How a stream is refused. */
  const fate = (stream: Uint8Array): Promise<string> =>
    read(stream).then(
      () => 'taken',
      ({ errno }) => errno,
    );

  /** The edges of records and what is beside them, and 1,000 other places. */
  function places({ stream, edges }: { stream: Uint8Array; edges: readonly number[] }): number[] {
    let seed = 1;
    const random = (): number => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return 1 + (seed % (stream.length - 1));
    };
    const near = edges.flatMap((edge) => [edge - 1, edge, edge + 1, edge + 15, edge + 16, edge + 17]);
    return [...new Set([...near, ...Array.from({ length: 1000 }, random)])].filter(
      (at) => at > 0 && at < stream.length,
    );
  }

  test('is refused wherever a byte of it was changed', async () => {
    const { stream, edges } = small;
    expect(stream.length).toBeLessThanOrEqual(8 * KIB + 512);
    // Headers, and what our own records say: each bit of it. Of an image one bit of each byte.
    const structure = new Set([0, ...edges].flatMap((edge) => Array.from({ length: 48 }, (_, i) => edge + i)));
    const taken: string[] = [];
    for (let at = 0; at < stream.length; at++) {
      for (const bit of structure.has(at) ? [0, 1, 2, 3, 4, 5, 6, 7] : [at & 7]) {
        const wrong = stream.slice();
        wrong[at] = (wrong[at] ?? 0) ^ (1 << bit);
        if ((await fate(wrong)) === 'taken') taken.push(`bit ${bit} of byte ${at}`);
      }
    }
    expect(taken).toEqual([]);
  });

  test('is refused wherever it was cut', async () => {
    for (let length = 1; length < small.stream.length; length++)
      await expect(read(small.stream.subarray(0, length)), `${length} bytes`).rejects.toMatchObject({
        errno: 'EINVAL',
      });
  });

  test('and is large is refused at and beside the edges of records, and at a thousand other places', async () => {
    for (const at of places(large)) {
      if ((await fate(large.stream.subarray(0, at))) !== 'EINVAL') expect.fail(`${at} bytes`);
      const wrong = large.stream.slice();
      wrong[at] = (wrong[at] ?? 0) ^ (1 << (at & 7));
      if ((await fate(wrong)) === 'taken') expect.fail(`byte ${at}`);
    }
  });

  test('of the kernel, which has no end, is refused where it was cut inside a record', async () => {
    for (let length = 1; length < kernel.stream.length; length++) {
      const expected = kernel.edges.includes(length) ? 'taken' : 'EINVAL';
      if ((await fate(kernel.stream.subarray(0, length))) !== expected) expect.fail(`${length} bytes`);
    }
  });

  test('is refused where two records change places', async () => {
    const { stream, edges } = small;
    const [, first = 0, second = 0, third = 0] = edges;
    const swapped = bytes(
      stream.subarray(0, first),
      stream.subarray(second, third),
      stream.subarray(first, second),
      stream.subarray(third),
    );
    await expect(read(swapped)).rejects.toMatchObject({ errno: 'EINVAL' });
  });
});
