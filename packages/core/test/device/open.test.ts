import { describe, expect, test } from 'vitest';
import { enableMemory, opened, readBytes } from './helpers.js';

describe('opening a raw function', () => {
  test('a BAR register reads back what was written through the device', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    expect(device.write(0, 0x10, Uint8Array.of(1, 2, 3, 4))).toBe(4);
    expect([...fn.bars[0]!.space.bytes.subarray(0x10, 0x14)]).toEqual([1, 2, 3, 4]);
    expect(readBytes(device, 0, 0x10, 4)).toEqual([1, 2, 3, 4]);
    expect(readBytes(device, 7, 0, 4)).toEqual([0x34, 0x12, 0xe8, 0x11]);
    await device.close();
  });
});
