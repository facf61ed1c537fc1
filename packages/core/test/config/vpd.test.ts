import { describe, expect, test, vi } from 'vitest';
import { TestSpace } from './support.js';

const at = 0x70;
const ADDR = at + 2;
const DATA = at + 4;
const F = 0x8000;

/** An identifier string of 5 bytes, read-only data of 10, then the end: 22 bytes in all. */
const CONTENT = [0x82, 5, 0, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x90, 10, 0, 0x50, 0x4e, 7, 1, 2, 3, 4, 5, 6, 7, 0x78];
const LENGTH = CONTENT.length;

/** VPD hardware: moves 4 bytes and toggles F, `delay` polls after it was asked. */
class VpdHardware {
  readonly memory = new Uint8Array(0x8000).fill(0xee);
  readonly requests: string[] = [];
  delay = 0;
  broken = false;
  #left = -1;

  attach({ hw }: { hw: TestSpace['hw'] }): void {
    hw.onWrite = (offset) => {
      if (offset !== ADDR) return;
      const request = hw.peek(ADDR, 2);
      this.requests.push(`${(request & F) === 0 ? 'read' : 'write'} ${request & 0x7fff}`);
      this.#left = this.delay;
    };
    hw.onRead = (offset) => {
      if (offset !== ADDR || this.broken || this.#left < 0 || this.#left-- > 0) return;
      const request = hw.peek(ADDR, 2);
      const address = request & 0x7fff;
      for (let i = 0; i < 4; i++) {
        if ((request & F) === 0) hw.bytes[DATA + i] = this.memory[address + i]!;
        else this.memory[address + i] = hw.bytes[DATA + i]!;
      }
      hw.poke(ADDR, 2, request ^ F);
    };
  }
}

function vpd(content: readonly number[] = CONTENT): { space: TestSpace; vpd: VpdHardware } {
  const hardware = new VpdHardware();
  hardware.memory.set(content);
  const space = new TestSpace({ caps: [{ at, id: 0x03 }] });
  hardware.attach(space);
  return { space, vpd: hardware };
}

/** Reads as a guest does: undefined where F did not come. */
function guestRead(space: TestSpace, address: number): number | undefined {
  space.write(ADDR, 2, address);
  return (space.read(ADDR, 2) & F) === 0 ? undefined : space.read(DATA, 4);
}

/** Writes as a guest does: whether F went away. */
function guestWrite(space: TestSpace, address: number, data: number): boolean {
  space.write(DATA, 4, data);
  space.write(ADDR, 2, address | F);
  return (space.read(ADDR, 2) & F) === 0;
}

describe('reading', () => {
  test('gives 4 bytes and sets F', () => {
    const { space } = vpd();
    expect(guestRead(space, 0)).toBe(0x6800_0582);
    expect(space.read(ADDR, 2)).toBe(F);
    expect(guestRead(space, 4)).toBe(0x6f6c_6c65);
    expect(space.read(ADDR, 2)).toBe(F | 4);
  });

  test.for([1, 2, 3, 5, 10])('may start at any byte: %d', (address) => {
    const { space } = vpd();
    const expected = CONTENT.slice(address, address + 4).reduce((sum, byte, i) => sum + byte * 2 ** (8 * i), 0);
    expect(guestRead(space, address)).toBe(expected);
    expect(space.read(ADDR, 2)).toBe(F | address);
  });

  test('across the end gives zeros for what is missing', () => {
    const { space } = vpd();
    expect(guestRead(space, LENGTH - 2)).toBe(0x0000_7807);
    expect(guestRead(space, LENGTH - 1)).toBe(0x0000_0078);
  });

  test.for([LENGTH, LENGTH + 1, 0x100, 0x7ffc, 0x7fff])('at or past the end, at %d, succeeds with zeros', (address) => {
    const { space } = vpd();
    space.write(DATA, 4, 0xffff_ffff);
    expect(guestRead(space, address)).toBe(0);
  });

  test('asks hardware for whole dwords only', () => {
    const { space, vpd: hardware } = vpd();
    guestRead(space, 0);
    hardware.requests.length = 0;
    guestRead(space, 6);
    expect(hardware.requests).toEqual(['read 4', 'read 8']);
  });
});

describe('writing', () => {
  test('takes 4 bytes and clears F', () => {
    const { space, vpd: hardware } = vpd();
    expect(guestWrite(space, 12, 0x4433_2211)).toBe(true);
    expect([...hardware.memory.subarray(12, 16)]).toEqual([0x11, 0x22, 0x33, 0x44]);
    expect(space.read(ADDR, 2)).toBe(12);
  });

  test('puts data into hardware before the address', () => {
    const { space, vpd: hardware } = vpd();
    guestRead(space, 0);
    space.write(DATA, 4, 0xaabb_ccdd);
    space.hw.accesses.length = 0;
    space.write(ADDR, 2, F | 8);
    expect(space.hw.writes.map(({ offset, width }) => [offset, width])).toEqual([
      [DATA, 4],
      [ADDR, 2],
    ]);
    expect(hardware.memory[8]).toBe(0xdd);
  });

  test.for([1, 2, 3, 6])('at %d, no dword, fails: F stays, hardware is left alone', (address) => {
    const { space, vpd: hardware } = vpd();
    const before = hardware.memory.slice();
    expect(guestWrite(space, address, 0x4433_2211)).toBe(false);
    expect(space.read(ADDR, 2)).toBe(F | address);
    expect(hardware.memory).toEqual(before);
  });

  test.for([20, 24, 0x100, 0x7ffc])('at %d, not wholly inside, fails', (address) => {
    const { space, vpd: hardware } = vpd();
    const before = hardware.memory.slice();
    expect(guestWrite(space, address, 0x4433_2211)).toBe(false);
    expect(hardware.memory).toEqual(before);
  });

  test('of the last whole dword succeeds', () => {
    const { space } = vpd();
    expect(guestWrite(space, 16, 0x0706_0504)).toBe(true);
  });
});

describe('the registers', () => {
  test('are virtual: hardware shows no transfer of ours', () => {
    const { space } = vpd();
    guestRead(space, 4);
    space.hw.poke(ADDR, 2, 0x1234);
    space.hw.poke(DATA, 4, 0xffff_ffff);
    expect(space.read(ADDR, 2)).toBe(F | 4);
    expect(space.read(DATA, 4)).toBe(0x6f6c_6c65);
    expect(space.read(at, 2)).toBe(0x0003);
  });

  test('act when the byte with F is written, and only then', () => {
    const acts = (offset: number, width: 1 | 2 | 4): boolean => {
      const { space, vpd: hardware } = vpd();
      space.write(offset, width, 0);
      return hardware.requests.length > 0;
    };
    expect(acts(ADDR, 1)).toBe(false);
    expect(acts(ADDR + 1, 1)).toBe(true);
    expect(acts(ADDR, 2)).toBe(true);
    expect(acts(at, 4)).toBe(true);
    expect(acts(at, 2)).toBe(false);
    expect(acts(DATA, 4)).toBe(false);
  });

  test('take an address in two writes, the byte with F last', () => {
    const { space } = vpd();
    space.write(ADDR, 1, 4);
    expect(space.read(ADDR, 2)).toBe(4);
    space.write(ADDR + 1, 1, 0);
    expect(space.read(ADDR, 2)).toBe(F | 4);
    expect(space.read(DATA, 4)).toBe(0x6f6c_6c65);
  });
});

describe('a function whose data make no sense', () => {
  test.for<[string, number[]]>([
    ['zeros', [0x00]],
    ['ones', [0xff]],
    ['a first tag that is too long', [0x90, 0xff, 0xff]],
  ])('%s: every transfer fails', ([, content]) => {
    const { space } = vpd(content);
    expect(guestRead(space, 0)).toBeUndefined();
    expect(space.read(ADDR, 2)).toBe(0);
    expect(guestWrite(space, 0, 1)).toBe(false);
  });

  test('ends before the first tag that is too long', () => {
    const { space } = vpd([0x82, 1, 0, 0x41, 0x90, 0xff, 0xff, 0x33]);
    expect(guestRead(space, 0)).toBe(0x4100_0182);
    expect(guestRead(space, 2)).toBe(0x0000_4100);
    expect(guestRead(space, 4)).toBe(0);
  });

  test('without an end tag is as long as it is', () => {
    // Large tags of 0x7ffd bytes and their headers fill the 32 KiB exactly.
    const { space, vpd: hardware } = vpd([0x82, 0xfd, 0x7f]);
    hardware.memory.set([1, 2, 3, 4], 0x7ffc);
    expect(guestRead(space, 0x7ffc)).toBe(0x0403_0201);
  });

  test('small tags other than the end are walked over', () => {
    const { space } = vpd([0x0a, 1, 2, 0x7b, 9, 9, 9]);
    expect(guestRead(space, 4)).toBe(0x0009_0909);
  });

  test('is measured once for an opening', () => {
    const { space, vpd: hardware } = vpd();
    guestRead(space, 0);
    hardware.memory.set([0x82, 0x40, 0, 0x41], 0);
    hardware.memory[0x43] = 0x78;
    hardware.requests.length = 0;
    expect(guestRead(space, 0x20)).toBe(0);
    expect(hardware.requests).toEqual([]);
    space.space.init();
    expect(guestRead(space, 0x20)).toBe(0xeeee_eeee);
  });
});

describe('hardware that is slow', () => {
  test('is polled at once while it is a matter of polls, and the write is a number', () => {
    const { space, vpd: hardware } = vpd();
    hardware.delay = 20;
    expect(space.write(ADDR, 2, 4)).toBe(2);
    expect(space.read(DATA, 4)).toBe(0x6f6c_6c65);
  });

  test('is waited for: the write is a promise, and F comes when it is done', async () => {
    const { space, vpd: hardware } = vpd();
    guestRead(space, 0);
    hardware.delay = 40;
    const result = space.write(ADDR, 2, 4);
    expect(result).toBeInstanceOf(Promise);
    expect(space.read(ADDR, 2)).toBe(4);
    expect(await result).toBe(2);
    expect(space.read(ADDR, 2)).toBe(F | 4);
    expect(space.read(DATA, 4)).toBe(0x6f6c_6c65);
  });

  test('is given up after 125 ms: F stays, data too', async () => {
    vi.useFakeTimers();
    try {
      const { space, vpd: hardware } = vpd();
      guestRead(space, 0);
      const before = space.read(DATA, 4);
      hardware.broken = true;
      const result = space.write(ADDR, 2, 4) as Promise<number>;
      let done = false;
      void result.then(() => {
        done = true;
      });
      await vi.advanceTimersByTimeAsync(110);
      expect(done).toBe(false);
      await vi.advanceTimersByTimeAsync(30);
      expect(done).toBe(true);
      expect(await result).toBe(2);
      expect(space.read(ADDR, 2)).toBe(4);
      expect(space.read(DATA, 4)).toBe(before);
    } finally {
      vi.useRealTimers();
    }
  });

  test('does not make a write of ours succeed that it did not take', async () => {
    vi.useFakeTimers();
    try {
      const { space, vpd: hardware } = vpd();
      guestRead(space, 0);
      hardware.broken = true;
      const result = space.write(ADDR, 2, F | 8) as Promise<number>;
      await vi.advanceTimersByTimeAsync(200);
      await result;
      expect(space.read(ADDR, 2)).toBe(F | 8);
    } finally {
      vi.useRealTimers();
    }
  });

  test('that never answered is asked again for its length', async () => {
    vi.useFakeTimers();
    try {
      const { space, vpd: hardware } = vpd();
      hardware.broken = true;
      const result = space.write(ADDR, 2, 4) as Promise<number>;
      await vi.advanceTimersByTimeAsync(200);
      await result;
      expect(space.read(ADDR, 2)).toBe(4);
      hardware.broken = false;
      expect(guestRead(space, 4)).toBe(0x6f6c_6c65);
    } finally {
      vi.useRealTimers();
    }
  });
});

test('a capability that the host does not see, at an unaligned place, transfers nothing', () => {
  // Rounded down to a dword there is no VPD capability, so the host has none.
  const space = new TestSpace({ caps: [{ at: 0x72, id: 0x03 }] });
  space.write(0x74, 2, 0x0004);
  expect(space.read(0x74, 2)).toBe(0x0004);
  expect(space.hw.writes).toEqual([]);
});

test('goes to the capability that the host knew at open, whatever a user writes to the link of a hidden one', () => {
  const hardware = new VpdHardware();
  hardware.memory.set(CONTENT);
  const caps = [
    { at: 0x40, id: 0x0c },
    { at, id: 0x03 },
  ];
  const space = new TestSpace({ caps });
  hardware.attach(space);
  space.write(0x60, 1, 0x03);
  space.write(0x41, 1, 0x60);
  expect(guestRead(space, 0)).toBe(0x6800_0582);
  expect(space.hw.peek(0x62, 4)).toBe(0);
});
