import { join } from 'node:path';
import { callbackTrigger, deviceOf, toClient } from '@vfio/core';
import { createDemoHost } from '@vfio/emulated';
import { expect, onTestFinished, test } from 'vitest';
import { ENGINE_MEMORY, ENGINE_VECTOR, EngineProgram } from '../src/demo/engine-program.js';
import { InterruptLatch } from '../src/demo/interrupt-latch.js';
import { installedDrivers } from '../src/drivers.js';
import { parseHostSetup, setUpHost } from '../src/host-setup.js';
import { bindFunction, findFunction, openSession } from '../src/session.js';
import { folder, ROOT } from './helpers/run.js';

const IOVA = 0x100000;
const PF = '0000:05:00.0';
const never = () => Promise.reject(new Error('nothing moves here'));

/** The demo's load on a virtual function of this process. */
async function loaded(turns: number) {
  const env = { VFIO_CACHE: join(folder, 'cache') };
  const drivers = await installedDrivers({ cwd: ROOT, script: undefined, env, warn: () => {} });
  const session = openSession(createDemoHost(), drivers, () => {});
  await setUpHost(session, parseHostSetup([`${PF}=mlx5_core`], [`${PF}=1`]));
  const vf = findFunction(session.host, '0000:05:00.1');
  await bindFunction(session, vf);
  const device = toClient(await deviceOf(session.bus, vf).open());
  onTestFinished(async () => {
    await device.close();
    await session.bus.close();
  });
  await device.write(7, 4, Uint8Array.of(6, 0));
  const memory = new Uint8Array(ENGINE_MEMORY);
  await device.dmaMap({
    iova: BigInt(IOVA),
    size: BigInt(ENGINE_MEMORY),
    readable: true,
    writable: true,
    memory: { bytes: memory, fd: undefined, fdOffset: 0 },
  });
  const latch = new InterruptLatch();
  const triggers = [null, callbackTrigger(latch.signal)];
  await device.setIrqs({ flags: 0x24, index: 2, start: 0, count: ENGINE_VECTOR + 1, triggers });
  const program = new EngineProgram({ device, memory }, IOVA, latch);
  await program.start();
  await program.run(() => program.turns === turns, never);
  return { program, memory, latch };
}

test.each([1, 31, 32, 33, 130, 300])(
  'after %i turns nothing is wrong, and the counters are what was asked',
  async (turns) => {
    const { program, latch } = await loaded(turns);
    expect(program.wrong()).toBe(0);
    expect(await program.counters()).toEqual(program.expected());
    expect(latch.count).toBe(turns);
  },
);

test('a byte that is lost in any page that the load has written is seen, and so is one in a checksum', async () => {
  const { program, memory } = await loaded(140);
  const written = [...Array(96).keys()].map((page) => (36 + page) * 4096 + ((page * 131) & 0xfff));
  for (const at of [...written, 11 * 128 + 28]) {
    memory[at] = (memory[at] ?? 0) ^ 1;
    expect(program.wrong(), `byte ${at}`).toBe(1);
    memory[at] = (memory[at] ?? 0) ^ 1;
  }
  expect(program.wrong()).toBe(0);
});

test('a page as it was a pass before is seen: what was left behind is not what is expected', async () => {
  const { program, memory } = await loaded(140);
  const [copies, source] = [36 * 4096, 4 * 4096];
  // The last turn, 139, put the data of page 11 there; 32 turns before it was that of page 14.
  memory.copyWithin(copies + 11 * 4096, source + 14 * 4096, source + 15 * 4096);
  expect(program.wrong()).toBe(1);
});
