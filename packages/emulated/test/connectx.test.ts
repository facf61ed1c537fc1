import { describe, expect, test } from 'vitest';
import { type CommandRecord, ConnectX, type ConnectXOptions } from '../src/index.js';
import { HcaDriver } from './helpers/hca-driver.js';
import { MemorySpace } from './helpers/memory-space.js';
import { singleFunction } from './helpers/setup.js';

const MIB = 0x100000;

function connectx(options: ConnectXOptions & { remote?: boolean } = {}) {
  const records: CommandRecord[] = [];
  let model: ConnectX | undefined;
  const { fn, deferred, clock, host } = singleFunction((ctx) => {
    model = new ConnectX(ctx, { onCommand: (record) => records.push(record), ...options });
    return model;
  });
  const memory = new MemorySpace(16 * MIB, { base: MIB, remote: options.remote === true });
  const driver = new HcaDriver(fn, memory, deferred);
  if (model === undefined) throw new Error('the model was not made');
  return { fn, driver, model, records, clock, memory, host };
}

const OP = {
  QUERY_HCA_CAP: 0x100,
  INIT_HCA: 0x102,
  TEARDOWN_HCA: 0x103,
  ENABLE_HCA: 0x104,
  DISABLE_HCA: 0x105,
  QUERY_PAGES: 0x107,
  MANAGE_PAGES: 0x108,
  SET_HCA_CAP: 0x109,
  QUERY_ISSI: 0x10a,
  SET_ISSI: 0x10b,
  CREATE_EQ: 0x301,
  DESTROY_EQ: 0x302,
  QUERY_EQ: 0x303,
  ALLOC_PD: 0x800,
  DEALLOC_PD: 0x801,
  ALLOC_UAR: 0x802,
  DEALLOC_UAR: 0x803,
  ACCESS_REG: 0x805,
  NOP: 0x80d,
} as const;

describe('the initialization segment', () => {
  test('shows the revisions of firmware and command interface', () => {
    const { driver } = connectx({ firmwareVersion: { major: 28, minor: 39, subminor: 1002 } });
    expect(driver.read(0x0)).toBe((39 << 16) | 28);
    expect(driver.read(0x4)).toBe((5 << 16) | 1002);
  });

  test('takes the address of the command queue and shows its shape beside it', () => {
    const { driver } = connectx();
    driver.write(0x10, 0x12);
    driver.write(0x14, 0x34567000);
    expect(driver.read(0x10)).toBe(0x12);
    expect(driver.read(0x14)).toBe(0x34567000 | (5 << 4) | 6);
  });

  test('has finished initializing, and counts while the firmware is well', () => {
    const { driver, clock, model } = connectx();
    expect(driver.read(0x1fc)).toBe(0);
    const before = driver.read(0x1010);
    clock.advance(1000);
    expect(driver.read(0x1010)).toBe(before + 100);
    model.hca.segment.reportHealth(0x10, 0xabcd, true);
    const stopped = driver.read(0x1010);
    clock.advance(1000);
    expect(driver.read(0x1010)).toBe(stopped);
    expect(stopped >>> 24).toBe(0x10);
    expect(driver.read(0x23c) & 0xffffff).toBe((0x10 << 16) | 0xabcd);
    expect(driver.read(0x238) >>> 31).toBe(1);
  });

  test('has a timer of the frequency that the capabilities name', () => {
    const { driver, clock } = connectx();
    const ticks = () => driver.read(0x1000) * 2 ** 32 + driver.read(0x1004);
    const before = ticks();
    clock.advance(5000);
    expect(ticks() - before).toBe(5000 * 1_000_000);
  });

  test('a narrow write changes nothing', () => {
    const { driver } = connectx();
    driver.setQueue();
    driver.bar.write(0x14, 2, 0);
    driver.bar.write(0x10, 1, 0xff);
    expect(driver.read(0x14) & ~0xfff).toBe(driver.queue);
    expect(driver.read(0x10)).toBe(0);
  });
});

