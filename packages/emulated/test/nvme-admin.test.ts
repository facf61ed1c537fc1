import { describe, expect, test } from 'vitest';
import { NVME_ADMIN as ADMIN, NVME_FEATURE as FEATURE, NVME_LOG as LOG, NVME_REG as REG } from '../src/index.js';
import type { CommandFields } from './helpers/nvme-driver.js';
import { MIB, nvme } from './helpers/nvme-setup.js';

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');

describe('Identify Controller', () => {
  test('has the mandatory fields', async () => {
    const { driver } = nvme({ serial: 'SN-1', model: 'A drive', firmware: '2.1', mdts: 5 });
    await driver.enable();
    const { completion, data } = await driver.identify(1);
    const v = view(data);
    expect(completion).toMatchObject({ status: 0, result: 0 });
    expect([v.getUint16(0, true), v.getUint16(2, true)]).toEqual([0x1b36, 0x1af4]);
    expect(text(data.subarray(4, 24))).toBe('SN-1'.padEnd(20));
    expect(text(data.subarray(24, 64))).toBe('A drive'.padEnd(40));
    expect(text(data.subarray(64, 72))).toBe('2.1'.padEnd(8));
    expect(data[77]).toBe(5);
    expect(v.getUint32(80, true)).toBe(0x10400);
    expect(data[111]).toBe(1);
    expect(data.subarray(512, 514)).toEqual(Uint8Array.of(0x66, 0x44));
    expect(v.getUint32(516, true)).toBe(1);
    expect(text(data.subarray(768, 1024)).replace(/\0+$/, '')).toMatch(
      /^nqn\.2014-08\.org\.nvmexpress:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    );
  });

  test.each([
    [16 * MIB, 7],
    [0, 6],
  ])('says whether there is a cache (%i bytes)', async (cacheSize, vwc) => {
    const { driver } = nvme({ cacheSize });
    await driver.enable();
    expect((await driver.identify(1)).data[525]).toBe(vwc);
  });

  test('two drives differ in serial number, NQN and namespace identifiers', async () => {
    const ids = new Set<string>();
    for (const serial of ['one', 'two']) {
      const { driver } = nvme({ serial });
      await driver.enable();
      ids.add(text((await driver.identify(1)).data.subarray(768, 1024)));
      ids.add(text((await driver.identify(0, 1)).data.subarray(104, 128)));
      ids.add(text((await driver.identify(3, 1)).data.subarray(0, 64)));
    }
    expect(ids.size).toBe(6);
  });
});

describe('Identify Namespace', () => {
  const namespaces = [{ size: 8 * MIB }, { size: 1024 * 1024 * MIB, blockSize: 4096 as const }];

  test.each([
    [1, 16384, 0],
    [2, 2 ** 28, 1],
  ])('namespace %i has %i blocks in format %i', async (nsid, blocks, format) => {
    const { driver } = nvme({ namespaces });
    await driver.enable();
    const v = view((await driver.identify(0, nsid)).data);
    for (const offset of [0, 8, 16]) expect(v.getBigUint64(offset, true)).toBe(BigInt(blocks));
    expect([v.getUint8(25), v.getUint8(26)]).toEqual([1, format]);
    expect([v.getUint8(130), v.getUint8(134)]).toEqual([9, 12]);
    expect(v.getUint8(33) & 7).toBe(1);
  });

  test('the active list names namespaces above the given one, ascending', async () => {
    const { driver } = nvme({ namespaces });
    await driver.enable();
    const list = async (after: number): Promise<number[]> => {
      const v = view((await driver.identify(2, after)).data);
      return [0, 4, 8].map((offset) => v.getUint32(offset, true));
    };
    expect(await list(0)).toEqual([1, 2, 0]);
    expect(await list(1)).toEqual([2, 0, 0]);
    expect(await list(2)).toEqual([0, 0, 0]);
  });

  test('the descriptors hold EUI-64, NGUID and UUID, as Identify Namespace does', async () => {
    const { driver } = nvme({ namespaces });
    await driver.enable();
    const { data } = await driver.identify(3, 2);
    const namespace = (await driver.identify(0, 2)).data;
    expect([data[0], data[1], data[12], data[13], data[32], data[33], data[52]]).toEqual([1, 8, 2, 16, 3, 16, 0]);
    expect(text(data.subarray(4, 12))).toBe(text(namespace.subarray(120, 128)));
    expect(text(data.subarray(16, 32))).toBe(text(namespace.subarray(104, 120)));
  });

  test.each<[string, number, number, number]>([
    ['namespace 0', 0, 0, 0x0b],
    ['a namespace beyond the last', 0, 3, 0x0b],
    ['the broadcast id', 0, 0xffffffff, 0x0b],
    ['descriptors of no namespace', 3, 3, 0x0b],
    ['a list from the top', 2, 0xfffffffe, 0x0b],
    ['an unknown structure', 0x1d, 0, 0x02],
    ['allocated namespaces, without namespace management', 0x10, 0, 0x02],
    ['controllers, without namespace management', 0x13, 0, 0x02],
  ])('%s is refused', async (_name, cns, nsid, status) => {
    const { driver } = nvme({ namespaces });
    await driver.enable();
    expect((await driver.identify(cns, nsid)).completion).toMatchObject({ status, dnr: true, more: true });
  });
});

