import { describe, expect, test } from 'vitest';
import { TestSpace } from './support.js';

const at = 0x98;
const CTRL = at + 4;

function af(capabilities: number): TestSpace {
  return new TestSpace({ caps: [{ at, id: 0x13, body: [6, capabilities] }] });
}

describe('the FLR of conventional PCI', () => {
  test('is carried out with mappings killed where the function has both TP and FLR', () => {
    const space = af(0x03);
    expect(space.write(CTRL, 1, 0x01)).toBe(1);
    expect(space.host.events).toEqual(['lock+zap', 'reset', 'unlock']);
  });

  test.for([0x00, 0x01, 0x02, 0xfc])('is not carried out where its capabilities are %d', (capabilities) => {
    const space = af(capabilities);
    space.write(CTRL, 1, 0x01);
    expect(space.host.events).toEqual([]);
    expect(space.read(CTRL, 1)).toBe(0);
  });

  test('has a bit that always reads 0 and never reaches hardware', () => {
    const space = af(0x03);
    space.write(CTRL, 1, 0xff);
    expect(space.read(CTRL, 1)).toBe(0);
    expect(space.hw.writes).toEqual([]);
  });

  test('is not carried out by other bits of its register, or other registers', () => {
    const space = af(0x03);
    space.write(CTRL, 1, 0xfe);
    space.write(CTRL + 1, 1, 0xff);
    space.write(at + 3, 1, 0xff);
    space.write(at, 4, 0xffff_ffff);
    expect(space.host.events).toEqual([]);
  });

  test('is carried out once for each write', () => {
    const space = af(0x03);
    space.write(CTRL, 2, 0x0001);
    space.write(CTRL + 1, 1, 0);
    space.write(CTRL, 1, 1);
    expect(space.host.events.filter((event) => event === 'reset')).toHaveLength(2);
  });

  test('goes by what hardware says now', () => {
    const space = af(0x00);
    space.hw.bytes[at + 3] = 0x03;
    space.write(CTRL, 1, 0x01);
    expect(space.host.events).toContain('reset');
  });

  test('that takes time makes the write a promise', async () => {
    const space = af(0x03);
    space.host.onReset = () => Promise.resolve();
    const result = space.write(CTRL, 1, 0x01);
    expect(result).toBeInstanceOf(Promise);
    expect(space.host.events).toEqual(['lock+zap', 'reset']);
    expect(await result).toBe(1);
    expect(space.host.events).toEqual(['lock+zap', 'reset', 'unlock']);
  });

  test('status and capabilities are read-only hardware', () => {
    const space = af(0x03);
    space.hw.bytes[at + 5] = 0x01;
    expect(space.read(at + 3, 1)).toBe(0x03);
    expect(space.read(at + 5, 1)).toBe(0x01);
  });
});
