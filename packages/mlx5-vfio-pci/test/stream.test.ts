import { encodeRecordBegin, encodeRecordHeader, RECORD_END, RecordSum } from '@vfio/core';
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

const bytes = (...parts: Uint8Array[]): Uint8Array => new Uint8Array(parts.flatMap((part) => [...part]));

const image = (length: number, seed: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + seed) & 0xff);

/** A stream as the driver writes it. */
function written(images: readonly Uint8Array[], withEnd = true): { stream: Uint8Array; edges: number[] } {
  const sum = new RecordSum();
  const parts: Uint8Array[] = [];
  const edges: number[] = [];
  const add = (part: Uint8Array, isRecord: boolean) => {
    if (isRecord) sum.records++;
    sum.add(part);
    parts.push(part);
  };
  if (withEnd) add(encodeRecordBegin(), true);
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

  test.each([
    ['of the stop-copy size', bytes(encodeRecordHeader(9, TAG.STOP_COPY_SIZE, true), image(9, 0))],
    ['of the end', bytes(encodeRecordHeader(23, RECORD_END, true), image(23, 0))],
  ])('a record %s of another length is refused', async (_name, stream) => {
    await expect(read(stream)).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('nothing may follow the end', async () => {
    await expect(read(bytes(stream, new Uint8Array(1)))).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('what the last image will need is clamped to what can be loaded', async () => {
    const huge = encodeStopCopySize(2 ** 40);
    expect((await read(huge)).sizes).toEqual([0xffffffff]);
  });
});

describe('a stream that was harmed', () => {
  const { stream, edges } = written([image(3000, 5), image(2000, 6)]);

  test('is refused wherever a byte of it was changed', async () => {
    for (let at = 0; at < stream.length; at++) {
      const wrong = stream.slice();
      wrong[at] = (wrong[at] ?? 0) ^ 0x04;
      await expect(read(wrong), `byte ${at}`).rejects.toThrow();
    }
  });

  test('is refused wherever it was cut', async () => {
    for (let length = 1; length < stream.length; length++)
      await expect(read(stream.subarray(0, length)), `${length} bytes`).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('of the kernel, which has no end, is refused where it was cut inside a record', async () => {
    const kernel = written([image(3000, 5), image(2000, 6)], false);
    for (let length = 1; length < kernel.stream.length; length++) {
      const cut = read(kernel.stream.subarray(0, length));
      if (kernel.edges.includes(length)) await expect(cut, `${length} bytes`).resolves.toBeDefined();
      else await expect(cut, `${length} bytes`).rejects.toMatchObject({ errno: 'EINVAL' });
    }
  });

  test('is refused where two records change places', async () => {
    const [first = 0, second = 0, third = 0] = edges;
    const swapped = bytes(
      stream.subarray(0, first),
      stream.subarray(second, third),
      stream.subarray(first, second),
      stream.subarray(third),
    );
    await expect(read(swapped)).rejects.toMatchObject({ errno: 'EINVAL' });
  });
});
