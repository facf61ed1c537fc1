import { beforeEach, describe, expect, test } from 'vitest';
import {
  ConnectX,
  type ConnectXOptions,
  type ConnectXVf,
  type DeferredQueue,
  type EmulatedFunction,
  CONNECTX_ENGINE as ENGINE,
} from '../src/index.js';
import { HcaDriver } from './helpers/hca-driver.js';
import { MemorySpace } from './helpers/memory-space.js';
import { singleFunction } from './helpers/setup.js';

const MIB = 0x100000;
const PAGE = 4096;

const OP = {
  QUERY_HCA_CAP: 0x100,
  ENABLE_HCA: 0x104,
  DISABLE_HCA: 0x105,
  SET_HCA_CAP: 0x109,
  SUSPEND: 0x115,
  RESUME: 0x116,
  QUERY_STATE: 0x117,
  SAVE: 0x118,
  LOAD: 0x119,
  CREATE_MKEY: 0x200,
  DESTROY_MKEY: 0x202,
  CREATE_EQ: 0x301,
  CREATE_CQ: 0x400,
  DESTROY_CQ: 0x401,
  CREATE_QP: 0x500,
  DESTROY_QP: 0x501,
  ALLOC_PD: 0x800,
  ALLOC_UAR: 0x802,
  CREATE_OBJECT: 0xa00,
  MODIFY_OBJECT: 0xa01,
  QUERY_OBJECT: 0xa02,
  DESTROY_OBJECT: 0xa03,
} as const;

/** Bits 31 and 30 of the dword with the function's number. */
const INCREMENTAL = 0x80000000;
const TRACK = 0x40000000;
const CHUNK = 0x40000000;

async function device(options: ConnectXOptions = {}) {
  let model: ConnectX | undefined;
  const { fn, deferred, clock, host } = singleFunction((ctx) => {
    model = new ConnectX(ctx, { vfMemory: 64 * PAGE, ...options });
    return model;
  });
  const memory = new MemorySpace(48 * MIB, { base: MIB });
  const pf = new HcaDriver(fn, memory, deferred);
  if (model === undefined) throw new Error('the model was not made');
  await pf.boot();
  fn.sriov?.enable(2);
  const connectx = model;
  const pd = (await pf.command(OP.ALLOC_PD)).output.getUint32(8);

  /** Registers `length` bytes at pages that do not follow each other. */
  const register = async (length: number, change: (view: DataView) => void = () => {}) => {
    const count = Math.ceil(length / PAGE);
    const pages = Array.from({ length: count }, () => {
      pf.allocate();
      return pf.allocate();
    });
    const octwords = Math.ceil(count / 2);
    const input = new Uint8Array(272 + 16 * octwords);
    const view = new DataView(input.buffer);
    view.setUint16(0, OP.CREATE_MKEY);
    view.setUint32(0x10, (1 << 8) | (1 << 10) | (1 << 11));
    view.setUint32(0x14, (0xffffff << 8) | 0x42);
    view.setUint32(0x1c, pd);
    view.setBigUint64(0x28, BigInt(length));
    view.setUint32(0x44, octwords);
    view.setUint8(0x4b, 12);
    view.setUint32(0x60, octwords);
    for (const [i, page] of pages.entries()) view.setBigUint64(272 + 8 * i, BigInt(page));
    change(view);
    const answer = await pf.send(input);
    const key = ((answer.output.getUint32(8) << 8) | 0x42) >>> 0;
    const bytes = (size: number) => {
      const all = new Uint8Array(size);
      for (const [i, page] of pages.entries())
        if (i * PAGE < size) all.set(pf.bytes(page, Math.min(PAGE, size - i * PAGE)), i * PAGE);
      return all;
    };
    const fill = (data: Uint8Array) => {
      for (const [i, page] of pages.entries()) pf.bytes(page, PAGE).set(data.subarray(i * PAGE, (i + 1) * PAGE));
    };
    return { ...answer, key, bytes, fill, pages };
  };

  const suspend = (id: number, opMod: number) => pf.command(OP.SUSPEND, opMod, [id, 0]);
  const resume = (id: number, opMod: number) => pf.command(OP.RESUME, opMod, [id, 0]);
  const query = async (id: number, flags = 0) => {
    const answer = await pf.command(OP.QUERY_STATE, 0, [id | flags, 0], { output: 64 });
    return {
      status: answer.status,
      state: answer.output.getUint32(0x0c) >>> 28,
      required: answer.output.getUint32(0x10),
      remaining: Number(answer.output.getBigUint64(0x18)),
    };
  };
  const save = async (id: number, key: number, size: number, flags = 0) => {
    const answer = await pf.command(OP.SAVE, 0, [id | flags, 0, 0, 0, key, size]);
    return { status: answer.status, size: answer.output.getUint32(8), next: answer.output.getUint32(12) };
  };
  const load = async (id: number, key: number, size: number) =>
    (await pf.command(OP.LOAD, 0, [id, 0, 0, 0, key, size])).status;
  const setMigratable = async (id: number, on = 1) => {
    const { output } = await pf.command(
      OP.QUERY_HCA_CAP,
      0x41,
      [0x80000000, 0].map((v, i) => (i === 0 ? (v | id) >>> 0 : v)),
      {
        output: 16 + 4096,
      },
    );
    const input = new Uint8Array(16 + 4096);
    const view = new DataView(input.buffer);
    view.setUint16(0, OP.SET_HCA_CAP);
    view.setUint16(6, 0x40);
    view.setUint32(8, (0x80000000 | id) >>> 0);
    input.set(new Uint8Array(output.buffer, 16, 4096), 16);
    input[16 + 16] = on << 7;
    return pf.send(input);
  };
  const vf = (index: number) => {
    const model = connectx.virtualFunctions.get(index);
    const vfFunction = host.find(`0000:00:02.${index + 1}`) as EmulatedFunction | undefined;
    if (model === undefined || vfFunction === undefined) throw new Error(`there is no VF ${index}`);
    return { model, fn: vfFunction };
  };
  const guest = (index: number): Guest => new Guest(vf(index), deferred);
  return {
    pf,
    fn,
    memory,
    connectx,
    register,
    suspend,
    resume,
    query,
    save,
    load,
    setMigratable,
    vf,
    guest,
    pd,
    deferred,
    clock,
    host,
  };
}