describe.each([false, true])('commands, memory by messages: %s', (remote) => {
  test('end with ownership, output and a signature', async () => {
    const { driver } = connectx({ remote });
    driver.setQueue();
    expect(await driver.command(OP.ENABLE_HCA)).toMatchObject({ isOurs: true, delivery: 0, status: 0, syndrome: 0 });
    const entry = driver.bytes(driver.queue, 64);
    expect(entry.reduce((sum, byte) => sum ^ byte, 0)).toBe(0xff);
  });

  test('input and output go on in mailboxes', async () => {
    const { driver } = connectx({ remote });
    driver.setQueue();
    await driver.command(OP.ENABLE_HCA);
    const { status, output } = await driver.command(OP.QUERY_HCA_CAP, 1, [0, 0], { output: 16 + 4096 });
    expect(status).toBe(0);
    // log_max_pd, bits 20:16 of dword 25 of the general capabilities.
    expect((output.getUint32(16 + 100) >>> 16) & 0x1f).toBe(23);
  });

  test('are run from every slot, and only when their entry is the hardware’s', async () => {
    const { driver, records } = connectx({ remote });
    driver.setQueue();
    expect((await driver.command(OP.ENABLE_HCA, 0, [0, 0], { slot: 31 })).isOurs).toBe(true);
    await driver.command(OP.QUERY_ISSI, 0, [0, 0], {
      output: 112,
      entry: (bytes) => {
        bytes[0x3f] = 0;
      },
    });
    expect(records.map(({ name }) => name)).toEqual(['ENABLE_HCA']);
  });
});

describe('delivery', () => {
  test.each<[string, number, Parameters<HcaDriver['send']>[1]]>([
    ['another transport', 0x10, { entry: (bytes) => void bytes.set([6], 0) }],
    ['a reserved bit of the entry', 0x9, { entry: (bytes) => void bytes.set([1], 2) }],
    ['input of no length', 0x7, { entry: (bytes) => void bytes.set([0, 0, 0, 0], 4) }],
    ['output of no length', 0x8, { entry: (bytes) => void bytes.set([0, 0, 0, 0], 0x38) }],
    ['an input mailbox that is not aligned', 0x5, { entry: (bytes) => void bytes.set([1], 0x0e) }],
    ['an output mailbox that is not aligned', 0x4, { entry: (bytes) => void bytes.set([1], 0x36) }],
    ['a mailbox with another token', 0x2, { mailbox: (bytes) => void bytes.set([0], 0x23d) }],
    ['a mailbox with another number', 0x3, { mailbox: (bytes) => void bytes.set([9], 0x23b) }],
    [
      'a chain that ends early',
      0x5,
      { entry: (bytes) => void new DataView(bytes.buffer, bytes.byteOffset).setUint32(4, 16 + 513) },
    ],
  ])('%s is refused with %i', async (_name, delivery, options) => {
    const { driver, records } = connectx();
    driver.setQueue();
    const input = new Uint8Array(16 + 512);
    new DataView(input.buffer).setUint16(0, OP.ENABLE_HCA);
    expect(await driver.send(input, { ...options, output: 16 + 512 })).toMatchObject({ delivery, isOurs: true });
    expect(records).toEqual([]);
  });

  test('a queue that memory does not answer for ends nowhere, and the device goes on', async () => {
    const { driver } = connectx();
    driver.write(0x14, 0x7f000000);
    driver.write(0x18, 1);
    await driver.settle();
    driver.setQueue();
    expect((await driver.command(OP.ENABLE_HCA)).status).toBe(0);
  });

  test('nothing happens with bus mastering off', async () => {
    const { driver, fn, records } = connectx();
    driver.setQueue();
    fn.config.write(4, 2, 2);
    expect((await driver.command(OP.ENABLE_HCA)).isOurs).toBe(false);
    expect(records).toEqual([]);
  });
});

