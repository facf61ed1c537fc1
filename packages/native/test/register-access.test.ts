import { endianness } from 'node:os';
import {
  closeFd,
  fence,
  loadAcquire32,
  memfdCreate,
  mmap,
  pageSize,
  readRegister8,
  readRegister16,
  readRegister32,
  readRegister64,
  storeRelease32,
  writeRegister8,
  writeRegister16,
  writeRegister32,
  writeRegister64,
} from '@vfio/native';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

const LITTLE = endianness() === 'LE';
const out = new Uint32Array(2);

/** Each access as a load or store of a bigint pattern, with DataView's way to do the same. */
const widths = [
  {
    width: 1,
    read: (bytes: Uint8Array, at: number) => BigInt(readRegister8(bytes, at)),
    write: (bytes: Uint8Array, at: number, value: bigint) => writeRegister8(bytes, at, Number(value)),
  },
  {
    width: 2,
    read: (bytes: Uint8Array, at: number) => BigInt(readRegister16(bytes, at)),
    write: (bytes: Uint8Array, at: number, value: bigint) => writeRegister16(bytes, at, Number(value)),
  },
  {
    width: 4,
    read: (bytes: Uint8Array, at: number) => BigInt(readRegister32(bytes, at) >>> 0),
    write: (bytes: Uint8Array, at: number, value: bigint) => writeRegister32(bytes, at, Number(value)),
  },
  {
    width: 4,
    read: (bytes: Uint8Array, at: number) => BigInt(loadAcquire32(bytes, at) >>> 0),
    write: (bytes: Uint8Array, at: number, value: bigint) => storeRelease32(bytes, at, Number(value)),
  },
  {
    width: 8,
    read: (bytes: Uint8Array, at: number) => {
      readRegister64(bytes, at, out);
      return (BigInt(out[1] as number) << 32n) | BigInt(out[0] as number);
    },
    write: (bytes: Uint8Array, at: number, value: bigint) =>
      writeRegister64(bytes, at, Number(value & 0xffff_ffffn), Number(value >> 32n)),
  },
];

/** `width` bytes at `at` as one number in the machine's order, read byte by byte. */
function plain(bytes: Uint8Array, at: number, width: number): bigint {
  let value = 0n;
  for (let n = 0; n < width; n++) {
    value = (value << 8n) | BigInt(bytes[LITTLE ? at + width - 1 - n : at + n] as number);
  }
  return value;
}

describe.each(widths)('an access of $width bytes', ({ width, read, write }) => {
  test('reads and writes exactly its bytes, in the order of the machine', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 64, maxLength: 64 }),
        fc.nat(64 / width - 1),
        fc.bigInt(0n, (1n << BigInt(8 * width)) - 1n),
        (content, index, value) => {
          const bytes = content.slice();
          const at = index * width;
          expect(read(bytes, at)).toBe(plain(content, at, width));
          write(bytes, at, value);
          expect(plain(bytes, at, width)).toBe(value);
          const others = (array: Uint8Array) => [...array.subarray(0, at), ...array.subarray(at + width)];
          expect(others(bytes)).toEqual(others(content));
        },
      ),
    );
  });

  test('outside the bytes throws EFAULT and touches nothing', () => {
    const memory = new Uint8Array(32).fill(0x11);
    const bytes = memory.subarray(8, 24);
    for (const at of [
      16,
      17 - width,
      -width,
      -1,
      2 ** 32,
      2 ** 53,
      Number.MAX_VALUE,
      Number.NaN,
      Number.POSITIVE_INFINITY,
    ]) {
      if (at >= 0 && at + width <= 16) continue;
      for (const access of [() => read(bytes, at), () => write(bytes, at, 1n)]) {
        expect(access, String(at)).toThrow(expect.objectContaining({ code: 'ERR_VFIO_FAULT', errno: 'EFAULT' }));
      }
    }
    expect(memory.every((byte) => byte === 0x11)).toBe(true);
  });

  test('of detached bytes throws EFAULT', () => {
    const fd = memfdCreate('m', { size: pageSize() });
    const map = mmap(fd, 0, pageSize());
    closeFd(fd);
    write(map.bytes, 0, 5n);
    expect(read(map.bytes, 0)).toBe(5n);
    map.unmap();
    expect(() => read(map.bytes, 0)).toThrow(expect.objectContaining({ errno: 'EFAULT' }));
    expect(() => write(map.bytes, 0, 5n)).toThrow(expect.objectContaining({ errno: 'EFAULT' }));
  });
});

describe('alignment', () => {
  test.each(widths.filter(({ width }) => width > 1))(
    'of $width bytes is that of the address, wherever the view starts',
    ({ width, read, write }) => {
      fc.assert(
        fc.property(fc.nat(16), fc.nat(16), (start, at) => {
          const memory = new Uint8Array(64).fill(0x22);
          const bytes = memory.subarray(start);
          if ((start + at) % width === 0) {
            expect(read(bytes, at)).toBe(plain(bytes, at, width));
            return;
          }
          for (const access of [() => read(bytes, at), () => write(bytes, at, 1n)]) {
            expect(access).toThrow(
              expect.objectContaining({
                code: 'ERR_VFIO_INVALID_ARGUMENT',
                errno: 'EINVAL',
                message: expect.stringContaining('not aligned'),
              }),
            );
          }
          expect(memory.every((byte) => byte === 0x22)).toBe(true);
        }),
      );
    },
  );

  test('of an offset that is a fraction is refused', () => {
    for (const { width, read, write } of widths) {
      for (const access of [() => read(new Uint8Array(32), 0.5), () => write(new Uint8Array(32), width + 0.25, 1n)]) {
        expect(access).toThrow(expect.objectContaining({ name: 'VfioError' }));
      }
    }
  });
});

describe('values', () => {
  test('are cut to the width, signed or not, as typed arrays do it', () => {
    const bytes = new Uint8Array(8);
    writeRegister8(bytes, 0, 0x1ff);
    writeRegister8(bytes, 1, -2);
    writeRegister16(bytes, 2, -1.9);
    writeRegister32(bytes, 4, 0xffff_fffe);
    expect([
      readRegister8(bytes, 0),
      readRegister8(bytes, 1),
      readRegister16(bytes, 2),
      readRegister32(bytes, 4),
    ]).toEqual([0xff, 0xfe, 0xffff, -2]);
  });

  test('of 64 bits need two words for the result', () => {
    expect(() => readRegister64(new Uint8Array(8), 0, new Uint32Array(1))).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_INVALID_ARGUMENT' }),
    );
  });
});

describe('order', () => {
  test('a fence answers nothing and can be called anywhere', () => {
    expect(fence()).toBeUndefined();
  });
});