/** A program that uses a VF's engine, with memory of its own. */
class Guest {
  readonly memory = new MemorySpace(4 * MIB, { base: 64 * MIB });
  readonly driver: HcaDriver;
  readonly model: ConnectXVf;
  readonly interrupts: number[] = [];
  readonly ring: number;
  #producer = 0;

  constructor({ model, fn }: { model: ConnectXVf; fn: EmulatedFunction }, deferred: DeferredQueue) {
    this.model = model;
    this.driver = new HcaDriver(fn, this.memory, deferred);
    fn.irq.send = (vector) => void this.interrupts.push(vector);
    this.ring = this.driver.allocate();
  }

  register(offset: number): number {
    return this.driver.bar.read(ENGINE.BASE + offset, 4) >>> 0;
  }

  write(offset: number, value: number): void {
    this.driver.bar.write(ENGINE.BASE + offset, 4, value | 0);
  }

  start(): void {
    this.write(ENGINE.RING_LOW, this.ring);
    this.write(ENGINE.RING_HIGH, 0);
    this.write(ENGINE.RING_LOG_SIZE, 4);
    this.write(ENGINE.VECTOR, 3);
    this.write(ENGINE.CONTROL, ENGINE.CONTROL_ENABLE);
  }

  /** Puts a descriptor into the ring and rings the doorbell. Gives its address. */
  submit(opcode: number, length: number, source: number, destination: number): number {
    const at = this.ring + (this.#producer % 16) * 32;
    const view = this.driver.view(at, 32);
    view.setUint32(0, opcode, true);
    view.setUint32(4, length, true);
    view.setBigUint64(8, BigInt(source), true);
    view.setBigUint64(16, BigInt(destination), true);
    view.setBigUint64(24, 0n, true);
    this.#producer++;
    this.write(ENGINE.PRODUCER, this.#producer);
    return at;
  }

  async run(opcode: number, length: number, source: number, destination: number) {
    const at = this.submit(opcode, length, source, destination);
    await this.driver.settle();
    const view = this.driver.view(at, 32);
    return { status: view.getUint32(24, true), checksum: view.getUint32(28, true) };
  }

  /** Fills a page of the VF's own memory with a byte. */
  async store(page: number, byte: number): Promise<void> {
    const from = this.driver.allocate();
    this.driver.bytes(from, PAGE).fill(byte);
    await this.run(ENGINE.STORE, PAGE, from, page * PAGE);
  }
}

describe('a virtual function', () => {
  test('waits for its physical function, and is cut off by it', async () => {
    const { pf, guest } = await device();
    const { driver } = guest(0);
    driver.setQueue();
    expect(driver.read(0x1fc)).toBe(0x80000000);
    expect((await driver.command(OP.ENABLE_HCA)).isOurs).toBe(false);
    expect(await pf.command(OP.ENABLE_HCA, 0, [1, 0])).toMatchObject({ status: 0 });
    expect(driver.read(0x1fc)).toBe(0);
    expect(await driver.command(OP.ENABLE_HCA)).toMatchObject({ isOurs: true, status: 0 });
    await pf.command(OP.DISABLE_HCA, 0, [1, 0]);
    expect((await driver.command(OP.ALLOC_PD)).isOurs).toBe(false);
  });

  test('boots on pages that its physical function gives for it', async () => {
    const { pf, guest, vf } = await device();
    await pf.command(OP.ENABLE_HCA, 0, [1, 0]);
    const { driver } = guest(0);
    driver.setQueue();
    await driver.command(OP.ENABLE_HCA);
    const missing = (await pf.command(0x107, 2, [1, 0])).output.getUint32(12);
    await pf.givePages(missing, 1);
    expect(await driver.command(0x102, 0, [0, 0, 0, 0, 0, 0])).toMatchObject({ status: 0 });
    expect(vf(0).model.hca.phase).toBe('initialized');
    const { output } = await pf.command(0x108, 2, [1, 64], { output: 16 + 512 });
    expect(output.getUint32(8)).toBeLessThan(missing);
  });

  test('may name no other function, and moves none', async () => {
    const { pf, guest, register } = await device();
    await pf.command(OP.ENABLE_HCA, 0, [1, 0]);
    const { driver } = guest(0);
    driver.setQueue();
    await driver.command(OP.ENABLE_HCA);
    expect(await driver.command(0x107, 1, [2, 0])).toMatchObject({ status: 0x3 });
    expect(await driver.command(OP.QUERY_HCA_CAP, 1, [0x80000002, 0], { output: 4112 })).toMatchObject({ status: 0x3 });
    const missing = (await pf.command(0x107, 2, [1, 0])).output.getUint32(12);
    await pf.givePages(missing, 1);
    await driver.command(0x102, 0, [0, 0, 0, 0, 0, 0]);
    expect(await driver.command(OP.SUSPEND, 0, [2, 0])).toMatchObject({ status: 0x2 });
    expect((await register(PAGE)).status).toBe(0);
  });

  test('goes with SR-IOV', async () => {
    const { fn, connectx, pf } = await device();
    await fn.sriov?.disable();
    expect(connectx.virtualFunctions.size).toBe(0);
    // The firmware knows each that can be: it is enabled before it appears.
    expect(await pf.command(OP.ENABLE_HCA, 0, [4, 0])).toMatchObject({ status: 0 });
    expect(await pf.command(OP.ENABLE_HCA, 0, [5, 0])).toMatchObject({ status: 0x3 });
  });
});

describe('the engine', () => {
  let guest: Guest;
  beforeEach(async () => {
    guest = (await device()).guest(0);
    guest.start();
  });

  test('copies, checks and interrupts', async () => {
    const { driver } = guest;
    const [from, to] = [driver.allocate(), driver.allocate()];
    for (let i = 0; i < 32; i++) driver.bytes(from, PAGE)[i] = i;
    const { status, checksum } = await guest.run(ENGINE.COPY | ENGINE.INTERRUPT, 32, from, to);
    expect(status).toBe(ENGINE.DONE);
    // RFC 3720, B.4: 32 bytes of incrementing 00..1f.
    expect(checksum).toBe(0x46dd794e);
    expect(driver.bytes(to, PAGE)).toEqual(driver.bytes(from, PAGE));
    expect(guest.interrupts).toEqual([3]);
    expect([ENGINE.COMPLETED, ENGINE.BYTES_LOW, ENGINE.INTERRUPTS].map((r) => guest.register(r))).toEqual([1, 32, 1]);
  });

  test('keeps what is stored in its own memory', async () => {
    await guest.store(2, 0x5a);
    const to = guest.driver.allocate();
    expect((await guest.run(ENGINE.FETCH, PAGE, 2 * PAGE, to)).status).toBe(ENGINE.DONE);
    expect(guest.driver.bytes(to, PAGE).every((byte) => byte === 0x5a)).toBe(true);
  });

  test.each([
    ['an unknown opcode', 9, PAGE, 0],
    ['no length', ENGINE.COPY, 0, 0],
    ['more than a descriptor moves', ENGINE.COPY, MIB + 1, 0],
    ['the end of its memory', ENGINE.FETCH, PAGE, 63 * PAGE + 1],
  ])('refuses %s, and goes on', async (_name, opcode, length, source) => {
    const to = guest.driver.allocate();
    expect((await guest.run(opcode, length, source, to)).status).toBe(ENGINE.REFUSED);
    expect(guest.register(ENGINE.FAILED)).toBe(1);
    await guest.store(1, 1);
    expect(guest.register(ENGINE.COMPLETED)).toBe(1);
  });

  test('stands still where memory does not answer, until it is enabled again', async () => {
    await guest.run(ENGINE.COPY, PAGE, 0x10, 0x20);
    expect(guest.register(ENGINE.STATUS)).toBe(ENGINE.STATUS_ERROR);
    expect(guest.register(ENGINE.CONSUMER)).toBe(0);
  });

  test('has registers that are read-only, and narrow accesses that do nothing', () => {
    guest.write(ENGINE.COMPLETED, 77);
    guest.write(ENGINE.ID, 77);
    guest.driver.bar.write(ENGINE.BASE + ENGINE.SCRATCH, 2, 77);
    guest.write(ENGINE.SCRATCH + 4, 0x1234);
    expect([ENGINE.COMPLETED, ENGINE.ID, ENGINE.SCRATCH, ENGINE.SCRATCH + 4].map((r) => guest.register(r))).toEqual([
      0,
      ENGINE.ID_VALUE,
      0,
      0x1234,
    ]);
  });
});

describe('memory keys', () => {
  test.each<[string, (view: DataView) => void, number]>([
    ['another access mode', (view) => view.setUint32(0x10, 2 << 8), 0x3],
    ['a key that is free', (view) => view.setUint32(0x10, (1 << 30) | (1 << 8)), 0x3],
    ['a domain that there is not', (view) => view.setUint32(0x1c, 99), 0x5],
    ['pages that do not reach', (view) => view.setBigUint64(0x28, BigInt(9 * PAGE)), 0x3],
    ['two counts that differ', (view) => view.setUint32(0x60, 1), 0x3],
    ['a page inside a page', (view) => view.setBigUint64(272, 0x1008n), 0x3],
    ['no length', (view) => view.setBigUint64(0x28, 0n), 0x3],
  ])('%s is refused', async (_name, change, status) => {
    const { register, connectx } = await device();
    expect((await register(3 * PAGE, change)).status).toBe(status);
    expect(connectx.hca.memoryKeys.size).toBe(0);
  });

  test('are given back', async () => {
    const { register, pf, connectx } = await device();
    const { key } = await register(PAGE);
    expect(await pf.command(OP.DESTROY_MKEY, 0, [key >>> 8, 0])).toMatchObject({ status: 0 });
    expect(await pf.command(OP.DESTROY_MKEY, 0, [key >>> 8, 0])).toMatchObject({ status: 0x5 });
    expect(connectx.hca.memoryKeys.size).toBe(0);
  });
});

describe('suspending', () => {
  test('needs a function that is migratable, which only its owner says', async () => {
    const { suspend, setMigratable, query } = await device();
    expect(await suspend(1, 0)).toMatchObject({ status: 0x9 });
    expect(await setMigratable(1)).toMatchObject({ status: 0 });
    expect(await suspend(1, 0)).toMatchObject({ status: 0 });
    expect((await query(1)).status).toBe(0);
  });

  test('goes through its halves in order, by the numbers that SUSPEND and RESUME do not share', async () => {
    const { suspend, resume, setMigratable } = await device();
    await setMigratable(1);
    expect(await suspend(1, 1)).toMatchObject({ status: 0x9 });
    expect(await suspend(1, 0)).toMatchObject({ status: 0 });
    expect(await suspend(1, 0)).toMatchObject({ status: 0x9 });
    expect(await resume(1, 0)).toMatchObject({ status: 0x9 });
    expect(await suspend(1, 1)).toMatchObject({ status: 0 });
    expect(await resume(1, 1)).toMatchObject({ status: 0x9 });
    expect(await resume(1, 0)).toMatchObject({ status: 0 });
    expect(await resume(1, 1)).toMatchObject({ status: 0 });
    expect(await suspend(7, 0)).toMatchObject({ status: 0x5 });
    expect(await suspend(1, 2)).toMatchObject({ status: 0x3 });
  });

  test('as an initiator lets nothing start, and resuming starts what waited', async () => {
    const { suspend, resume, setMigratable, guest: make } = await device();
    await setMigratable(1);
    const guest = make(0);
    guest.start();
    await suspend(1, 0);
    await guest.store(1, 9);
    expect(guest.register(ENGINE.COMPLETED)).toBe(0);
    await resume(1, 1);
    await guest.driver.settle();
    expect(guest.register(ENGINE.COMPLETED)).toBe(1);
  });

  test('as a responder lets nothing change', async () => {
    const { suspend, setMigratable, guest: make } = await device();
    await setMigratable(1);
    const guest = make(0);
    guest.write(ENGINE.SCRATCH, 1);
    await suspend(1, 0);
    guest.write(ENGINE.SCRATCH, 2);
    await suspend(1, 1);
    guest.write(ENGINE.SCRATCH, 3);
    expect(guest.register(ENGINE.SCRATCH)).toBe(2);
  });
});

describe('saving and loading', () => {
  const moving = async (options: ConnectXOptions = {}) => {
    const made = await device(options);
    await made.setMigratable(1);
    await made.setMigratable(2);
    const source = made.guest(0);
    source.start();
    const stop = async (id: number) => {
      await made.suspend(id, 0);
      await made.suspend(id, 1);
    };
    const run = async (id: number) => {
      await made.resume(id, 0);
      await made.resume(id, 1);
    };
    return { ...made, source, stop, run };
  };

  test('a stopped function moves whole: registers, memory and what software has made', async () => {
    const { pf, source, stop, run, register, query, save, load, vf, guest } = await moving();
    await pf.command(OP.ENABLE_HCA, 0, [1, 0]);
    source.driver.setQueue();
    await source.driver.command(OP.ENABLE_HCA);
    for (const page of [0, 5, 63]) await source.store(page, 0x10 + page);
    source.write(ENGINE.SCRATCH, 0xfeed);
    await stop(1);
    const { required, remaining } = await query(1);
    expect(remaining).toBe(required);
    const buffer = await register(required);
    expect(await save(1, buffer.key, required)).toEqual({ status: 0, size: required, next: 0 });
    await stop(2);
    expect(await load(2, buffer.key, required)).toBe(0);
    await run(2);
    const target = guest(1);
    for (const page of [0, 5, 63])
      expect(vf(1).model.memory.page(page)).toEqual(new Uint8Array(PAGE).fill(0x10 + page));
    expect([ENGINE.SCRATCH, ENGINE.COMPLETED, ENGINE.CONSUMER].map((r) => target.register(r))).toEqual([0xfeed, 3, 3]);
    expect(vf(1).model.hca.phase).toBe('enabled');
  });

  test('increments bring what changed since the image before, in any number', async () => {
    const { source, stop, register, query, save, load, vf } = await moving();
    await source.store(1, 1);
    const { required } = await query(1);
    const images: { key: number; size: number }[] = [];
    const step = async (flags: number, bytes: number) => {
      const { key } = await register(bytes);
      const saved = await save(1, key, bytes, flags);
      expect(saved.status).toBe(0);
      images.push({ key, size: saved.size });
    };
    await step(TRACK, required);
    expect(await query(1, INCREMENTAL)).toMatchObject({ status: 0, state: 2, required: 0 });
    await source.store(2, 2);
    const first = await query(1, INCREMENTAL);
    expect(first.state).toBe(3);
    expect(first.required).toBeLessThan(required + PAGE);
    await step(INCREMENTAL | TRACK, first.required);
    await source.store(1, 3);
    await source.store(3, 4);
    await stop(1);
    await step(INCREMENTAL, (await query(1, INCREMENTAL)).required);
    await stop(2);
    for (const { key, size } of images) expect(await load(2, key, size)).toBe(0);
    const bytes = (page: number) => vf(1).model.memory.page(page)[0];
    expect([1, 2, 3].map(bytes)).toEqual([3, 2, 4]);
    // An increment that does not come next is refused.
    expect(await load(2, images[1]?.key ?? 0, images[1]?.size ?? 0)).toBe(0x3);
  });

  test('a large state goes in chunks, each of which is loaded when it comes', async () => {
    const { source, stop, register, query, save, load, vf } = await moving({ vfMemory: 4096 * PAGE });
    for (let page = 0; page < 2600; page++)
      vf(0).model.memory.write(page * PAGE, new Uint8Array(PAGE).fill(page % 251));
    await source.store(4095, 7);
    await stop(1);
    await stop(2);
    const { required, remaining } = await query(1, CHUNK);
    expect(required).toBe(8 * MIB);
    expect(remaining).toBeGreaterThan(10 * MIB);
    const { key } = await register(required);
    let next = required;
    let total = 0;
    for (let i = 0; next !== 0; i++) {
      const saved = await save(1, key, next);
      expect(saved.status).toBe(0);
      total += saved.size;
      expect(await load(2, key, saved.size)).toBe(0);
      next = saved.next;
      expect(i).toBeLessThan(3);
    }
    expect(total).toBeGreaterThan(2601 * PAGE);
    for (const page of [0, 1, 2000, 2599, 4095])
      expect(vf(1).model.memory.page(page)).toEqual(vf(0).model.memory.page(page));
  });

  test('what must not be is refused', async () => {
    const { source, stop, register, query, save, load, run } = await moving();
    await source.store(1, 1);
    const { required } = await query(1);
    const { key } = await register(required);
    // Running, without tracking.
    expect((await save(1, key, required)).status).toBe(0x9);
    expect((await save(1, key, required, INCREMENTAL)).status).toBe(0x9);
    expect((await query(1, INCREMENTAL)).status).toBe(0x9);
    await stop(1);
    // Tracking of what stands still.
    expect((await save(1, key, required, TRACK)).status).toBe(0x9);
    expect((await save(1, key + 1, required)).status).toBe(0x3);
    expect((await save(1, key, 64)).status).toBe(0x3);
    expect((await save(1, key, required + PAGE * 64)).status).toBe(0x3);
    expect((await save(1, key, required)).status).toBe(0);
    // Into one that runs.
    expect(await load(2, key, required)).toBe(0x9);
    await stop(2);
    expect(await load(2, key, required - 8)).toBe(0x3);
    expect(await load(2, key, required)).toBe(0);
    await run(2);
  });

  test('a changed byte of the head is noticed, and the function as it was', async () => {
    const { source, stop, register, query, save, load, vf, guest } = await moving();
    await source.store(1, 1);
    await stop(1);
    const { required } = await query(1);
    const buffer = await register(required);
    await save(1, buffer.key, required);
    const image = buffer.bytes(required);
    const other = guest(1);
    other.start();
    await other.store(9, 9);
    await stop(2);
    const headLength = new DataView(image.buffer).getUint32(0x28, true);
    for (let at = 0; at < headLength; at += 3) {
      const wrong = image.slice();
      wrong[at] = (wrong[at] ?? 0) ^ 0x10;
      buffer.fill(wrong);
      expect(await load(2, buffer.key, required)).toBe(0x3);
    }
    expect(vf(1).model.memory.page(9)[0]).toBe(9);
  });

  test('giving up ends the tracking', async () => {
    const { register, query, save } = await moving();
    const { required } = await query(1);
    const { key } = await register(required);
    await save(1, key, required, TRACK);
    expect(await save(1, key, 0)).toEqual({ status: 0, size: 0, next: 0 });
    expect((await query(1, INCREMENTAL)).status).toBe(0x9);
  });

  test('when all begins anew, the state says so and the next increment has everything', async () => {
    const { source, register, query, save, vf } = await moving();
    await source.store(1, 1);
    const { required } = await query(1);
    const { key } = await register(required + PAGE);
    await save(1, key, required, TRACK);
    vf(0).model.migration.startAnew();
    const again = await query(1, INCREMENTAL);
    expect([again.state, again.required]).toEqual([4, required]);
    expect((await save(1, key, required, INCREMENTAL | TRACK)).size).toBe(required);
    expect((await query(1, INCREMENTAL)).state).toBe(2);
  });

  test('a reset lets it run, with nothing of what it was', async () => {
    const { source, stop, vf } = await moving();
    await source.store(1, 1);
    await stop(1);
    vf(0).model.reset();
    expect([vf(0).model.migration.isRunning, vf(0).model.memory.usedPages()]).toEqual([true, []]);
  });
});

describe('page trackers', () => {
  const MESSAGE = 4096;

  /** A tracker of VF 0 that reports to a queue of `receives` messages. */
  const tracked = async (ranges: [number, number][], receives = 4) => {
    const made = await device();
    const { pf, register } = made;
    const uar = (await pf.command(OP.ALLOC_UAR)).output.getUint32(8);
    const eq = new Uint8Array(280);
    const eqView = new DataView(eq.buffer);
    eqView.setUint16(0, OP.CREATE_EQ);
    eqView.setUint32(0x1c, (3 << 24) | uar);
    eqView.setBigUint64(272, BigInt(pf.allocate()));
    const eqn = (await pf.send(eq)).output.getUint32(8) & 0xff;
    const record = pf.allocate();
    const cqPage = pf.allocate();
    const cq = new Uint8Array(280);
    const cqView = new DataView(cq.buffer);
    cqView.setUint16(0, OP.CREATE_CQ);
    cqView.setUint32(0x1c, (5 << 24) | uar);
    cqView.setUint32(0x24, eqn);
    cqView.setBigUint64(0x48, BigInt(record));
    cqView.setBigUint64(272, BigInt(cqPage));
    const cqn = (await pf.send(cq)).output.getUint32(8);
    const rq = pf.allocate();
    const createPair = async (own: boolean) => {
      const input = new Uint8Array(280);
      const view = new DataView(input.buffer);
      view.setUint16(0, OP.CREATE_QP);
      view.setUint32(0x18, 3 << 11);
      view.setUint32(0x1c, made.pd);
      view.setUint32(0x20, (own ? 2 << 19 : 0) | (1 << 15));
      view.setUint32(0x24, uar);
      if (own) {
        view.setUint32(0x18 + 0x9c, cqn);
        view.setBigUint64(0x18 + 0xa0, BigInt(record + 8));
        view.setBigUint64(272, BigInt(rq));
      } else view.setUint32(0x18 + 0xac, 3 << 24);
      return (await pf.send(input)).output.getUint32(8);
    };
    const step = async (opcode: number, qpn: number, remote = 0) => {
      const input = new Uint8Array(272);
      const view = new DataView(input.buffer);
      view.setUint16(0, opcode);
      view.setUint32(8, qpn);
      view.setUint32(0x18 + 0x14, remote);
      return (await pf.send(input)).status;
    };
    const [host, firmware] = [await createPair(true), await createPair(false)];
    expect(await step(0x502, host)).toBe(0);
    expect(await step(0x503, host, firmware)).toBe(0);
    expect(await step(0x502, firmware)).toBe(0);
    expect(await step(0x503, firmware, host)).toBe(0);
    expect(await step(0x504, firmware)).toBe(0);
    const buffer = await register(4 * MESSAGE);
    let posted = 0;
    const post = (count: number) => {
      for (let i = 0; i < count; i++, posted++) {
        const view = pf.view(rq + (posted % 4) * 16, 16);
        view.setUint32(0, MESSAGE);
        view.setUint32(4, buffer.key);
        view.setBigUint64(8, BigInt((posted % 4) * MESSAGE));
      }
      pf.view(record + 8, 4).setUint32(0, posted);
    };
    post(receives);
    const object = new Uint8Array(64 + 16 * ranges.length);
    const view = new DataView(object.buffer);
    view.setUint16(0, OP.CREATE_OBJECT);
    view.setUint16(6, 0x46);
    view.setUint16(0x10 + 0x0a, 1);
    view.setUint32(0x10 + 0x10, (1 << 24) | (32 << 16) | (12 << 8) | 12);
    view.setUint32(0x10 + 0x14, firmware);
    view.setUint32(0x10 + 0x18, ranges.length);
    for (const [i, [start, length]] of ranges.entries()) {
      view.setBigUint64(64 + 16 * i, BigInt(start));
      view.setBigUint64(72 + 16 * i, BigInt(length));
    }
    const created = await pf.send(object);
    const id = created.output.getUint32(8);
    const report = async (start: number, length: number) => {
      const input = new Uint8Array(64);
      const modify = new DataView(input.buffer);
      modify.setUint16(0, OP.MODIFY_OBJECT);
      modify.setUint16(6, 0x46);
      modify.setUint32(8, id);
      modify.setBigUint64(0x10, 3n);
      modify.setUint32(0x20, 1 << 28);
      modify.setBigUint64(0x30, BigInt(start));
      modify.setBigUint64(0x38, BigInt(length));
      const answer = await pf.send(input);
      await pf.settle();
      return answer;
    };
    let consumer = 0;
    /** Takes completions: page addresses and the state that each came with. */
    const take = () => {
      const messages: { state: number; pages: number[] }[] = [];
      for (;;) {
        const entry = pf.view(cqPage + (consumer % 32) * 64, 64);
        if (entry.getUint8(0x3f) === 0 || (entry.getUint8(0x3f) & 1) !== (Math.floor(consumer / 32) & 1))
          return messages;
        const bytes = entry.getUint32(0x2c);
        const index = entry.getUint16(0x3c) % 4;
        const data = new DataView(buffer.bytes(4 * MESSAGE).buffer, index * MESSAGE, MESSAGE);
        const pages = Array.from({ length: bytes / 8 }, (_, i) => Number(data.getBigUint64(8 * i)));
        messages.push({ state: entry.getUint32(0x24) >>> 28, pages });
        entry.setUint8(0x3f, 0);
        consumer++;
        pf.view(record, 4).setUint32(0, consumer);
      }
    };
    const guest = made.guest(0);
    guest.start();
    return { ...made, guest, id, created, report, take, post, eqn, uar, cqn, host, firmware };
  };
  const BASE = 64 * MIB;

  test('report each page that was written, once, and then that it is all', async () => {
    const { guest, report, take } = await tracked([[BASE, 4 * MIB]]);
    const [from, to] = [guest.driver.allocate(), guest.driver.allocate()];
    await guest.run(ENGINE.COPY, PAGE, from, to);
    expect((await report(BASE, 4 * MIB)).status).toBe(0);
    const messages = take();
    // The copy, and the descriptor that was marked as done.
    expect(messages.flatMap(({ pages }) => pages).sort()).toEqual([guest.ring, to].sort());
    expect(messages.at(-1)).toEqual({ state: 0, pages: [] });
    await report(BASE, 4 * MIB);
    expect(take()).toEqual([{ state: 0, pages: [] }]);
  });

  test('see every write of the function, its events and answers too', async () => {
    const { guest, report, take, pf } = await tracked([[BASE, 4 * MIB]]);
    await pf.command(OP.ENABLE_HCA, 0, [1, 0]);
    guest.driver.setQueue();
    await guest.driver.command(OP.ENABLE_HCA);
    await report(BASE, 4 * MIB);
    expect(take().flatMap(({ pages }) => pages)).toEqual([guest.driver.queue]);
  });

  test('know nothing outside their ranges, nor before a range that is asked for', async () => {
    const { guest, report, take } = await tracked([[BASE + 2 * MIB, MIB]]);
    const from = guest.driver.allocate();
    await guest.run(ENGINE.COPY, PAGE, from, BASE + 2 * MIB + 0x5800);
    await guest.run(ENGINE.COPY, 8, from, BASE + 3 * MIB);
    await report(BASE + 2 * MIB, 0x6000);
    expect(take().flatMap(({ pages }) => pages)).toEqual([BASE + 2 * MIB + 0x5000]);
    await report(BASE + 2 * MIB, MIB);
    expect(take().flatMap(({ pages }) => pages)).toEqual([BASE + 2 * MIB + 0x6000]);
  });

  test('wait for a receive to be posted', async () => {
    const { guest, report, take, post, clock, pf } = await tracked([[BASE, 4 * MIB]], 0);
    await guest.store(1, 1);
    await report(BASE, 4 * MIB);
    expect(take()).toEqual([]);
    post(4);
    for (let i = 0; i < 3; i++) {
      clock.advance(2);
      await pf.settle();
    }
    expect(take().at(-1)).toEqual({ state: 0, pages: [] });
  });

  test('fail for good when their connection does', async () => {
    const { report, id, pf, host, guest } = await tracked([[BASE, 4 * MIB]]);
    expect(await pf.command(OP.DESTROY_QP, 0, [host, 0])).toMatchObject({ status: 0 });
    await guest.store(1, 1);
    await report(BASE, 4 * MIB);
    const { output } = await pf.command(OP.QUERY_OBJECT, 0x46, [id, 0], { output: 64 });
    expect(output.getUint32(0x20) >>> 28).toBe(2);
  });

  test('one for a function, of known objects only, and gone when destroyed', async () => {
    const { id, pf, connectx, firmware, guest, cqn } = await tracked([[BASE, 4 * MIB]]);
    expect(await pf.command(OP.DESTROY_QP, 0, [firmware, 0])).toMatchObject({ status: 0x9 });
    expect(await pf.command(OP.DESTROY_CQ, 0, [cqn, 0])).toMatchObject({ status: 0x9 });
    expect(await pf.command(OP.DESTROY_OBJECT, 0x46, [id + 1, 0])).toMatchObject({ status: 0x5 });
    expect(await pf.command(OP.DESTROY_OBJECT, 0x47, [id, 0])).toMatchObject({ status: 0x3 });
    expect(await pf.command(OP.DESTROY_OBJECT, 0x46, [id, 0])).toMatchObject({ status: 0 });
    expect(connectx.hca.trackers.size).toBe(0);
    await guest.store(1, 1);
    expect(await pf.command(OP.DESTROY_QP, 0, [firmware, 0])).toMatchObject({ status: 0 });
  });
});
