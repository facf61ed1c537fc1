import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeFd, eventfdCreate, eventfdRead } from '@vfio/native';
import { VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD } from '@vfio/uapi';
import { VfioUserClient, VfioUserServer } from '@vfio/vfio-user';
import { expect, test } from 'vitest';
import { mlx5Functions, mlx5Workload } from '../src/mlx5.js';
import { nvmeFunctions, nvmeWorkload } from '../src/nvme.js';
import { seeded } from '../src/seeded.js';
import { dmaAlloc, handles } from '../src/subjects.js';

const PAGE = 4096;
const IOVA = 0x100000n;
const PAGES = 256;
/** From server to server, each over a drive or an adapter of its own. */
const HANDOVERS = 4;

test.each([
  ['a ConnectX virtual function', mlx5Functions, mlx5Workload(dmaAlloc)],
  ['an NVMe virtual function', nvmeFunctions, nvmeWorkload(dmaAlloc)],
] as const)(
  '%s works on while it changes its server: each byte and each interrupt comes',
  async (_name, make, workload) => {
    const folder = await mkdtemp(join(tmpdir(), 'vfio-handover-'));
    const all = await Promise.all(Array.from({ length: HANDOVERS + 1 }, () => make()));
    const before = handles();
    const servers = all.map(({ devices }) => new VfioUserServer(devices[0]!));
    const [first] = servers;
    await first!.listen(join(folder, 'device'));
    const client = await VfioUserClient.connect(join(folder, 'device'));
    await client.write(7, 4, Uint8Array.of(6, 0));
    const bytes = await workload.map(client, IOVA, PAGES * PAGE);
    const { index, vector } = workload.interrupt!;
    const fd = eventfdCreate();
    const trigger = { fd, signal() {}, watch: () => () => {}, release() {} };
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    await client.setIrqs({ index, flags, start: vector, count: 1, triggers: [trigger] });

    let [runs, isOver] = [0, false];
    const random = seeded(7);
    const working = (async () => {
      while (!isOver) {
        bytes.fill(0);
        for (const { iova, length } of await workload.run(client, { iova: IOVA, bytes }, random)) {
          const at = Number(iova - IOVA);
          expect(bytes.subarray(at, at + Number(length)).some((byte) => byte !== 0)).toBe(true);
        }
        expect(eventfdRead(fd)).toBeGreaterThan(0);
        runs++;
      }
    })();
    for (let n = 1; n <= HANDOVERS; n++) {
      const path = join(folder, `incoming${n}`);
      await servers[n]!.listen({ incoming: { path } });
      const { maps } = await servers[n - 1]!.handover(path);
      expect(maps).toBe(1);
      const since = runs;
      while (runs < since + 2) await Promise.race([working, new Promise((resolve) => setTimeout(resolve, 1))]);
    }
    isOver = true;
    await working;
    expect(runs).toBeGreaterThan(2 * HANDOVERS);
    await client.close();
    closeFd(fd);
    for (const server of servers) await server.close();
    expect(handles()).toBe(before);
    for (const { close } of all) await close();
    await rm(folder, { recursive: true });
  },
);
