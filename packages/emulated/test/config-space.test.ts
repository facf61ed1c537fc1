import {
  PCI_BASE_ADDRESS_0,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_SSVID,
  PCI_CAP_ID_VNDR,
  PCI_CAP_ID_VPD,
  PCI_COMMAND,
  PCI_EXP_DEVCTL,
  PCI_EXT_CAP_ID_ARI,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_LTR,
  PCI_EXT_CAP_ID_VNDR,
  PCI_MSI_FLAGS,
  PCI_STATUS,
  PCI_VPD_ADDR,
  PCI_VPD_ADDR_F,
  PCI_VPD_DATA,
} from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ConfigSpace, type FunctionContext } from '../src/index.js';
import { bareModel, findCapability, findExtended, setCommand, singleFunction } from './helpers/setup.js';

/** A function with every capability that has no side effects worth excluding. */
function everything(ctx: FunctionContext): void {
  ctx.intx(2);
  ctx.bar(0, { size: 0x4000, is64Bit: true });
  ctx.bar(2, { size: 0x20, io: true });
  ctx.bar(3, { size: 0x1000 });
  ctx.bar(4, { size: 0x1_0000_0000, is64Bit: true, prefetchable: true });
  ctx.rom(new Uint8Array(3000));
  ctx.pm({ pme: true, d1: true });
  ctx.msi({ vectors: 4, is64Bit: true, maskable: true });
  ctx.express({ flr: true, ltr: true });
  ctx.msix({ vectors: 5, table: { bar: 0, offset: 0x2000 }, pba: { bar: 0, offset: 0x3000 } });
  ctx.af();
  ctx.vpd({ data: new Uint8Array(16) });
  ctx.vendor(Uint8Array.of(1, 2, 3, 4, 5), Uint8Array.of(0, 0xff, 0, 0, 0));
  ctx.ssvid(0x1111, 0x2222);
  ctx.aer();
  ctx.dsn(0x1122334455667788n);
  ctx.ari(3);
  ctx.ltr();
  ctx.vendorExtended(0x77, 1, Uint8Array.of(9, 9));
}

const build = (): ReturnType<typeof singleFunction> => singleFunction(bareModel(everything));