describe('status', () => {
  const enabled = async () => {
    const made = connectx();
    made.driver.setQueue();
    await made.driver.command(OP.ENABLE_HCA);
    return made;
  };

  test('an opcode that is not known is a bad operation', async () => {
    const { driver } = await enabled();
    expect(await driver.command(0xfff)).toMatchObject({ delivery: 0, status: 0x2, syndrome: 0x10001 });
  });

  test('a reserved bit is a bad parameter', async () => {
    const { driver } = await enabled();
    expect(await driver.command(OP.QUERY_ISSI, 0, [1, 0], { output: 112 })).toMatchObject({ status: 0x3 });
  });

  test('short input and output have their own', async () => {
    const { driver } = await enabled();
    expect(await driver.command(OP.QUERY_ISSI, 0, [], { output: 112 })).toMatchObject({ status: 0x50 });
    expect(await driver.command(OP.QUERY_ISSI, 0, [0, 0], { output: 16 })).toMatchObject({ status: 0x51 });
  });

  test('before ENABLE_HCA, and after DISABLE_HCA, the system is in the wrong state', async () => {
    const { driver } = connectx();
    driver.setQueue();
    expect(await driver.command(OP.QUERY_ISSI, 0, [0, 0], { output: 112 })).toMatchObject({ status: 0x4 });
    await driver.command(OP.ENABLE_HCA);
    expect(await driver.command(OP.QUERY_ISSI, 0, [0, 0], { output: 112 })).toMatchObject({ status: 0 });
    expect(await driver.command(OP.ENABLE_HCA)).toMatchObject({ status: 0x4 });
    await driver.command(OP.DISABLE_HCA);
    expect(await driver.command(OP.QUERY_ISSI, 0, [0, 0], { output: 112 })).toMatchObject({ status: 0x4 });
  });

  test('can be injected, and a command can be made to stall, to see what a driver makes of it', async () => {
    const { driver, model } = await enabled();
    model.firmware.inject(OP.NOP, 0x1);
    expect(await driver.command(OP.NOP)).toMatchObject({ status: 0x1 });
    expect(await driver.command(OP.NOP)).toMatchObject({ status: 0 });
    model.firmware.stall(OP.NOP);
    expect((await driver.command(OP.NOP)).isOurs).toBe(false);
    expect((await driver.command(OP.NOP, 0, [0, 0], { slot: 1 })).isOurs).toBe(true);
    // A reset ends it: the slot works again.
    model.reset();
    driver.setQueue();
    expect((await driver.command(OP.ENABLE_HCA)).isOurs).toBe(true);
  });
});

describe('pages', () => {
  test('are asked for to boot and to initialize, and INIT_HCA insists on them', async () => {
    const { driver, model } = connectx({ pages: { boot: 4, init: 20 } });
    driver.setQueue();
    await driver.command(OP.ENABLE_HCA);
    expect((await driver.command(OP.QUERY_PAGES, 1)).output.getUint32(12)).toBe(4);
    expect((await driver.command(OP.QUERY_PAGES, 2)).output.getUint32(12)).toBe(24);
    await driver.givePages(23);
    expect(await driver.command(OP.INIT_HCA, 0, [0, 0, 0, 0, 0, 0])).toMatchObject({ status: 0x4 });
    await driver.givePages(1);
    expect(await driver.command(OP.INIT_HCA, 0, [0, 0, 0, 0, 0, 0])).toMatchObject({ status: 0 });
    expect(model.hca.phase).toBe('initialized');
  });

  test.each<[string, (page: number) => number[]]>([
    ['address 0', () => [0, 0]],
    ['an address inside a page', (page) => [0, page + 8]],
    ['a page twice', (page) => [0, page, 0, page]],
  ])('%s is refused, and nothing is taken', async (_name, list) => {
    const { driver, model } = connectx();
    driver.setQueue();
    await driver.command(OP.ENABLE_HCA);
    const words = list(driver.allocate());
    expect(await driver.command(OP.MANAGE_PAGES, 1, [0, words.length / 2, ...words])).toMatchObject({ status: 0x3 });
    expect(model.hca.pages.count).toBe(0);
  });

  test('in use are not given back; after TEARDOWN_HCA all are, each once', async () => {
    const { driver, model } = connectx({ pages: { boot: 4, init: 20 } });
    await driver.boot();
    const kept = (await driver.command(OP.MANAGE_PAGES, 2, [0, 64], { output: 16 + 512 })).output.getUint32(8);
    expect(kept).toBe(8);
    await driver.command(OP.TEARDOWN_HCA);
    const { output } = await driver.command(OP.MANAGE_PAGES, 2, [0, 64], { output: 16 + 512 });
    expect(output.getUint32(8)).toBe(16);
    const pages = Array.from({ length: 16 }, (_, i) => Number(output.getBigUint64(16 + 8 * i)));
    expect(new Set(pages).size).toBe(16);
    expect(model.hca.pages.count).toBe(0);
  });
});