test('an id within range that no namespace has is an invalid field, one beyond it an invalid namespace', async () => {
  const { driver } = nvme({ namespaces: [] });
  await driver.start();
  for (const [nsid, status] of [
    [1, 0x02],
    [2, 0x0b],
    [0, 0x0b],
  ] as const) {
    expect(await driver.io({ opcode: 0x02, nsid, prp1: driver.allocate() })).toMatchObject({ status, dnr: true });
    expect((await driver.identify(3, nsid)).completion).toMatchObject({ status, dnr: true });
  }
  // Identify Namespace of an inactive one is all zeros.
  const { completion, data } = await driver.identify(0, 1);
  expect([completion.status, data.every((byte) => byte === 0)]).toEqual([0, true]);
});

describe('Features', () => {
  const get = (feature: number, select = 0, dword11 = 0, nsid = 0): CommandFields => ({
    opcode: ADMIN.GET_FEATURES,
    nsid,
    dwords: { 10: feature | (select << 8), 11: dword11 },
  });
  const set = (feature: number, dword11: number, save = false, nsid = 0): CommandFields => ({
    opcode: ADMIN.SET_FEATURES,
    nsid,
    dwords: { 10: (feature | (save ? 2 ** 31 : 0)) >>> 0, 11: dword11 },
  });

  test.each<[string, number, number, number]>([
    ['arbitration', FEATURE.ARBITRATION, 3, 0x01020304],
    ['temperature threshold', FEATURE.TEMPERATURE_THRESHOLD, 343, 360],
    ['volatile write cache', FEATURE.VOLATILE_WRITE_CACHE, 1, 0],
    ['interrupt coalescing', FEATURE.INTERRUPT_COALESCING, 0, 0x0305],
    ['write atomicity', FEATURE.WRITE_ATOMICITY, 0, 1],
    ['asynchronous events', FEATURE.ASYNC_EVENT, 0, 0x11f],
    ['power management', FEATURE.POWER_MANAGEMENT, 0, 0x20],
  ])('%s has a default, takes a value, keeps the default', async (_name, feature, initial, value) => {
    const { driver } = nvme();
    await driver.enable();
    expect(await driver.admin(get(feature))).toMatchObject({ status: 0, result: initial });
    expect(await driver.admin(set(feature, value))).toMatchObject({ status: 0 });
    expect(await driver.admin(get(feature))).toMatchObject({ result: value });
    expect(await driver.admin(get(feature, 1))).toMatchObject({ result: initial });
    expect(await driver.admin(get(feature, 2))).toMatchObject({ result: initial });
  });

  test('a saved value outlives resets and power, another one does not', async () => {
    const { driver, fn } = nvme();
    await driver.enable();
    await driver.admin(set(FEATURE.ARBITRATION, 5, true));
    await driver.admin(set(FEATURE.WRITE_ATOMICITY, 1));
    expect(await driver.admin(get(FEATURE.ARBITRATION, 2))).toMatchObject({ result: 5 });
    fn.powerCycle();
    fn.config.write(4, 2, 6);
    await driver.enable();
    expect(await driver.admin(get(FEATURE.ARBITRATION))).toMatchObject({ result: 5 });
    expect(await driver.admin(get(FEATURE.WRITE_ATOMICITY))).toMatchObject({ result: 0 });
  });

  test.each<[number, number]>([
    [FEATURE.ARBITRATION, 5],
    [FEATURE.ERROR_RECOVERY, 6],
    [FEATURE.NUMBER_OF_QUEUES, 4],
  ])('capabilities of feature %i are %i', async (feature, capabilities) => {
    const { driver } = nvme();
    await driver.enable();
    expect(await driver.admin(get(feature, 3, 0, 1))).toMatchObject({ status: 0, result: capabilities });
  });

  test('number of queues: what is asked for up to what there is, and only before there are queues', async () => {
    const { driver } = nvme({ ioQueues: 4 });
    await driver.enable();
    expect(await driver.admin(get(FEATURE.NUMBER_OF_QUEUES))).toMatchObject({ result: 0x00030003 });
    expect(await driver.admin(set(FEATURE.NUMBER_OF_QUEUES, 0x00010063))).toMatchObject({ result: 0x00010003 });
    expect(await driver.createCq(2, 4)).toMatchObject({ status: 0 });
    expect(await driver.createCq(3, 4)).toMatchObject({ status: 0x101 });
    expect(await driver.admin(set(FEATURE.NUMBER_OF_QUEUES, 0))).toMatchObject({ status: 0x0c });
  });

  test('interrupt vector configuration is per vector; vector 0 is not coalesced', async () => {
    const { driver } = nvme({ ioQueues: 2 });
    await driver.enable();
    expect(await driver.admin(get(FEATURE.INTERRUPT_VECTOR, 0, 0))).toMatchObject({ result: 0x10000 });
    expect(await driver.admin(get(FEATURE.INTERRUPT_VECTOR, 0, 1))).toMatchObject({ result: 1 });
    await driver.admin(set(FEATURE.INTERRUPT_VECTOR, 0x10001));
    expect(await driver.admin(get(FEATURE.INTERRUPT_VECTOR, 0, 1))).toMatchObject({ result: 0x10001 });
    expect(await driver.admin(get(FEATURE.INTERRUPT_VECTOR, 0, 2))).toMatchObject({ result: 2 });
  });

  test('error recovery is per namespace, or for all of them', async () => {
    const { driver } = nvme({ namespaces: [{ size: MIB }, { size: MIB }] });
    await driver.enable();
    await driver.admin(set(FEATURE.ERROR_RECOVERY, 7, false, 2));
    expect(await driver.admin(get(FEATURE.ERROR_RECOVERY, 0, 0, 1))).toMatchObject({ result: 0 });
    expect(await driver.admin(get(FEATURE.ERROR_RECOVERY, 0, 0, 2))).toMatchObject({ result: 7 });
    await driver.admin(set(FEATURE.ERROR_RECOVERY, 9, false, 0xffffffff));
    expect(await driver.admin(get(FEATURE.ERROR_RECOVERY, 0, 0, 1))).toMatchObject({ result: 9 });
  });

  test('over and under temperature thresholds are apart', async () => {
    const { driver } = nvme();
    await driver.enable();
    await driver.admin(set(FEATURE.TEMPERATURE_THRESHOLD, 0x100000 | 280));
    expect(await driver.admin(get(FEATURE.TEMPERATURE_THRESHOLD, 0, 0x100000))).toMatchObject({ result: 280 });
    expect(await driver.admin(get(FEATURE.TEMPERATURE_THRESHOLD))).toMatchObject({ result: 343 });
  });

  test.each<[string, CommandFields, number]>([
    ['an unknown feature', get(0x7f), 0x02],
    ['an unknown feature to set', set(0x7f, 0), 0x02],
    ['feature 0', get(0), 0x02],
    ['an unknown selection', get(FEATURE.ARBITRATION, 4), 0x02],
    ['a power state that is not there', set(FEATURE.POWER_MANAGEMENT, 1), 0x02],
    ['a temperature sensor that is not there', get(FEATURE.TEMPERATURE_THRESHOLD, 0, 0x10000), 0x02],
    ['a threshold that is neither over nor under', set(FEATURE.TEMPERATURE_THRESHOLD, 0x200000), 0x02],
    ['errors on deallocated blocks', set(FEATURE.ERROR_RECOVERY, 0x10000, false, 1), 0x02],
    ['a namespace that is not there', get(FEATURE.ERROR_RECOVERY, 0, 0, 9), 0x0b],
    ['65536 submission queues', set(FEATURE.NUMBER_OF_QUEUES, 0xffff), 0x02],
    ['65536 completion queues', set(FEATURE.NUMBER_OF_QUEUES, 0xffff0000), 0x02],
    ['a vector that is not there', set(FEATURE.INTERRUPT_VECTOR, 9), 0x02],
    ['saving what cannot be saved', set(FEATURE.NUMBER_OF_QUEUES, 0, true), 0x10d],
    ['a namespace for a feature of the controller', set(FEATURE.ARBITRATION, 0, false, 1), 0x10f],
  ])('%s is refused', async (_name, command, status) => {
    const { driver } = nvme();
    await driver.enable();
    expect(await driver.admin(command)).toMatchObject({ status, dnr: true });
  });

  test('the write cache feature is not there without a cache', async () => {
    const { driver } = nvme({ cacheSize: 0 });
    await driver.enable();
    expect(await driver.admin(get(FEATURE.VOLATILE_WRITE_CACHE))).toMatchObject({ status: 2 });
    expect(await driver.admin(set(FEATURE.VOLATILE_WRITE_CACHE, 1))).toMatchObject({ status: 2 });
  });
});

