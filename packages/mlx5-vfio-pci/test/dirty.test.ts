import { CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import { describe, expect, test } from 'vitest';
import { report, SPACE, start, stop } from './helpers/logging.js';
import { MEMORY_BASE, MEMORY_BYTES, machine, PAGE } from './helpers/setup.js';

describe('logging', () => {
  test('reports every page that the function wrote, and no other, once', async () => {
    const { open } = await machine();
    const vf = await open(0);
    vf.start();
    expect(await start(vf)).toBe(BigInt(PAGE));
    expect(await report(vf)).toEqual([]);
    await vf.run(ENGINE.COPY, 3 * PAGE, PAGE, 20 * PAGE + 100);
    // The copy touches four pages, its descriptor the first.
    expect(await report(vf)).toEqual([0, 20, 21, 22, 23]);
    expect(await report(vf)).toEqual([]);
    await stop(vf);
  });

  test('a random program: what differs in memory was reported', async () => {
    const { open } = await machine();
    const vf = await open(0);
    vf.start();
    await start(vf);
    let seed = 12345;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return seed % below;
    };
    for (let round = 0; round < 6; round++) {
      const before = vf.memory.slice();
      for (let i = 0; i < 10; i++) {
        const length = 1 + random(9000);
        const source = random(MEMORY_BYTES - length);
        const destination = PAGE + random(MEMORY_BYTES - length - PAGE);
        if (round % 2 === 0) vf.memory.fill(round * 10 + i, source, source + 1);
        before.set(vf.memory.subarray(source, source + 1), source);
        await vf.run(ENGINE.COPY, length, source, destination);
      }
      const reported = new Set(await report(vf));
      for (let page = 1; page < MEMORY_BYTES / PAGE; page++) {
        const same = Buffer.compare(
          vf.memory.subarray(page * PAGE, (page + 1) * PAGE),
          before.subarray(page * PAGE, (page + 1) * PAGE),
        );
        if (same !== 0) expect(reported, `round ${round}`).toContain(page);
      }
    }
  });

  test('reports more than one message holds', async () => {
    const { open } = await machine();
    const vf = await open(0);
    vf.start();
    const mapped = 0x4000_0000;
    const big = new Uint8Array(mapped / 64);
    vf.device.dmaMap({
      iova: 0x1_0000_0000n,
      size: BigInt(big.length),
      readable: true,
      writable: true,
      memory: { bytes: big, fd: undefined, fdOffset: 0 },
    });
    await start(vf, [{ iova: 0x1_0000_0000n, length: BigInt(big.length) }]);
    for (let at = 0; at < big.length; at += 0x100000)
      await vf.run(ENGINE.COPY, 0x100000, 0, 0x1_0000_0000 - MEMORY_BASE + at);
    const pages = await report(vf, { iova: 0x1_0000_0000n, length: BigInt(big.length) });
    expect(pages.length).toBe(big.length / PAGE);
  });

  test('tracks in pages that the firmware can, and says which', async () => {
    const { open } = await machine();
    const vf = await open(0);
    vf.start();
    expect(await start(vf, [{ iova: SPACE.iova, length: 0x1000000n }], 0x1000000n)).toBe(0x200000n);
    await vf.run(ENGINE.COPY, 8, PAGE, 70 * PAGE);
    expect((await report(vf)).length).toBe(MEMORY_BYTES / PAGE);
  });

  test('is started once, stopped any number of times, and reports only in between', async () => {
    const { open } = await machine();
    const vf = await open(0);
    await expect(report(vf)).rejects.toMatchObject({ errno: 'EINVAL' });
    await start(vf);
    await expect(start(vf)).rejects.toMatchObject({ errno: 'EINVAL' });
    await stop(vf);
    await stop(vf);
    await expect(report(vf)).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('of more than the firmware can track is not supported', async () => {
    const { open } = await machine();
    const vf = await open(0);
    await expect(start(vf, [{ iova: 0n, length: 1n << 60n }])).rejects.toMatchObject({ errno: 'EOPNOTSUPP' });
  });

  test('that failed once cannot be believed again', async () => {
    const { open, connectx } = await machine();
    const vf = await open(0);
    await start(vf);
    for (const tracker of connectx.hca.trackers.values()) tracker.fail();
    await expect(report(vf)).rejects.toMatchObject({ errno: 'EIO' });
    await expect(report(vf)).rejects.toMatchObject({ errno: 'EIO' });
    await stop(vf);
    await start(vf);
    expect(await report(vf)).toEqual([]);
  });

  test('whose firmware dies in the middle of a report fails at once, and not after a minute', async () => {
    const { open, connectx } = await machine();
    const vf = await open(0);
    await start(vf);
    // It has taken the question, and says nothing.
    for (const tracker of connectx.hca.trackers.values()) tracker.report = async () => {};
    const message = expect.stringMatching(/everything as dirty/);
    const waiting = expect(report(vf)).rejects.toMatchObject({ errno: 'EIO', message });
    await new Promise((resolve) => setTimeout(resolve, 20));
    connectx.firmware.die(0x1, true);
    await waiting;
  });

  test('gives everything back when it stops', async () => {
    const { open, connectx, hca } = await machine();
    const vf = await open(0);
    const held = hca().pool.used;
    await start(vf);
    expect(hca().pool.used).toBeGreaterThan(held);
    await stop(vf);
    expect(hca().pool.used).toBe(held);
    const { trackers, queuePairs, completionQueues, memoryKeys, protectionDomains } = connectx.hca;
    expect([trackers, queuePairs, completionQueues, memoryKeys, protectionDomains].map(({ size }) => size)).toEqual([
      0, 0, 0, 0, 0,
    ]);
  });

  test('is the DMA space’s own where the firmware cannot', async () => {
    const { open, commands } = await machine({ connectx: { without: ['adv_virtualization'] } });
    const vf = await open(0);
    vf.start();
    await start(vf);
    await vf.run(ENGINE.COPY, 8, PAGE, 30 * PAGE);
    expect(await report(vf)).toEqual([0, 30]);
    expect(commands.some(({ name }) => name === 'CREATE_GENERAL_OBJECT')).toBe(false);
  });

  test('ends when its user closes the device, and gives everything back', async () => {
    const { open, hca, connectx } = await machine();
    const held = hca().pool.used;
    const vf = await open(0);
    await start(vf);
    await vf.device.close();
    expect(connectx.hca.trackers.size).toBe(0);
    expect(hca().pool.used).toBe(held);
  });

  test('ends with the physical function', async () => {
    const { open, bus, pf } = await machine();
    const vf = await open(0);
    await start(vf);
    const gone = bus.unbind(pf);
    await expect.poll(() => report(vf).catch(({ errno }) => errno)).toBe('ENOTCONN');
    await vf.device.close();
    await gone;
  });
});