describe('capabilities', () => {
  const blob = async (driver: HcaDriver, opMod: number): Promise<Uint8Array> => {
    const { output } = await driver.command(OP.QUERY_HCA_CAP, opMod, [0, 0], { output: 16 + 4096 });
    return new Uint8Array(output.buffer, 16, 4096).slice();
  };
  const set = (driver: HcaDriver, type: number, capability: Uint8Array) => {
    const input = new Uint8Array(16 + 4096);
    const view = new DataView(input.buffer);
    view.setUint16(0, OP.SET_HCA_CAP);
    view.setUint16(6, type << 1);
    input.set(capability, 16);
    return driver.send(input);
  };

  test('a driver lowers what it may lower', async () => {
    const { driver, model } = connectx();
    driver.setQueue();
    await driver.command(OP.ENABLE_HCA);
    const wanted = await blob(driver, 1);
    // log_max_qp, bits 4:0 of dword 4.
    wanted[19] = ((wanted[19] ?? 0) & ~0x1f) | 12;
    expect(await set(driver, 0, wanted)).toMatchObject({ status: 0 });
    expect(model.hca.capabilities.general('log_max_qp')).toBe(12);
    expect((await blob(driver, 0))[19]).toBe(18);
    driver.fn.reset('flr');
    expect(model.hca.capabilities.general('log_max_qp')).toBe(18);
  });

  test.each<[string, (wanted: Uint8Array) => void]>([
    ['more than there is', (wanted) => void wanted.set([31], 19)],
    ['what is not to be set', (wanted) => void wanted.set([1], 7)],
    ['a reserved bit', (wanted) => void wanted.set([0x80], 255)],
  ])('%s is refused, and all stays as it was', async (_name, change) => {
    const { driver } = connectx();
    driver.setQueue();
    await driver.command(OP.ENABLE_HCA);
    const before = await blob(driver, 1);
    const wanted = before.slice();
    wanted.set([10], 19);
    change(wanted);
    expect(await set(driver, 0, wanted)).toMatchObject({ status: 0x3 });
    expect(await blob(driver, 1)).toEqual(before);
  });

  test('a type that there is not is a bad parameter', async () => {
    const { driver } = connectx();
    driver.setQueue();
    await driver.command(OP.ENABLE_HCA);
    expect(await driver.command(OP.QUERY_HCA_CAP, 0x7e, [0, 0], { output: 16 + 4096 })).toMatchObject({ status: 0x3 });
  });
});

