import { PCI_COMMAND, PCI_COMMAND_INTX_DISABLE } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { CC, CSTS, NvmeController, NVME_REG as REG } from '../src/index.js';
import { nvme } from './helpers/nvme-setup.js';
import { manualHost, read32, setCommand, setMaster } from './helpers/setup.js';

describe('registers', () => {
  test.each([
    ['CAP low: queue entries, contiguous queues, time-out', REG.CAP, 0x140103ff],
    ['CAP high: stride 0, NVM command set, pages of 4 to 64 KiB', REG.CAP + 4, 0x00400020],
    ['VS: 1.4.0', REG.VS, 0x00010400],
    ['CC', REG.CC, 0],
    ['CSTS', REG.CSTS, 0],
    ['AQA', REG.AQA, 0],
    ['CMBLOC', REG.CMBLOC, 0],
    ['CMBSZ', REG.CMBSZ, 0],
  ])('%s', (_name, offset, value) => {
    const { fn } = nvme();
    expect(read32(fn.open(0), offset)).toBe(value);
  });

  test.each([REG.CAP, REG.CAP + 4, REG.VS, REG.CSTS, REG.CMBLOC, 0x18, 0x20, 0xf00])(
    'register 0x%s is read only',
    (offset) => {
      const { fn } = nvme();
      const bar = fn.open(0);
      const before = bar.read(offset, 4);
      bar.write(offset, 4, -1);
      expect(bar.read(offset, 4)).toBe(before);
    },
  );

  test('queue addresses are 64 bits, page aligned; sizes are 12 bits', () => {
    const { fn } = nvme();
    const bar = fn.open(0);
    for (const offset of [REG.ASQ, REG.ASQ + 4, REG.ACQ, REG.ACQ + 4, REG.AQA]) bar.write(offset, 4, -1);
    expect([REG.ASQ, REG.ASQ + 4, REG.ACQ, REG.ACQ + 4, REG.AQA].map((o) => read32(bar, o))).toEqual([
      0xfffff000, 0xffffffff, 0xfffff000, 0xffffffff, 0x0fff0fff,
    ]);
  });

  test('INTMS sets and INTMC clears mask bits, and both read the mask', () => {
    const { fn } = nvme();
    const bar = fn.open(0);
    bar.write(REG.INTMS, 4, 0x0f);
    bar.write(REG.INTMC, 4, 0x03);
    expect([bar.read(REG.INTMS, 4), bar.read(REG.INTMC, 4)]).toEqual([0x0c, 0x0c]);
  });

  test('narrow reads give a part of the register, narrow writes do nothing', () => {
    const { fn } = nvme();
    const bar = fn.open(0);
    expect([bar.read(REG.VS + 1, 1), bar.read(REG.VS + 2, 2)]).toEqual([4, 1]);
    bar.write(REG.CC, 1, 1);
    bar.write(REG.CC, 2, 1);
    expect(bar.read(REG.CC, 4)).toBe(0);
  });

  test('doorbells read 0', () => {
    const { fn } = nvme();
    expect(fn.open(0).read(REG.DOORBELLS, 4)).toBe(0);
  });
});