describe('Get Log Page', () => {
  test('SMART counts commands, data, errors and power', async () => {
    const { driver, fn } = nvme();
    await driver.start();
    for (let i = 0; i < 3; i++) await driver.write(0, new Uint8Array(4096));
    await driver.read(0, 512);
    await driver.read(1 << 30, 512);
    let v = view((await driver.logPage(LOG.SMART, 512)).data);
    expect(v.getUint8(0)).toBe(0);
    expect(v.getUint16(1, true)).toBe(311);
    expect([v.getUint8(3), v.getUint8(4), v.getUint8(5)]).toEqual([100, 10, 0]);
    const counters = (): number[] => [32, 48, 64, 80, 112, 144, 160, 176].map((at) => Number(v.getBigUint64(at, true)));
    expect(counters()).toEqual([1, 1, 1, 3, 1, 0, 0, 1]);
    fn.powerCycle();
    fn.config.write(4, 2, 6);
    await driver.enable();
    v = view((await driver.logPage(LOG.SMART, 512)).data);
    expect(counters().slice(4, 6)).toEqual([2, 1]);
  });

  test('power-on hours follow the clock', async () => {
    const { driver, clock } = nvme();
    clock.advance(7.5 * 3_600_000);
    await driver.enable();
    expect(view((await driver.logPage(LOG.SMART, 512)).data).getBigUint64(128, true)).toBe(7n);
  });

  test('the error log has the newest error first, with what and where', async () => {
    const { driver } = nvme();
    await driver.start();
    await driver.admin({ opcode: 0x7f });
    const failed = await driver.read(0x12345678, 512);
    const { data } = await driver.logPage(LOG.ERROR, 192);
    const v = view(data);
    expect(v.getBigUint64(0, true)).toBe(2n);
    expect(v.getUint16(8, true)).toBe(1);
    expect(v.getUint16(10, true)).toBe(failed.completion.cid);
    expect(v.getUint16(12, true) >> 1).toBe(0x4080);
    expect(v.getUint16(14, true)).toBe(40);
    expect(v.getBigUint64(16, true)).toBe(0x12345678n);
    expect(v.getUint32(24, true)).toBe(1);
    expect(v.getBigUint64(64, true)).toBe(1n);
    expect(v.getUint16(64 + 12, true) >> 1).toBe(0x4001);
    expect(v.getBigUint64(128, true)).toBe(0n);
  });

  test('the firmware page names the running revision', async () => {
    const { driver } = nvme({ firmware: '9.9' });
    await driver.enable();
    const { data } = await driver.logPage(LOG.FIRMWARE, 512);
    expect(data[0]).toBe(1);
    expect(text(data.subarray(8, 16))).toBe('9.9     ');
  });

  test('the commands page marks what is supported and no more', async () => {
    const { driver } = nvme();
    await driver.enable();
    const v = view((await driver.logPage(LOG.COMMANDS, 4096)).data);
    const supported = (base: number): number[] =>
      Array.from({ length: 256 }, (_, i) => i).filter((i) => (v.getUint32(base + 4 * i, true) & 1) !== 0);
    expect(supported(0)).toEqual([0, 1, 2, 4, 5, 6, 8, 9, 0x0a, 0x0c, 0x80]);
    expect(supported(1024)).toEqual([0, 1, 2, 5, 8, 9, 0x0c]);
    // Format NVM changes blocks and the namespace, alone in it; Write, Write Zeroes and DSM change blocks.
    expect(v.getUint32(4 * 0x80, true)).toBe(0x10007);
    for (const opcode of [1, 8, 9]) expect(v.getUint32(1024 + 4 * opcode, true)).toBe(0x3);
    for (const opcode of supported(0)) {
      if (opcode === 0x0c) continue;
      expect(
        (await driver.admin({ opcode, nsid: 99, dwords: { 10: 0xffff, 12: 3 } })).status,
        `admin ${opcode}`,
      ).not.toBe(1);
    }
  });

  test('a part of a page is read from an offset', async () => {
    const { driver } = nvme();
    await driver.enable();
    const whole = (await driver.logPage(LOG.SMART, 512)).data.slice();
    const part = (await driver.logPage(LOG.SMART, 16, { offset: 112 })).data;
    expect([...part]).toEqual([...whole.subarray(112, 128)]);
  });

  test.each<[string, number, { nsid?: number; offset?: number }, number]>([
    ['an unknown page', 0x7f, {}, 0x109],
    ['page 0', 0, {}, 0x109],
    ['an offset that is not a dword', LOG.SMART, { offset: 2 }, 0x02],
    ['an offset past the page', LOG.SMART, { offset: 516 }, 0x02],
    ['health of one namespace', LOG.SMART, { nsid: 1 }, 0x02],
    ['health of no namespace', LOG.SMART, { nsid: 7 }, 0x0b],
    ['errors of one namespace', LOG.ERROR, { nsid: 1 }, 0x02],
    ['firmware of one namespace', LOG.FIRMWARE, { nsid: 1 }, 0x02],
    ['commands of no namespace', LOG.COMMANDS, { nsid: 7 }, 0x0b],
  ])('%s is refused', async (_name, page, options, status) => {
    const { driver } = nvme();
    await driver.enable();
    expect((await driver.logPage(page, 64, options)).completion).toMatchObject({ status, dnr: true });
  });

  test('more than a command may transfer is refused', async () => {
    const { driver } = nvme({ mdts: 1 });
    await driver.enable();
    const completion = await driver.admin({
      opcode: 2,
      prp1: driver.allocate(),
      dwords: { 10: LOG.SMART | (2048 << 16) },
    });
    expect(completion).toMatchObject({ status: 2 });
  });
});