describe('event queues', () => {
  /** Creates a queue of 2^logSize events of the types in `mask`. */
  const createQueue = async (
    driver: HcaDriver,
    mask: bigint,
    options: { logSize?: number; uar?: number; intr?: number } = {},
  ) => {
    const { logSize = 3, intr = 2 } = options;
    const uar = options.uar ?? (await driver.command(OP.ALLOC_UAR)).output.getUint32(8);
    const page = driver.allocate();
    driver.bytes(page, 4096).fill(0);
    for (let i = 0; i < 64; i++) driver.bytes(page, 4096)[64 * i + 63] = 1;
    const input = new Uint8Array(272 + 8);
    const view = new DataView(input.buffer);
    view.setUint16(0, OP.CREATE_EQ);
    view.setUint32(0x10 + 0x0c, (logSize << 24) | uar);
    view.setUint32(0x10 + 0x14, intr);
    view.setBigUint64(0x58, mask);
    view.setBigUint64(272, BigInt(page));
    const answer = await driver.send(input);
    return { ...answer, page, uar, number: answer.output.getUint32(8) & 0xff };
  };
  const COMMAND = 1n << 0x0an;
  const PAGES = 1n << 0x0bn;
  const vectorsOf = (fn: ReturnType<typeof connectx>['fn']) => {
    const sent: number[] = [];
    fn.irq.send = (vector) => void sent.push(vector);
    return sent;
  };

  test('tell of commands, in order, and interrupt once for each arming', async () => {
    const { driver, fn } = connectx();
    await driver.boot();
    const sent = vectorsOf(fn);
    const { page, uar, number } = await createQueue(driver, COMMAND);
    // The command that created it is not told of: its driver still polled.
    expect(driver.bytes(page, 4096)[63]).toBe(1);
    driver.write(uar * 4096 + 0x40, number << 24);
    await driver.command(OP.NOP, 0, [0, 0], { slot: 5 });
    await driver.command(OP.NOP, 0, [0, 0], { slot: 3 });
    const events = driver.view(page, 4096);
    expect([events.getUint8(1), events.getUint32(0x20), events.getUint8(63)]).toEqual([0x0a, 1 << 5, 0]);
    expect([events.getUint8(65), events.getUint32(0x60), events.getUint8(127)]).toEqual([0x0a, 1 << 3, 0]);
    expect(sent).toEqual([2]);
    driver.write(uar * 4096 + 0x40, (number << 24) | 2);
    expect(sent).toEqual([2]);
    await driver.command(OP.NOP);
    expect(sent).toEqual([2, 2]);
  });

  test('armed with events waiting interrupt at once', async () => {
    const { driver, fn } = connectx();
    await driver.boot();
    const sent = vectorsOf(fn);
    const { uar, number } = await createQueue(driver, COMMAND);
    await driver.command(OP.NOP);
    expect(sent).toEqual([]);
    driver.write(uar * 4096 + 0x40, number << 24);
    expect(sent).toEqual([2]);
  });

  test('go round with the owner bit changed, and stop where they would overrun', async () => {
    const { driver } = connectx();
    await driver.boot();
    const { page, uar, number } = await createQueue(driver, COMMAND, { logSize: 1 });
    await driver.command(OP.NOP);
    await driver.command(OP.NOP);
    driver.write(uar * 4096 + 0x48, (number << 24) | 2);
    await driver.command(OP.NOP);
    expect(driver.bytes(page, 128)[63]).toBe(1);
    expect(driver.bytes(page, 128)[127]).toBe(0);
    await driver.command(OP.NOP);
    await driver.command(OP.NOP);
    const { output } = await driver.command(OP.QUERY_EQ, 0, [number, 0], { output: 272 });
    expect(output.getUint32(16) >>> 28).toBe(0xa);
  });

  test('a doorbell of another region, or of a queue that is gone, does nothing', async () => {
    const { driver, fn, model } = connectx();
    await driver.boot();
    const sent = vectorsOf(fn);
    const { uar, number } = await createQueue(driver, COMMAND);
    await driver.command(OP.NOP);
    driver.write((uar + 1) * 4096 + 0x40, number << 24);
    driver.write(uar * 4096 + 0x40, 99 << 24);
    expect(sent).toEqual([]);
    expect(await driver.command(OP.DESTROY_EQ, 0, [number, 0])).toMatchObject({ status: 0 });
    expect(await driver.command(OP.DESTROY_EQ, 0, [number, 0])).toMatchObject({ status: 0x5 });
    driver.write(uar * 4096 + 0x40, number << 24);
    expect(sent).toEqual([]);
    expect(model.hca.pages.contexts).toBe(0);
  });

  test('bring a request for pages when few are left, once until it is answered', async () => {
    const { driver, model } = connectx({ pages: { boot: 2, init: 10 } });
    await driver.boot();
    const { page } = await createQueue(driver, PAGES);
    const requests = () => {
      const events = driver.view(page, 4096);
      return Array.from({ length: 8 }, (_, i) => i)
        .filter((i) => events.getUint8(64 * i + 63) === 0)
        .map((i) => [events.getUint16(64 * i + 0x22), events.getInt32(64 * i + 0x24)]);
    };
    for (let i = 0; i < 4; i++) await createQueue(driver, 0n);
    expect(requests()).toEqual([[0, 16]]);
    await driver.givePages(16);
    expect(model.hca.pages.free).toBeGreaterThanOrEqual(16);
    expect(requests()).toHaveLength(1);
  });

  test.each<[string, { uar?: number; intr?: number; logSize?: number }, number]>([
    ['a user access region that is not allocated', { uar: 77 }, 0x5],
    ['a vector that there is not', { intr: 64 }, 0x3],
    ['more events than the capabilities allow', { logSize: 23 }, 0x3],
  ])('%s is refused', async (_name, options, status) => {
    const { driver, model } = connectx();
    await driver.boot();
    expect(await createQueue(driver, COMMAND, options)).toMatchObject({ status });
    expect([model.hca.eventQueues.size, model.hca.pages.contexts]).toEqual([0, 0]);
  });
});

