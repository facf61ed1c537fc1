import { PCI_CAP_ID_MSI, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, PCI_STATUS, PCI_STATUS_INTERRUPT } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { EDU, Edu, type EduOptions } from '../src/index.js';
import { MemorySpace } from './helpers/memory-space.js';
import { findCapability, read32, setCommand, setMaster, singleFunction } from './helpers/setup.js';

function edu(options: EduOptions = {}) {
  const setup = singleFunction((ctx) => new Edu(ctx, options));
  const bar = setup.fn.open(0);
  const memory = new MemorySpace(0x10000);
  setup.fn.attachDma(memory);
  return { ...setup, bar, memory };
}

function transfer(bar: ReturnType<typeof edu>['bar'], from: number, to: number, count: number, command: number): void {
  bar.write(EDU.DMA_SOURCE, 4, from);
  bar.write(EDU.DMA_DESTINATION, 4, to);
  bar.write(EDU.DMA_COUNT, 4, count);
  bar.write(EDU.DMA_COMMAND, 4, command);
}

describe('identity', () => {
  test('it is 1234:11e8 of class 00ff00, a conventional function with one BAR of 1 MiB, INTA and 64-bit MSI', () => {
    const { fn } = edu();
    expect([fn.vendor, fn.device, fn.class, fn.revision]).toEqual([0x1234, 0x11e8, 0x00ff00, 0x10]);
    expect(fn.config.size).toBe(256);
    expect(fn.resources.map((resource) => resource?.size)).toEqual([
      0x100000,
      undefined,
      undefined,
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
    expect(fn.config.read(0x3d, 1)).toBe(1);
    expect(fn.config.read(findCapability(fn, PCI_CAP_ID_MSI) + 2, 2)).toBe(0x80);
  });
});

describe('registers below 0x80', () => {
  test('the identification register reads 0x010000ed and ignores writes', () => {
    const { bar } = edu();
    bar.write(EDU.IDENTIFICATION, 4, 0);
    expect(read32(bar, EDU.IDENTIFICATION)).toBe(0x010000ed);
  });

  test('liveness reads back the complement of what was written', () => {
    const { bar } = edu();
    bar.write(EDU.LIVENESS, 4, 0x12345678);
    expect(read32(bar, EDU.LIVENESS)).toBe(0xedcba987);
  });

  test.each([1, 2] as const)('an access of %i bytes reads all ones and writes nothing', (width) => {
    const { bar } = edu();
    bar.write(EDU.LIVENESS, 4, 0);
    bar.write(EDU.LIVENESS, width, 0x55);
    expect(bar.read(EDU.LIVENESS, width)).toBe(width === 1 ? 0xff : 0xffff);
    expect(read32(bar, EDU.LIVENESS)).toBe(0xffffffff);
  });

  test.each([0x0c, 0x28, 0x60, 0x64, 0x84, 0xa0, 0x40000])('offset 0x%s reads all ones', (offset) => {
    const { bar } = edu();
    expect(read32(bar, offset)).toBe(0xffffffff);
  });

  test('an 8-byte access below 0x80 reads all ones', () => {
    const { bar } = edu();
    const into = new DataView(new ArrayBuffer(8));
    bar.readQword?.(EDU.IDENTIFICATION, into, 0);
    expect(into.getBigUint64(0, true)).toBe(0xffffffffffffffffn);
  });
});

describe('factorial', () => {
  test.each([
    [0, 1],
    [1, 1],
    [5, 120],
    [12, 479001600],
    [13, 1932053504],
    [33, 2147483648],
    [34, 0],
    [0xffffffff, 0],
  ])('%i! is %i modulo 2^32, after the computing bit clears', (operand, result) => {
    const { bar, deferred } = edu();
    bar.write(EDU.FACTORIAL, 4, operand | 0);
    expect(bar.read(EDU.STATUS, 4) & EDU.STATUS_COMPUTING).toBe(EDU.STATUS_COMPUTING);
    deferred.run();
    expect(bar.read(EDU.STATUS, 4) & EDU.STATUS_COMPUTING).toBe(0);
    expect(read32(bar, EDU.FACTORIAL)).toBe(result);
  });

  test('a write while it computes is ignored', () => {
    const { bar, deferred } = edu();
    bar.write(EDU.FACTORIAL, 4, 5);
    bar.write(EDU.FACTORIAL, 4, 6);
    deferred.run();
    expect(bar.read(EDU.FACTORIAL, 4)).toBe(120);
  });

  test('software sets only bit 0x80 of the status', () => {
    const { bar } = edu();
    bar.write(EDU.STATUS, 4, -1);
    expect(bar.read(EDU.STATUS, 4)).toBe(EDU.STATUS_RAISE_AFTER_FACTORIAL);
  });

  test.each([true, false])('the interrupt after it comes exactly where asked for (%s)', (asked) => {
    const { bar, deferred } = edu();
    bar.write(EDU.STATUS, 4, asked ? EDU.STATUS_RAISE_AFTER_FACTORIAL : 0);
    bar.write(EDU.FACTORIAL, 4, 3);
    deferred.run();
    expect(bar.read(EDU.INTERRUPT_STATUS, 4)).toBe(asked ? EDU.IRQ_FACTORIAL : 0);
  });
});

describe('interrupts', () => {
  test('raised bits gather in the status and INTx stays asserted until the last is acknowledged', () => {
    const { bar, fn } = edu();
    bar.write(EDU.INTERRUPT_RAISE, 4, 0x1);
    bar.write(EDU.INTERRUPT_RAISE, 4, 0x80000000 | 0);
    expect(read32(bar, EDU.INTERRUPT_STATUS)).toBe(0x80000001);
    bar.write(EDU.INTERRUPT_ACKNOWLEDGE, 4, 0x1);
    expect(fn.config.read(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT).toBe(PCI_STATUS_INTERRUPT);
    expect(fn.irq.isDriving).toBe(true);
    bar.write(EDU.INTERRUPT_ACKNOWLEDGE, 4, -1);
    expect(fn.config.read(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT).toBe(0);
    expect(fn.irq.isDriving).toBe(false);
  });

  test('each raise sends one MSI once MSI is on, and INTx stays quiet', () => {
    const { bar, fn } = edu();
    let count = 0;
    expect(fn.interrupts.allocVectors('msi', 1)).toBe(1);
    fn.interrupts.setVectorHandler(0, () => count++);
    bar.write(EDU.INTERRUPT_RAISE, 4, 1);
    bar.write(EDU.INTERRUPT_RAISE, 4, 1);
    expect(count).toBe(2);
    expect(fn.irq.isDriving).toBe(false);
  });

  test('raising nothing is no interrupt', () => {
    const { bar, fn } = edu();
    bar.write(EDU.INTERRUPT_RAISE, 4, 0);
    expect(fn.irq.isDriving).toBe(false);
  });

  test('DisINTx keeps the pin quiet while the status shows the interrupt', () => {
    const { bar, fn } = edu();
    setCommand(fn, PCI_COMMAND_INTX_DISABLE, 0);
    bar.write(EDU.INTERRUPT_RAISE, 4, 1);
    expect(fn.irq.isDriving).toBe(false);
    expect(fn.config.read(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT).toBe(PCI_STATUS_INTERRUPT);
    setCommand(fn, 0, PCI_COMMAND_INTX_DISABLE);
    expect(fn.irq.isDriving).toBe(true);
  });
});

describe('DMA', () => {
  test.each([false, true])('a block goes to the buffer and back (memory reached by messages: %s)', async (remote) => {
    const { bar, deferred, fn } = edu();
    const memory = new MemorySpace(0x10000, { remote });
    fn.attachDma(memory);
    memory.bytes.set([1, 2, 3, 4, 5], 0x1000);
    transfer(bar, 0x1000, EDU.BUFFER, 5, EDU.DMA_START);
    expect(bar.read(EDU.DMA_COMMAND, 4) & EDU.DMA_START).toBe(1);
    deferred.run();
    await new Promise((resolve) => setImmediate(resolve));
    expect(bar.read(EDU.DMA_COMMAND, 4) & EDU.DMA_START).toBe(0);
    transfer(bar, EDU.BUFFER, 0x2000, 5, EDU.DMA_START | EDU.DMA_TO_MEMORY | EDU.DMA_RAISE);
    deferred.run();
    await new Promise((resolve) => setImmediate(resolve));
    expect([...memory.bytes.subarray(0x2000, 0x2006)]).toEqual([1, 2, 3, 4, 5, 0]);
    expect(bar.read(EDU.INTERRUPT_STATUS, 4)).toBe(EDU.IRQ_DMA);
  });

  test('no byte moves before the access that started it has been answered', () => {
    const { bar, memory } = edu();
    transfer(bar, EDU.BUFFER, 0x2000, 4, EDU.DMA_START | EDU.DMA_TO_MEMORY);
    expect(memory.log).toEqual([]);
  });

  test('registers are 64 bits wide and keep their value while a transfer runs', () => {
    const { bar, deferred } = edu();
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, 0x1_0000_2000n, true);
    bar.writeQword?.(EDU.DMA_SOURCE, view, 0);
    bar.readQword?.(EDU.DMA_SOURCE, view, 0);
    expect(view.getBigUint64(0, true)).toBe(0x1_0000_2000n);
    bar.write(EDU.DMA_COMMAND, 4, EDU.DMA_START);
    bar.write(EDU.DMA_SOURCE, 4, 0x77);
    expect(bar.read(EDU.DMA_SOURCE, 4)).toBe(0x2000);
    deferred.run();
    bar.write(EDU.DMA_SOURCE, 4, 0x77);
    expect(bar.read(EDU.DMA_SOURCE, 4)).toBe(0x77);
  });

  test('a command without the start bit is not taken', () => {
    const { bar } = edu();
    bar.write(EDU.DMA_COMMAND, 4, EDU.DMA_TO_MEMORY | EDU.DMA_RAISE);
    expect(bar.read(EDU.DMA_COMMAND, 4)).toBe(0);
  });

  test('addresses are cut to 28 bits, or to the mask that was given', () => {
    const { bar, deferred, memory } = edu();
    transfer(bar, EDU.BUFFER, 0x30003000, 4, EDU.DMA_START | EDU.DMA_TO_MEMORY);
    deferred.run();
    expect(memory.log).toEqual(['write 0x3000+4']);
    const wide = edu({ dmaMask: 0xffffffff });
    const far = new MemorySpace(0x1000, { base: 0x30003000 });
    wide.fn.attachDma(far);
    transfer(wide.bar, EDU.BUFFER, 0x30003000, 4, EDU.DMA_START | EDU.DMA_TO_MEMORY);
    wide.deferred.run();
    expect(far.log).toEqual(['write 0x30003000+4']);
  });

  test.each([
    ['before the buffer', EDU.BUFFER - 1, 4],
    ['past its end', EDU.BUFFER + 4093, 4],
    ['longer than it', EDU.BUFFER, 4097],
  ])('a block %s moves nothing and ends', (_name, at, count) => {
    const { bar, deferred, memory } = edu();
    transfer(bar, at, 0x2000, count, EDU.DMA_START | EDU.DMA_TO_MEMORY);
    deferred.run();
    expect(memory.log).toEqual([]);
    expect(bar.read(EDU.DMA_COMMAND, 4) & EDU.DMA_START).toBe(0);
  });

  test('without bus mastering nothing reaches memory and the transfer ends', () => {
    const { bar, deferred, memory, fn } = edu();
    setMaster(fn, false);
    transfer(bar, EDU.BUFFER, 0x2000, 4, EDU.DMA_START | EDU.DMA_TO_MEMORY);
    deferred.run();
    expect(memory.log).toEqual([]);
    expect(bar.read(EDU.DMA_COMMAND, 4) & EDU.DMA_START).toBe(0);
  });

  test('a latency holds the transfer back for that long', () => {
    const { bar, clock, memory, deferred } = edu({ dmaLatencyMs: 100 });
    transfer(bar, EDU.BUFFER, 0x2000, 4, EDU.DMA_START | EDU.DMA_TO_MEMORY);
    deferred.run();
    clock.advance(99);
    expect(memory.log).toEqual([]);
    clock.advance(1);
    expect(memory.log).toEqual(['write 0x2000+4']);
  });

  test('a reset ends what runs without effect and clears the registers', () => {
    const { bar, deferred, memory, fn } = edu();
    bar.write(EDU.LIVENESS, 4, 1);
    bar.write(EDU.FACTORIAL, 4, 5);
    transfer(bar, EDU.BUFFER, 0x2000, 4, EDU.DMA_START | EDU.DMA_TO_MEMORY);
    fn.powerCycle();
    setCommand(fn, 0x6, 0);
    deferred.run();
    expect(memory.log).toEqual([]);
    expect([bar.read(EDU.LIVENESS, 4), bar.read(EDU.FACTORIAL, 4), bar.read(EDU.STATUS, 4)]).toEqual([0, 0, 0]);
    expect(fn.config.read(PCI_COMMAND, 2) & 0x6).toBe(0x6);
  });
});

describe('speed', () => {
  test('register accesses return small integers only', () => {
    const { bar } = edu();
    bar.write(EDU.LIVENESS, 4, 0x7fffffff);
    expect(bar.read(EDU.LIVENESS, 4)).toBe(-0x80000000);
  });
});