describe('enabling', () => {
  test('becomes ready after the access, not in it', async () => {
    const { driver, fn } = nvme();
    const bar = fn.open(0);
    bar.write(REG.AQA, 4, 0x00010001);
    bar.write(REG.CC, 4, 0x00460001);
    expect(driver.status).toBe(0);
    await driver.settle();
    expect(driver.status).toBe(CSTS.RDY);
  });

  test.each([
    ['a page size beyond 64 KiB', { cc: 0x00460000 | (5 << 7) }],
    ['another command set', { cc: 0x00460000 | (1 << 4) }],
    ['another arbitration', { cc: 0x00460000 | (1 << 11) }],
    ['an admin submission queue of one entry', { sqSize: 1 }],
    ['an admin completion queue of one entry', { cqSize: 1 }],
  ])('with %s is fatal', async (_name, options) => {
    const { driver } = nvme();
    await driver.enable(options);
    expect(driver.status).toBe(CSTS.CFS);
    await driver.disable();
    await driver.settle();
    expect(driver.status).toBe(0);
    await driver.enable();
    expect(driver.status).toBe(CSTS.RDY);
  });

  test.each([1, 4])('works with pages of 4 KiB << %i, with queues aligned to them', async (mps) => {
    const { driver } = nvme();
    const cc = 0x00460000 | (mps << 7);
    await driver.enable({ cc, alignment: 4096 << mps });
    expect(driver.status).toBe(CSTS.RDY);
    // A data page is larger now: the second half of the data needs no second pointer.
    const data = driver.allocate(2, 8192);
    expect(await driver.admin({ opcode: 6, prp1: data + 4096, dwords: { 10: 1 } })).toMatchObject({ status: 0 });
    expect(driver.bytes(data + 4096, 2)[0]).toBe(0x36);
    await driver.disable();
    driver.allocate(1, 4096 << mps);
    await driver.enable({ cc });
    expect(driver.status).toBe(CSTS.CFS);
  });

  test('page size, command set and arbitration keep still while enabled', async () => {
    const { driver, fn } = nvme();
    await driver.enable();
    fn.open(0).write(REG.CC, 4, 0x00460001 | (3 << 7) | (1 << 11) | (1 << 4));
    expect(fn.open(0).read(REG.CC, 4)).toBe(0x00460001);
  });

  test('queue registers keep still while enabled', async () => {
    const { driver, fn } = nvme();
    await driver.enable();
    const bar = fn.open(0);
    const before = [REG.AQA, REG.ASQ, REG.ACQ].map((o) => bar.read(o, 4));
    for (const offset of [REG.AQA, REG.ASQ, REG.ACQ]) bar.write(offset, 4, 0);
    expect([REG.AQA, REG.ASQ, REG.ACQ].map((o) => bar.read(o, 4))).toEqual(before);
  });
});

describe('controller reset', () => {
  test('clears ready, forgets queues and features, keeps the admin queue registers', async () => {
    const { driver, fn } = nvme();
    await driver.start();
    const bar = fn.open(0);
    const kept = [REG.AQA, REG.ASQ, REG.ACQ].map((o) => bar.read(o, 4));
    await driver.admin({ opcode: 9, dwords: { 10: 1, 11: 7 } });
    bar.write(REG.INTMS, 4, 1);
    await driver.disable();
    expect([REG.AQA, REG.ASQ, REG.ACQ].map((o) => bar.read(o, 4))).toEqual(kept);
    expect(bar.read(REG.INTMS, 4)).toBe(0);
    await driver.enable();
    expect((await driver.admin({ opcode: 10, dwords: { 10: 1 } })).result).toBe(3);
    expect(await driver.createSq(1, 4, 1)).toMatchObject({ status: 0x100 });
  });

  test('commands that wait for memory complete nowhere, and ready clears only when they are done', async () => {
    const { driver, fn, memory } = nvme({}, { remote: true });
    await driver.start();
    let release = (): void => {};
    const gate = new Promise<void>((resolve) => (release = resolve));
    const { read } = memory;
    memory.read = (iova, into) => gate.then(() => read.call(memory, iova, into));
    driver.put({ opcode: 0 }, 1);
    driver.ring(1);
    await driver.settle();
    fn.open(0).write(REG.CC, 4, 0);
    await driver.settle();
    expect(driver.status & CSTS.RDY).toBe(CSTS.RDY);
    release();
    await driver.settle();
    expect(driver.status & CSTS.RDY).toBe(0);
    expect(driver.reap(1)).toEqual([]);
  });

  test('a disable and enable in a row is a reset', async () => {
    const { driver, fn } = nvme();
    await driver.start();
    fn.open(0).write(REG.CC, 4, 0x00460000);
    fn.open(0).write(REG.CC, 4, 0x00460001);
    await driver.settle();
    expect(driver.status).toBe(CSTS.RDY);
    const [cq, sq] = [driver.cqs.get(0), driver.sqs.get(0)];
    if (cq === undefined || sq === undefined) throw new Error('no queues');
    Object.assign(cq, { index: 0, phase: 1 });
    sq.index = 0;
    driver.bytes(cq.base, cq.size * 16).fill(0);
    expect(await driver.createSq(1, 4, 1)).toMatchObject({ status: 0x100 });
  });

  test.each(['flr', 'bus', 'power'] as const)('%s brings every register back', async (kind) => {
    const { driver, fn } = nvme();
    await driver.start();
    const command = fn.config.read(PCI_COMMAND, 2);
    const bars = [fn.config.read(0x10, 4), fn.config.read(0x14, 4)];
    if (kind === 'flr') fn.tryResetFunction();
    else if (kind === 'bus') fn.parent?.resetSecondaryBus();
    else fn.powerCycle();
    for (const [i, bar] of bars.entries()) fn.config.write(0x10 + 4 * i, 4, bar);
    fn.config.write(PCI_COMMAND, 2, command);
    const bar = fn.open(0);
    expect([REG.CC, REG.CSTS, REG.AQA, REG.ASQ, REG.ACQ].map((o) => bar.read(o, 4))).toEqual([0, 0, 0, 0, 0]);
    await driver.start();
    expect(driver.status).toBe(CSTS.RDY);
  });
});