describe('numbers', () => {
  test('are given once, freed once, and not soon again', async () => {
    const { driver } = connectx();
    await driver.boot();
    const first = (await driver.command(OP.ALLOC_PD)).output.getUint32(8);
    const second = (await driver.command(OP.ALLOC_PD)).output.getUint32(8);
    expect(second).not.toBe(first);
    expect(await driver.command(OP.DEALLOC_PD, 0, [first, 0])).toMatchObject({ status: 0 });
    expect(await driver.command(OP.DEALLOC_PD, 0, [first, 0])).toMatchObject({ status: 0x5 });
    expect((await driver.command(OP.ALLOC_PD)).output.getUint32(8)).not.toBe(first);
  });

  test('need INIT_HCA', async () => {
    const { driver } = connectx();
    driver.setQueue();
    await driver.command(OP.ENABLE_HCA);
    expect(await driver.command(OP.ALLOC_PD)).toMatchObject({ status: 0x4 });
  });

  test('are all free after a reset', async () => {
    const { driver, model, fn } = connectx();
    await driver.boot();
    await driver.command(OP.ALLOC_PD);
    fn.reset('flr');
    expect([model.hca.phase, model.hca.protectionDomains.size, model.hca.pages.count]).toEqual(['disabled', 0, 0]);
  });
});

describe('the gateway in configuration space', () => {
  const VSC = 0xc;
  const at = (fn: ReturnType<typeof connectx>['fn']) => {
    let offset = fn.config.read(0x34, 1);
    while (fn.config.read(offset, 1) !== 9) offset = fn.config.read(offset + 1, 1);
    return offset;
  };

  test('its semaphore has one owner', () => {
    const { fn } = connectx();
    const gateway = at(fn);
    const mine = fn.config.read(gateway + 8, 4);
    fn.config.write(gateway + VSC, 4, mine);
    expect(fn.config.read(gateway + VSC, 4)).toBe(mine);
    const theirs = fn.config.read(gateway + 8, 4);
    expect(theirs).not.toBe(mine);
    fn.config.write(gateway + VSC, 4, theirs);
    expect(fn.config.read(gateway + VSC, 4)).toBe(mine);
    fn.config.write(gateway + VSC, 4, 0);
    fn.config.write(gateway + VSC, 4, theirs);
    expect(fn.config.read(gateway + VSC, 4)).toBe(theirs);
  });

  test('says of every space that it is not there', () => {
    const { fn } = connectx();
    const gateway = at(fn);
    fn.config.write(gateway + 4, 4, 7);
    expect(fn.config.read(gateway + 4, 4) >>> 29).toBe(0);
  });
});