describe('write masks', () => {
  test('only bits that are read-write take what is written, and only write-1-to-clear bits clear', () => {
    const access = fc.record({
      offset: fc.nat(0xfff),
      width: fc.constantFrom(1 as const, 2 as const, 4 as const),
      value: fc.integer({ min: -0x80000000, max: 0x7fffffff }),
    });
    const bits = fc.array(fc.record({ value: fc.integer(), rw: fc.integer(), w1c: fc.integer() }), {
      minLength: 4,
      maxLength: 4,
    });
    fc.assert(
      fc.property(bits, fc.array(access, { maxLength: 30 }), (words, accesses) => {
        const config = new ConfigSpace(4096);
        words.forEach(({ value, rw, w1c }, i) => {
          config.define(0x40 + 4 * i, 4, value, { rw: rw & ~w1c, w1c });
        });
        const model = new Uint8Array(4096);
        for (let i = 0; i < 4096; i++) model[i] = config.read(i, 1);
        for (const { offset, width, value } of accesses) {
          const at = 0x40 + ((offset % 16) & ~(width - 1));
          config.write(at, width, value);
          for (let i = 0; i < width; i++) {
            const byte = (value >>> (8 * i)) & 0xff;
            const rw = config.writableBits(at + i, 1);
            const w1c = config.clearableBits(at + i, 1);
            const old = model[at + i] as number;
            model[at + i] = ((old & ~rw) | (byte & rw)) & ~(byte & w1c);
          }
        }
        const shown = Uint8Array.from({ length: 4096 }, (_, i) => config.read(i, 1));
        expect(Buffer.compare(shown, model)).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('ids, class, header type, pin, capability links and sizes never change, whatever is written', () => {
    const { fn } = build();
    const before: number[] = [];
    for (let i = 0; i < 4096; i++) before.push(fn.config.read(i, 1));
    const fixed = (at: number): number => ~(fn.config.writableBits(at, 1) | fn.config.clearableBits(at, 1)) & 0xff;
    // Registers that follow what is done, not only what is written.
    const live = new Set([PCI_STATUS, PCI_STATUS + 1]);
    for (let i = 0; i < 4096; i++) if (i < PCI_COMMAND || i > PCI_COMMAND + 1) fn.config.write(i, 1, 0xff);
    for (let i = 0; i < 4096; i++)
      if (!live.has(i)) expect((fn.config.read(i, 1) ^ (before[i] as number)) & fixed(i), `byte ${i}`).toBe(0);
  });

  test.each([
    [PCI_COMMAND, 2, 0x0547],
    [0x0c, 1, 0xff],
    [0x0d, 1, 0],
    [0x3c, 1, 0xff],
    [0x3d, 1, 0],
    [PCI_BASE_ADDRESS_0, 4, 0xffffc000],
    [PCI_BASE_ADDRESS_0 + 4, 4, 0xffffffff],
    [PCI_BASE_ADDRESS_0 + 8, 4, 0xffffffe0],
    [PCI_BASE_ADDRESS_0 + 12, 4, 0xfffff000],
    [PCI_BASE_ADDRESS_0 + 16, 4, 0],
    [PCI_BASE_ADDRESS_0 + 20, 4, 0xffffffff],
    [0x30, 4, 0xfffff001],
  ] as const)('register 0x%s (%i bytes) has the writable bits of its kind', (offset, width, mask) => {
    const { fn } = build();
    expect(fn.config.writableBits(offset, width) >>> 0).toBe(mask);
  });

  test('the I/O enable bit exists only where there is an I/O BAR', () => {
    const { fn } = singleFunction(bareModel((ctx) => void ctx.bar(0, { size: 16 })));
    setCommand(fn, 0x1, 0);
    expect(fn.config.read(PCI_COMMAND, 2) & 3).toBe(2);
  });

  test('a function that does not answer reads all ones and ignores writes', () => {
    const { fn } = build();
    fn.config.present = false;
    fn.config.write(0x3c, 1, 0x55);
    expect([fn.config.read(0, 1), fn.config.read(0, 2), fn.config.read(0, 4)]).toEqual([0xff, 0xffff, -1]);
    fn.config.present = true;
    expect(fn.config.read(0x3c, 1)).not.toBe(0x55);
  });

  test('past the end of conventional config space there is nothing', () => {
    const { fn } = singleFunction(bareModel((ctx) => ctx.pm()));
    expect(fn.config.size).toBe(256);
    expect(fn.config.read(0x100, 4)).toBe(-1);
  });
});

describe('the capability lists', () => {
  test('each capability is reached through the list', () => {
    const { fn } = build();
    const ids = [
      PCI_CAP_ID_PM,
      PCI_CAP_ID_MSI,
      PCI_CAP_ID_EXP,
      PCI_CAP_ID_AF,
      PCI_CAP_ID_VPD,
      PCI_CAP_ID_VNDR,
      PCI_CAP_ID_SSVID,
    ];
    for (const id of ids) expect(findCapability(fn, id), `capability ${id}`).toBeGreaterThanOrEqual(0x40);
    for (const id of [
      PCI_EXT_CAP_ID_ERR,
      PCI_EXT_CAP_ID_DSN,
      PCI_EXT_CAP_ID_ARI,
      PCI_EXT_CAP_ID_LTR,
      PCI_EXT_CAP_ID_VNDR,
    ])
      expect(findExtended(fn, id), `extended capability ${id}`).toBeGreaterThanOrEqual(0x100);
    expect(fn.config.read(PCI_STATUS, 2) & 0x10).toBe(0x10);
  });

  test('capabilities do not overlap', () => {
    const { fn } = build();
    const starts: number[] = [];
    for (let at = fn.config.read(0x34, 1); at !== 0; at = fn.config.read(at + 1, 1)) starts.push(at);
    expect(new Set(starts).size).toBe(starts.length);
    expect([...starts].sort((a, b) => a - b)).toEqual(starts);
  });

  test('one that does not fit is refused with EINVAL', () => {
    expect(() => singleFunction(bareModel((ctx) => void ctx.vendor(new Uint8Array(0xc0))))).toThrow(
      expect.objectContaining({ errno: 'EINVAL' }),
    );
  });

  test('DSN holds the serial number, low half first', () => {
    const { fn } = build();
    const at = findExtended(fn, PCI_EXT_CAP_ID_DSN);
    expect([fn.config.read(at + 4, 4) >>> 0, fn.config.read(at + 8, 4) >>> 0]).toEqual([0x55667788, 0x11223344]);
  });

  test('MSI cannot be granted more messages than it asked for', () => {
    const { fn } = build();
    const at = findCapability(fn, PCI_CAP_ID_MSI) + PCI_MSI_FLAGS;
    fn.config.write(at, 2, 0x50);
    expect((fn.config.read(at, 2) >> 4) & 7).toBe(2);
    fn.config.write(at, 2, 0x10);
    expect((fn.config.read(at, 2) >> 4) & 7).toBe(1);
  });
});

describe('vital product data', () => {
  function vpd(writable: boolean) {
    const data = Uint8Array.from({ length: 10 }, (_, i) => i + 1);
    const { fn } = singleFunction(bareModel((ctx) => ctx.vpd({ data, writable })));
    return { fn, data, at: findCapability(fn, PCI_CAP_ID_VPD) };
  }

  test('F = 0 reads: F becomes 1 and the data register holds four bytes', () => {
    const { fn, at } = vpd(false);
    fn.config.write(at + PCI_VPD_ADDR, 2, 4);
    expect(fn.config.read(at + PCI_VPD_ADDR, 2)).toBe(4 | PCI_VPD_ADDR_F);
    expect(fn.config.read(at + PCI_VPD_DATA, 4)).toBe(0x08070605);
  });

  test('bytes past the end read zero', () => {
    const { fn, at } = vpd(false);
    fn.config.write(at + PCI_VPD_ADDR, 2, 8);
    expect(fn.config.read(at + PCI_VPD_DATA, 4)).toBe(0x0a09);
  });

  test.each([true, false])('F = 1 writes: F becomes 0, and the bytes change where they may (%s)', (writable) => {
    const { fn, data, at } = vpd(writable);
    fn.config.write(at + PCI_VPD_DATA, 4, 0x44332211);
    fn.config.write(at + PCI_VPD_ADDR, 2, PCI_VPD_ADDR_F | 4);
    expect(fn.config.read(at + PCI_VPD_ADDR, 2)).toBe(4);
    expect([...data.subarray(4, 8)]).toEqual(writable ? [0x11, 0x22, 0x33, 0x44] : [5, 6, 7, 8]);
  });

  test('an address that is not a dword never completes', () => {
    const { fn, at } = vpd(false);
    fn.config.write(at + PCI_VPD_ADDR, 2, 2);
    expect(fn.config.read(at + PCI_VPD_ADDR, 2)).toBe(2);
  });

  test('writing the low address byte alone starts nothing', () => {
    const { fn, at } = vpd(false);
    fn.config.write(at + PCI_VPD_ADDR, 1, 4);
    expect(fn.config.read(at + PCI_VPD_ADDR, 2)).toBe(4);
    fn.config.write(at + PCI_VPD_ADDR + 1, 1, 0);
    expect(fn.config.read(at + PCI_VPD_ADDR, 2)).toBe(4 | PCI_VPD_ADDR_F);
  });
});

describe('resets', () => {
  test('FLR through PCIe brings registers back but keeps payload size and sticky errors', () => {
    const { fn } = build();
    const express = findCapability(fn, PCI_CAP_ID_EXP);
    const aer = findExtended(fn, PCI_EXT_CAP_ID_ERR);
    fn.config.write(express + PCI_EXP_DEVCTL, 2, 0x2020);
    fn.config.write(aer + 8, 4, 0x00100000);
    fn.config.write(0x3c, 1, 0x99);
    fn.config.write(express + PCI_EXP_DEVCTL, 2, 0xa020);
    expect(fn.config.read(express + PCI_EXP_DEVCTL, 2)).toBe(0x2830);
    expect(fn.config.read(aer + 8, 4)).toBe(0x00100000);
    expect(fn.config.read(0x3c, 1)).toBe(0);
    expect(fn.config.read(PCI_BASE_ADDRESS_0, 4)).toBe(4);
    expect(fn.config.read(PCI_COMMAND, 2)).toBe(0);
  });

  test('a power cycle clears sticky bits too', () => {
    const { fn } = build();
    const aer = findExtended(fn, PCI_EXT_CAP_ID_ERR);
    fn.config.write(aer + 8, 4, 0x00100000);
    fn.powerCycle();
    expect(fn.config.read(aer + 8, 4)).toBe(0);
  });

  test('AF starts a reset and its bit reads 0', () => {
    const { fn } = singleFunction(bareModel((ctx) => ctx.af()));
    const at = findCapability(fn, PCI_CAP_ID_AF);
    fn.config.write(0x3c, 1, 0x99);
    fn.config.write(at + 4, 1, 1);
    expect([fn.config.read(at + 4, 1), fn.config.read(0x3c, 1)]).toEqual([0, 0]);
    expect(fn.resetMethods).toEqual(['af_flr']);
  });
});