describe('shutdown', () => {
  test.each([CC.SHN_NORMAL, CC.SHN_ABRUPT])('notification 0x%s is processed, then complete', async (kind) => {
    const { driver, fn } = nvme();
    await driver.start();
    const bar = fn.open(0);
    bar.write(REG.CC, 4, bar.read(REG.CC, 4) | kind);
    expect(driver.status & CSTS.SHST_MASK).toBe(CSTS.SHST_OCCURRING);
    await driver.until(() => (driver.status & CSTS.SHST_MASK) === CSTS.SHST_COMPLETE, 'shut down');
  });

  test('doorbells are ignored after it, until a reset', async () => {
    const { driver } = nvme();
    await driver.start();
    await driver.shutDown();
    const cid = driver.put({ opcode: 6, dwords: { 10: 1 }, prp1: driver.allocate() });
    driver.ring();
    await driver.settle();
    expect(driver.isDone(cid)).toBe(false);
    await driver.disable();
    expect(driver.status).toBe(0);
    await driver.enable();
    expect((await driver.identify(1)).completion.status).toBe(0);
  });

  test('a controller that was shut down is ready for another user by enabling it', async () => {
    const { driver, fn } = nvme();
    await driver.start();
    await driver.shutDown();
    await driver.disable();
    await driver.enable();
    expect(fn.open(0).read(REG.CSTS, 4)).toBe(CSTS.RDY);
  });
});

describe('fatal state', () => {
  test.each([
    ['the submission queue', 'read'],
    ['the completion queue', 'write'],
  ])('%s out of reach sets CFS, and a reset clears it', async (_name, what) => {
    const { driver, fn } = nvme();
    await driver.enable();
    const bar = fn.open(0);
    await driver.disable();
    bar.write(what === 'read' ? REG.ASQ + 4 : REG.ACQ + 4, 4, 0x100);
    bar.write(REG.CC, 4, 0x00460001);
    await driver.until(() => driver.status === CSTS.RDY, 'ready');
    driver.put({ opcode: 6 });
    bar.write(REG.DOORBELLS, 4, 1);
    await driver.settle();
    expect(driver.status).toBe(CSTS.RDY | CSTS.CFS);
    await driver.disable();
    expect(driver.status).toBe(0);
  });

  test('without bus mastering commands wait, and go on with it', async () => {
    const { driver, fn } = nvme();
    await driver.enable();
    setMaster(fn, false);
    const cid = driver.put({ opcode: 6, dwords: { 10: 1 }, prp1: driver.allocate() });
    driver.ring();
    await driver.settle();
    expect(driver.isDone(cid)).toBe(false);
    expect(driver.status).toBe(CSTS.RDY);
    setMaster(fn, true);
    expect((await driver.complete(cid)).status).toBe(0);
  });
});

