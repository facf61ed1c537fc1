import { errnoError } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { TestSpace } from './support.js';

const at = 0x40;
const PMCSR = at + 4;

function pm(setup?: (space: TestSpace['hw']) => void): TestSpace {
  return new TestSpace({
    caps: [{ at, id: 0x01 }],
    setup: (hw) => {
      hw.poke(0x04, 2, 0x0002);
      setup?.(hw);
    },
  });
}

describe('PME is hidden', () => {
  test('support, enable and status read 0, the rest as hardware has it', () => {
    const space = pm((hw) => {
      hw.poke(at + 2, 2, 0xffff);
      hw.poke(at + 4, 4, 0xffff_ffff);
    });
    expect(space.read(at + 2, 2)).toBe(0x07ff);
    expect(space.read(at + 4, 4)).toBe(0xffff_7eff);
  });

  test('and cannot be enabled', () => {
    const space = pm();
    space.write(PMCSR, 2, 0x8100);
    expect(space.hw.peek(PMCSR, 2)).toBe(0);
    expect(space.read(PMCSR, 2)).toBe(0);
  });

  test("hardware's PME status is not cleared by writing it back", () => {
    const space = pm((hw) => hw.poke(PMCSR, 2, 0x8000));
    space.write(PMCSR, 2, 0x8000);
    expect(space.hw.peek(PMCSR, 2)).toBe(0x8000);
    // Nor is it set by a write of the bits around it.
    space.write(PMCSR, 2, 0x0008);
    expect(space.hw.peek(PMCSR, 2)).toBe(0x8008);
  });
});

describe('a write of PMCSR', () => {
  test.for<[number, string]>([
    [0, 'lock'],
    [1, 'lock'],
    [2, 'lock'],
    [3, 'lock+zap'],
  ])('moves the function to D%d, with memory taken', ([state, lock]) => {
    const space = pm();
    space.write(PMCSR, 2, state);
    expect(space.host.events).toEqual([lock, `power ${state}`, 'unlock']);
    expect(space.host.powerState).toBe(state);
  });

  test.for<[1 | 2 | 4]>([[1], [2], [4]])('of %d bytes does it', ([width]) => {
    const space = pm();
    space.write(PMCSR, width, 3);
    expect(space.host.powerState).toBe(3);
  });

  test('does it in pieces of a larger access', () => {
    const space = pm();
    space.space.write(at, Uint8Array.of(0, 0, 0, 0, 3, 0, 0, 0));
    expect(space.host.events).toEqual(['lock+zap', 'power 3', 'unlock']);
  });

  test('counts only the state bits', () => {
    const space = pm();
    space.write(PMCSR, 2, 0xfffd);
    expect(space.host.powerState).toBe(1);
  });

  test('passes the state bits to the host alone; others reach hardware before', () => {
    const space = pm();
    let seen = -1;
    space.host.onPower = () => {
      seen = space.hw.peek(PMCSR, 2);
    };
    space.write(PMCSR, 2, 0x0a0b);
    expect(seen).toBe(0x0a08);
    expect(space.hw.peek(PMCSR, 2)).toBe(0x0a08);
  });

  test.for<[number]>([[PMCSR + 1], [PMCSR + 2], [PMCSR + 3], [at + 2]])(
    'elsewhere, at %d, moves nothing',
    ([offset]) => {
      const space = pm();
      space.write(offset, 1, 0x03);
      expect(space.host.events).toEqual([]);
    },
  );

  test('shows the state that hardware is in', () => {
    const space = pm();
    space.host.onPower = (state) => space.hw.poke(PMCSR, 1, state);
    space.write(PMCSR, 2, 3);
    expect(space.read(PMCSR, 2)).toBe(3);
  });

  test('that the host refuses succeeds, changes nothing and gives memory back', () => {
    const space = pm();
    space.host.onPower = () => {
      throw errnoError('EBUSY', 'the function has VFs');
    };
    expect(space.write(PMCSR, 2, 3)).toBe(2);
    expect(space.host.events).toEqual(['lock+zap', 'power 3', 'unlock']);
    expect(space.host.warnings).toEqual(['the function has VFs']);
    expect(space.read(PMCSR, 2)).toBe(0);
  });

  test('waits where the host does, memory taken meanwhile', async () => {
    const space = pm();
    let arrive = () => {};
    space.host.onPower = (state) =>
      new Promise<void>((resolve) => {
        arrive = () => {
          space.host.powerState = state;
          resolve();
        };
      });
    const result = space.write(PMCSR, 2, 3);
    expect(result).toBeInstanceOf(Promise);
    expect(space.host.events).toEqual(['lock+zap', 'power 3']);
    arrive();
    expect(await result).toBe(2);
    expect(space.host.events).toEqual(['lock+zap', 'power 3', 'unlock']);
  });

  test('that the host refuses later succeeds all the same', async () => {
    const space = pm();
    space.host.onPower = () => Promise.reject(new Error('no'));
    expect(await space.write(PMCSR, 2, 3)).toBe(2);
    expect(space.host.events.at(-1)).toBe('unlock');
    expect(space.host.warnings).toEqual(['no']);
  });
});

test('what is behind a trap that waits is written when it is done, from a copy of the bytes', async () => {
  const space = new TestSpace({ caps: [{ at, id: 0x01 }] });
  let arrive = () => {};
  space.host.onPower = () =>
    new Promise<void>((resolve) => {
      arrive = resolve;
    });
  const data = Uint8Array.of(0x03, 0, 0, 0, 0x11, 0x22, 0x33, 0x44, 0x55);
  const result = space.space.write(PMCSR, data);
  expect(space.hw.peek(0x48, 4)).toBe(0);
  data.fill(0xee);
  arrive();
  expect(await result).toBe(9);
  expect(space.hw.peek(0x48, 4)).toBe(0x4433_2211);
  expect(space.hw.peek(0x4c, 1)).toBe(0x55);
});