describe('queues', () => {
  const cq = (fields: {
    id?: number;
    size?: number;
    flags?: number;
    vector?: number;
    prp1?: number;
  }): CommandFields => ({
    opcode: ADMIN.CREATE_CQ,
    prp1: fields.prp1 ?? 0x100000,
    dwords: {
      10: (fields.id ?? 1) | (((fields.size ?? 4) - 1) << 16),
      11: (fields.flags ?? 1) | ((fields.vector ?? 0) << 16),
    },
  });
  const sq = (fields: { id?: number; size?: number; flags?: number; cqId?: number; prp1?: number }): CommandFields => ({
    opcode: ADMIN.CREATE_SQ,
    prp1: fields.prp1 ?? 0x101000,
    dwords: {
      10: (fields.id ?? 1) | (((fields.size ?? 4) - 1) << 16),
      11: (fields.flags ?? 1) | ((fields.cqId ?? 1) << 16),
    },
  });

  test.each<[string, CommandFields, number]>([
    ['a completion queue 0', cq({ id: 0 }), 0x101],
    ['a completion queue beyond the last', cq({ id: 9 }), 0x101],
    ['a completion queue that is there', cq({ id: 1 }), 0x101],
    ['a completion queue of one entry', cq({ id: 2, size: 1 }), 0x102],
    ['a completion queue of too many entries', cq({ id: 2, size: 1025 }), 0x102],
    ['a completion queue in pieces', cq({ id: 2, flags: 0 }), 0x02],
    ['a vector that is not there', cq({ id: 2, vector: 9 }), 0x108],
    ['a completion queue inside a page', cq({ id: 2, prp1: 0x100010 }), 0x13],
    ['a submission queue 0', sq({ id: 0 }), 0x101],
    ['a submission queue beyond the last', sq({ id: 9 }), 0x101],
    ['a submission queue that is there', sq({ id: 1 }), 0x101],
    ['a submission queue of one entry', sq({ id: 2, size: 1 }), 0x102],
    ['a submission queue of too many entries', sq({ id: 2, size: 1025 }), 0x102],
    ['a submission queue in pieces', sq({ id: 2, flags: 0 }), 0x02],
    ['a submission queue that completes to the admin queue', sq({ id: 2, cqId: 0 }), 0x101],
    ['a submission queue that completes nowhere', sq({ id: 2, cqId: 3 }), 0x100],
    ['a submission queue inside a page', sq({ id: 2, prp1: 0x100200 }), 0x13],
    ['deleting submission queue 0', { opcode: ADMIN.DELETE_SQ, dwords: { 10: 0 } }, 0x101],
    ['deleting a submission queue that is not there', { opcode: ADMIN.DELETE_SQ, dwords: { 10: 5 } }, 0x101],
    ['deleting completion queue 0', { opcode: ADMIN.DELETE_CQ, dwords: { 10: 0 } }, 0x101],
    ['deleting a completion queue that is not there', { opcode: ADMIN.DELETE_CQ, dwords: { 10: 5 } }, 0x101],
    ['deleting a completion queue in use', { opcode: ADMIN.DELETE_CQ, dwords: { 10: 1 } }, 0x10c],
    ['an unknown command', { opcode: 0x7e }, 0x01],
    ['namespace management', { opcode: 0x0d }, 0x01],
    ['firmware download', { opcode: 0x11 }, 0x01],
    ['a fused command', { opcode: ADMIN.IDENTIFY, flags: 1, dwords: { 10: 1 } }, 0x02],
    ['an SGL', { opcode: ADMIN.IDENTIFY, flags: 0x40, dwords: { 10: 1 } }, 0x02],
  ])('%s is refused, and what is there stays', async (_name, command, status) => {
    const { driver } = nvme();
    await driver.start();
    expect(await driver.admin(command)).toMatchObject({ status, dnr: true, more: true });
    expect(await driver.flush()).toMatchObject({ status: 0 });
  });

  test('queues are not made while CC has other entry sizes than theirs', async () => {
    const { driver, fn } = nvme();
    await driver.enable({ cc: 0 });
    expect(await driver.createCq(1, 4)).toMatchObject({ status: 0x102 });
    fn.open(0).write(REG.CC, 4, 0x00460001);
    expect(await driver.createCq(1, 4)).toMatchObject({ status: 0 });
  });

  test('deleted queues can be made again', async () => {
    const { driver } = nvme();
    await driver.start();
    expect(await driver.admin({ opcode: ADMIN.DELETE_SQ, dwords: { 10: 1 } })).toMatchObject({ status: 0 });
    expect(await driver.admin({ opcode: ADMIN.DELETE_CQ, dwords: { 10: 1 } })).toMatchObject({ status: 0 });
    await driver.createCq(1, 8);
    await driver.createSq(1, 8, 1);
    expect(await driver.flush()).toMatchObject({ status: 0 });
  });

  test('deleting a submission queue waits for the commands that were fetched', async () => {
    const { driver, memory } = nvme({}, { remote: true });
    await driver.start();
    let release = (): void => {};
    const gate = new Promise<void>((resolve) => (release = resolve));
    const { write } = memory;
    const buffer = driver.allocate();
    memory.write = (iova, from) =>
      iova === buffer ? gate.then(() => write.call(memory, iova, from)) : write.call(memory, iova, from);
    const read = driver.put({ opcode: 2, nsid: 1, prp1: buffer }, 1);
    driver.ring(1);
    await driver.settle();
    const deletion = driver.put({ opcode: ADMIN.DELETE_SQ, dwords: { 10: 1 } });
    driver.ring();
    await driver.settle();
    expect(driver.isDone(deletion)).toBe(false);
    release();
    expect((await driver.complete(deletion)).status).toBe(0);
    expect(driver.reap(1).map((c) => [c.cid, c.status])).toEqual([[read, 0]]);
  });
});

