/** A function moves between servers under load. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeFd, memfdCreate, mmap, socketpair } from '@vfio/native';
import { VfioUserClient, VfioUserServer } from '@vfio/vfio-user';
import { afterEach, describe, expect, test } from 'vitest';
import { mlx5Functions } from '../src/mlx5.js';
import { type LoadSide, MovingLoad } from '../src/moving-load.js';
import { seeded } from '../src/seeded.js';

const IOVA = 0x40000000n;
const SIZE = 1 << 20;

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

/** A ConnectX of its own, one function of it served. */
async function serveOne() {
  const functions = await mlx5Functions();
  undo.push(() => functions.close());
  const folder = mkdtempSync(join(tmpdir(), 'vfio-move-'));
  undo.push(() => rmSync(folder, { recursive: true }));
  const server = new VfioUserServer(functions.devices[0]!, { onWarning: () => {} });
  undo.push(() => server.close());
  const path = join(folder, 'socket');
  await server.listen(path);
  const client = await VfioUserClient.connect(path);
  undo.push(() => client.close());
  return { server, client };
}

/** How the memory of the two sides is had. */
const MEMORY = {
  'memory of its own at each side': async (clients: readonly VfioUserClient[]) =>
    Promise.all(clients.map(async (client) => (await client.dmaAlloc({ iova: IOVA, size: SIZE })).bytes)),
  'memory that is reached by messages': async (clients: readonly VfioUserClient[]) =>
    Promise.all(
      clients.map(async (client) => (await client.dmaAlloc({ iova: IOVA, size: SIZE, messagesOnly: true })).bytes),
    ),
  'the same memory at both': async (clients: readonly VfioUserClient[]) => {
    const fd = memfdCreate('both', { size: SIZE });
    undo.push(() => closeFd(fd));
    const { bytes } = mmap(fd, 0, SIZE);
    const memory = { bytes, fd, fdOffset: 0 };
    for (const client of clients) {
      await client.dmaMap({ iova: IOVA, size: BigInt(SIZE), readable: true, writable: true, memory });
    }
    return clients.map(() => bytes);
  },
};

describe.each(Object.entries(MEMORY))('a virtual function of mlx5 under load, with %s', (name, give) => {
  test.each([1, 2])('loses no byte, no completion and no interrupt on its way (%i)', async (seed) => {
    const ends = [await serveOne(), await serveOne()] as const;
    const memories = await give(ends.map(({ client }) => client));
    const sides: LoadSide[] = ends.map(({ client }, index) => ({ client, iova: IOVA, bytes: memories[index]! }));
    const random = seeded(seed);
    for (let at = 0; at < SIZE; at += 64) memories[0]![at] = Math.floor(random() * 256);
    const load = new MovingLoad(sides, random);
    await load.start();
    const running = load.run();
    while (load.completed < 50) await new Promise((resolve) => setTimeout(resolve, 1));
    const [a, b] = socketpair();
    const [report, taken] = await Promise.all([
      ends[0].server.moveOut({ fd: a }, { maxRounds: 5 }),
      ends[1].server.moveIn({ fd: b }),
    ]);
    const before = load.completed;
    while (load.completed < before + 50)
      await Promise.race([running, new Promise((resolve) => setTimeout(resolve, 1))]);
    load.stop();
    await running;
    expect(load.side).toBe(1);
    expect(await load.counters()).toEqual({ completed: load.completed, failed: 0, interrupts: load.batches });
    expect(load.interrupts.signals).toBe(load.batches);
    const isShared = name.startsWith('the same');
    expect(report.sharedBytes).toBe(isShared ? SIZE : 0);
    expect(taken.memoryBytes).toBe(report.memoryBytes);
    if (isShared) expect(report.memoryBytes).toBe(0);
    else expect(report.memoryBytes).toBeGreaterThanOrEqual(SIZE);
  });
});
