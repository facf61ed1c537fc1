import { expect, test } from 'vitest';
import { crc32c, newCrc32c } from '../../src/device/crc32c.js';

test('crc32c is that of RFC 3720, B.4', () => {
  const sum = (data: Uint8Array) => ~crc32c(data, newCrc32c()) >>> 0;
  expect(sum(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(sum(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  expect(sum(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  expect(sum(Uint8Array.from({ length: 32 }, (_, i) => 31 - i))).toBe(0x113fdb5c);
  expect(sum(new TextEncoder().encode('123456789'))).toBe(0xe3069283);
});