describe('asynchronous events', () => {
  const request = { opcode: ADMIN.ASYNC_EVENT };

  test('four requests may wait, a fifth is refused', async () => {
    const { driver } = nvme();
    await driver.enable();
    const ids = [1, 2, 3, 4].map(() => driver.put(request));
    driver.ring();
    await driver.settle();
    for (const cid of ids) expect(driver.isDone(cid)).toBe(false);
    expect(await driver.admin(request)).toMatchObject({ status: 0x105 });
  });

  test.each([
    ['a doorbell without a queue', REG.DOORBELLS + 8 * 5, 1, 0x00],
    ['a completion doorbell without a queue', REG.DOORBELLS + 8 * 5 + 4, 1, 0x00],
    ['a tail beyond the queue', REG.DOORBELLS + 8, 16, 0x01],
    ['a tail that is there already', REG.DOORBELLS + 8, 0, 0x01],
    ['a head that is there already', REG.DOORBELLS + 12, 0, 0x01],
    ['a head past what was posted', REG.DOORBELLS + 12, 1, 0x01],
  ])('%s is told as an error event, and the write ignored', async (_name, offset, value, info) => {
    const { driver, fn } = nvme();
    await driver.start();
    const cid = driver.put(request);
    driver.ring();
    fn.open(0).write(offset, 4, value);
    expect(await driver.complete(cid)).toMatchObject({ status: 0, result: (LOG.ERROR << 16) | (info << 8) });
    // The log has an entry that blames no command.
    const entry = view((await driver.logPage(LOG.ERROR, 64)).data);
    expect([entry.getUint16(8, true), entry.getUint16(10, true)]).toEqual([0xffff, 0xffff]);
    expect(await driver.flush()).toMatchObject({ status: 0 });
  });

  test('an event waits for a request, and its type is quiet until the log is read', async () => {
    const { driver, fn } = nvme();
    await driver.start();
    fn.open(0).write(REG.DOORBELLS + 8 * 5, 4, 1);
    await driver.settle();
    expect((await driver.admin(request)).result).toBe(LOG.ERROR << 16);
    const second = driver.put(request);
    driver.ring();
    fn.open(0).write(REG.DOORBELLS + 8 * 5, 4, 1);
    await driver.settle();
    expect(driver.isDone(second)).toBe(false);
    await driver.logPage(LOG.ERROR, 64, { rae: true });
    expect(driver.isDone(second)).toBe(false);
    await driver.logPage(LOG.ERROR, 64);
    expect((await driver.complete(second)).status).toBe(0);
  });

  test.each([true, false])('heat is told exactly where it was asked for (%s)', async (asked) => {
    const { driver, controller } = nvme();
    await driver.enable();
    await driver.admin({ opcode: ADMIN.SET_FEATURES, dwords: { 10: FEATURE.ASYNC_EVENT, 11: asked ? 2 : 0 } });
    const cid = driver.put(request);
    driver.ring();
    await driver.settle();
    controller.setTemperature(350);
    await driver.settle();
    expect(driver.isDone(cid)).toBe(asked);
    const { data } = await driver.logPage(LOG.SMART, 512);
    expect([data[0], view(data).getUint16(1, true)]).toEqual([2, 350]);
    controller.setTemperature(300);
    expect((await driver.logPage(LOG.SMART, 512)).data[0]).toBe(0);
  });

  test('a waiting request is aborted, another command is not', async () => {
    const { driver } = nvme();
    await driver.enable();
    const cid = driver.put(request);
    driver.ring();
    await driver.settle();
    expect(await driver.admin({ opcode: ADMIN.ABORT, dwords: { 10: ((cid + 50) << 16) >>> 0 } })).toMatchObject({
      status: 0,
      result: 1,
    });
    expect(await driver.admin({ opcode: ADMIN.ABORT, dwords: { 10: (cid << 16) >>> 0 } })).toMatchObject({ result: 0 });
    expect(await driver.complete(cid)).toMatchObject({ status: 7 });
  });

  test('a reset forgets the requests', async () => {
    const { driver, fn } = nvme();
    await driver.enable();
    for (let i = 0; i < 4; i++) driver.put(request);
    driver.ring();
    await driver.settle();
    await driver.disable();
    await driver.enable();
    fn.open(0).write(REG.DOORBELLS + 8 * 5, 4, 1);
    await driver.settle();
    expect(driver.reap()).toEqual([]);
    const cid = driver.put(request);
    driver.ring();
    expect((await driver.complete(cid)).status).toBe(0);
  });
});

describe('Format NVM', () => {
  const format = (nsid: number, dword10: number): CommandFields => ({
    opcode: ADMIN.FORMAT_NVM,
    nsid,
    dwords: { 10: dword10 },
  });

  test('erases and changes the block size', async () => {
    const { driver } = nvme();
    await driver.start();
    await driver.write(0, new Uint8Array(4096).fill(7));
    await driver.flush();
    expect(await driver.admin(format(1, 1))).toMatchObject({ status: 0 });
    const v = view((await driver.identify(0, 1)).data);
    expect([v.getUint8(26), v.getBigUint64(0, true)]).toEqual([1, 16384n]);
    const { data } = await driver.read(0, 4096, { blockSize: 4096 });
    expect(data.every((byte) => byte === 0)).toBe(true);
  });

  test.each<[string, CommandFields, number]>([
    ['a format that is not there', format(1, 2), 0x10a],
    ['protection information', format(1, 0x20), 0x10a],
    ['cryptographic erase', format(1, 0x400), 0x02],
    ['a namespace that is not there', format(5, 0), 0x0b],
  ])('%s is refused', async (_name, command, status) => {
    const { driver } = nvme();
    await driver.enable();
    expect(await driver.admin(command)).toMatchObject({ status });
  });
});
