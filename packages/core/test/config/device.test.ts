import { VFIO_PCI_BAR0_REGION_INDEX as BAR0, VFIO_PCI_CONFIG_REGION_INDEX as CONFIG } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { VfioDevice } from '../../src/index.js';
import { EXP_AT, FakeFunction, FakeHost, memoryBar, PM_AT } from '../device/fake-function.js';
import { enableMemory, errnoOf, opened, readBytes } from '../device/helpers.js';

const DEVCTL = EXP_AT + 8;
const PMCSR = PM_AT + 4;

function word(device: VfioDevice, offset: number): number {
  const [low, high] = readBytes(device, CONFIG, offset, 2);
  return low! | (high! << 8);
}

function setWord(device: VfioDevice, offset: number, value: number): number | Promise<number> {
  return device.write(CONFIG, offset, Uint8Array.of(value & 0xff, value >> 8));
}

describe('config space of an opened device', () => {
  test('has the size that hardware has, and EFAULT past its end', async () => {
    const { device } = await opened();
    expect(device.getRegionInfo(CONFIG).size).toBe(256);
    expect(errnoOf(() => device.read(CONFIG, 254, new Uint8Array(4)))).toBe('EFAULT');
    expect(errnoOf(() => device.write(CONFIG, 256, new Uint8Array(1)))).toBe('EFAULT');
    expect((await opened({ exp: true })).device.getRegionInfo(CONFIG).size).toBe(4096);
  });

  test('gates memory: EIO with decode off, and again when it is switched off', async () => {
    const { device } = await opened();
    const read = () => device.read(BAR0, 0, new Uint8Array(4));
    await setWord(device, 4, 0x0000);
    expect(errnoOf(read)).toBe('EIO');
    await enableMemory(device);
    expect(read()).toBe(4);
    await setWord(device, 4, 0x0004);
    expect(errnoOf(read)).toBe('EIO');
  });

  test('gates memory in D3hot, which it enters and leaves by PMCSR', async () => {
    const { device, fn } = await opened({ pm: 'noSoftReset' });
    await enableMemory(device);
    await setWord(device, PMCSR, 3);
    expect(fn.power.at(-1)).toBe(3);
    expect(word(device, PMCSR) & 3).toBe(3);
    expect(errnoOf(() => device.read(BAR0, 0, new Uint8Array(4)))).toBe('EIO');
    await setWord(device, PMCSR, 0);
    expect(word(device, PMCSR) & 3).toBe(0);
    expect(device.read(BAR0, 0, new Uint8Array(4))).toBe(4);
  });

  test('enters D1 and D2 only where the function has them, and leaves them deeper or to D0', async () => {
    const without = await opened({ pm: true });
    without.fn.power.length = 0;
    for (const state of [1, 2]) await setWord(without.device, PMCSR, state);
    expect(without.fn.power, 'hardware was not asked').toEqual([]);
    const { device, fn } = await opened({ pm: true });
    fn.config.put(PM_AT + 2, 2, 0x0603);
    fn.config.seal();
    fn.power.length = 0;
    for (const state of [2, 1, 3, 2, 1, 0, 1, 0]) await setWord(device, PMCSR, state);
    expect(fn.power).toEqual([2, 3, 0, 1, 0]);
  });

  test('of a function that refuses a state goes by what PMCSR says', async () => {
    const { device, fn } = await opened({ pm: true });
    await enableMemory(device);
    fn.setPowerState = () => {};
    await setWord(device, PMCSR, 3);
    expect(word(device, PMCSR) & 3).toBe(0);
    expect(device.read(BAR0, 0, new Uint8Array(4))).toBe(4);
  });

  test('keeps what a function forgets on the way from D3hot to D0 also where D1 is asked for in between', async () => {
    const { device, fn } = await opened({ pm: true });
    fn.config.put(PM_AT + 2, 2, 0x0203);
    await device.write(CONFIG, 0x0c, Uint8Array.of(0x10));
    for (const state of [3, 1, 0]) await setWord(device, PMCSR, state);
    expect(fn.config.read(0x0c, 1)).toBe(0x10);
  });

  test('keeps over D3hot what a function without NoSoftRst forgets', async () => {
    const { device, fn } = await opened({ pm: true });
    await setWord(device, 4, 0x0006);
    await device.write(CONFIG, 0x0c, Uint8Array.of(0x10));
    const bar = fn.config.read(0x10, 4);
    await setWord(device, PMCSR, 3);
    fn.config.put(0x10, 4, 0);
    fn.config.put(0x0c, 1, 0, 0xff);
    await setWord(device, PMCSR, 0);
    expect(fn.config.read(4, 2) & 0x0006).toBe(0x0006);
    expect(fn.config.read(0x0c, 1)).toBe(0x10);
    expect(fn.config.read(0x10, 4)).toBe(bar);
  });

  test('writes nothing back over D3hot to a function with NoSoftRst', async () => {
    const { device, fn } = await opened({ pm: 'noSoftReset' });
    await device.write(CONFIG, 0x0c, Uint8Array.of(0x10));
    await setWord(device, PMCSR, 3);
    fn.config.put(0x0c, 1, 0x08, 0xff);
    await setWord(device, PMCSR, 0);
    expect(fn.config.read(0x0c, 1)).toBe(0x08);
  });

  test('resets by FLR, and everything that software had set is there afterwards', async () => {
    const { device, fn } = await opened({ exp: true });
    await setWord(device, 4, 0x0006);
    const before = fn.resets;
    expect(await setWord(device, DEVCTL, 0x8000 | 0x2810)).toBe(2);
    expect(fn.resets).toBe(before + 1);
    expect(word(device, DEVCTL)).toBe(0x2810);
    expect(fn.config.read(4, 2) & 0x0006).toBe(0x0006);
    expect(word(device, 4)).toBe(0x0006);
  });

  test('lets no BAR access through while an FLR takes its time', async () => {
    const { device, fn } = await opened({ exp: true });
    await enableMemory(device);
    let arrive = () => {};
    fn.slowReset = new Promise((resolve) => {
      arrive = resolve;
    });
    const result = setWord(device, DEVCTL, 0x8000);
    expect(result).toBeInstanceOf(Promise);
    expect(errnoOf(() => device.read(BAR0, 0, new Uint8Array(4)))).toBe('EAGAIN');
    arrive();
    expect(await result).toBe(2);
    expect(device.read(BAR0, 0, new Uint8Array(4))).toBe(4);
  });

  test('repairs a reset behind its back when memory is enabled, and goes on', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    const bar = fn.config.read(0x10, 4);
    fn.config.put(0x10, 4, 0, ~0x3fff & ~0xf);
    fn.config.write(4, 2, 0);
    await setWord(device, 4, 0x0006);
    expect(fn.config.read(0x10, 4)).toBe(bar);
    expect(fn.config.read(4, 2)).toBe(0x0006);
  });

  test('of a function whose DisINTx does not work leaves hardware alone', async () => {
    const { device, fn } = await opened({ pci23: false });
    fn.config.onWrite = (offset) => expect(offset).not.toBe(5);
    await setWord(device, 4, 0x0406);
    expect(word(device, 4)).toBe(0x0406);
    expect(fn.config.read(4, 2)).toBe(0x0006);
  });

  test('of a VF shows its ids, no pin, and memory that is on', async () => {
    const host = new FakeHost();
    const pf = new FakeFunction(host, { address: '0000:02:00.0' });
    const { device } = await opened({ physfn: pf, vendor: 0x15b3, device: 0x101e, bars: { 0: memoryBar(0x1000) } });
    expect([word(device, 0), word(device, 2)]).toEqual([0x15b3, 0x101e]);
    expect(readBytes(device, CONFIG, 0x3d, 1)).toEqual([0]);
    expect(word(device, 4) & 2).toBe(2);
    expect(device.read(BAR0, 0, new Uint8Array(4))).toBe(4);
    await setWord(device, 4, 0);
    expect(device.read(BAR0, 0, new Uint8Array(4))).toBe(4);
  });

  test('is virtualised anew at each open', async () => {
    const { dev, device } = await opened();
    await device.write(CONFIG, 0x3c, Uint8Array.of(0x0b));
    await device.close();
    const again = await dev.open();
    expect(readBytes(again, CONFIG, 0x3c, 1)).toEqual([0]);
  });
});