describe('interrupts', () => {
  test('INTx is asserted while completions are unread, held by INTMS, and STATUS shows it', async () => {
    const { driver, fn } = nvme();
    await driver.enable();
    const bar = fn.open(0);
    driver.put({ opcode: 6, dwords: { 10: 1 }, prp1: driver.allocate() });
    driver.ring();
    await driver.settle();
    expect(fn.irq.isDriving).toBe(true);
    expect(fn.config.read(6, 2) & 8).toBe(8);
    bar.write(REG.INTMS, 4, 1);
    expect(fn.irq.isDriving).toBe(false);
    bar.write(REG.INTMC, 4, 1);
    expect(fn.irq.isDriving).toBe(true);
    setCommand(fn, PCI_COMMAND_INTX_DISABLE, 0);
    expect(fn.irq.isDriving).toBe(false);
    setCommand(fn, 0, PCI_COMMAND_INTX_DISABLE);
    driver.reap();
    expect(fn.irq.isDriving).toBe(false);
  });

  test('with MSI-X each completion queue signals its own vector once per batch, after the phase bit is there', async () => {
    const { driver, fn } = nvme();
    const counts = [0, 0, 0];
    const unread: number[] = [];
    fn.interrupts.allocVectors('msix', 3);
    for (const v of [0, 1, 2])
      fn.interrupts.setVectorHandler(v, () => {
        counts[v] = (counts[v] ?? 0) + 1;
        if (v === 2) unread.push(driver.reap(1, false).length);
      });
    await driver.enable();
    await driver.createCq(1, 8, 2);
    await driver.createSq(1, 8, 1);
    const before = counts[0];
    for (let i = 0; i < 5; i++) driver.put({ opcode: 0, nsid: 1 }, 1);
    driver.ring(1);
    await driver.settle();
    expect(counts[2]).toBe(1);
    expect(unread).toEqual([5]);
    expect(counts[0]).toBe(before);
    expect(counts[1]).toBe(0);
    expect(fn.irq.isDriving).toBe(false);
  });

  test('a completion queue without interrupts signals none', async () => {
    const { driver, fn } = nvme();
    let count = 0;
    fn.interrupts.allocVectors('msix', 2);
    fn.interrupts.setVectorHandler(1, () => count++);
    await driver.enable();
    await driver.createCq(1, 8, 1, false);
    await driver.createSq(1, 8, 1);
    await driver.flush();
    expect(count).toBe(0);
  });

  test('an interrupt of a masked vector waits for the mask', async () => {
    const { driver, fn } = nvme();
    fn.interrupts.allocVectors('msix', 2);
    await driver.enable();
    await driver.createCq(1, 8, 1);
    await driver.createSq(1, 8, 1);
    await driver.flush();
    expect(fn.open(0).read(0x3000, 4)).toBe(2 | 1);
    let count = 0;
    fn.interrupts.setVectorHandler(1, () => count++);
    expect(count).toBe(1);
  });
});

describe('options', () => {
  test.each([
    { ioQueues: 0 },
    { ioQueues: 255 },
    { queueEntries: 1 },
    { queueEntries: 65537 },
    { mdts: 0 },
    { mdts: 10 },
    { namespaces: [{ size: 4095 }] },
    { namespaces: [{ size: 0 }] },
  ])('%o is refused with EINVAL', (options) => {
    const { host } = manualHost();
    expect(() => host.add({ address: '0000:00:02.0', model: (ctx) => new NvmeController(ctx, options) })).toThrow(
      expect.objectContaining({ errno: 'EINVAL' }),
    );
    expect(host.functions()).toEqual([]);
  });
});
