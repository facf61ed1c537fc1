import { isVfioError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { attempt, FAILURES, rigged, tables } from './helpers/faults.js';
import { STATE } from './helpers/setup.js';

type Rig = Awaited<ReturnType<typeof rigged>>;

/** Boots the physical function, makes two virtual ones, and lets go of all. */
async function life({ made: { bus, pf } }: Rig): Promise<boolean> {
  const booted = await attempt(async () => {
    await bus.bindOverride(pf, 'mlx5_core');
    return true;
  });
  if (booted === true) await attempt(() => bus.sriovConfigure(pf, 2));
  if (bus.driverOf(pf) !== undefined) await bus.unbind(pf);
  return booted === true;
}

async function commandsOfLife(): Promise<number> {
  const rig = await rigged({ boot: false, vfs: 0 });
  rig.arm(-1, 'stalls');
  expect(await life(rig)).toBe(true);
  return rig.count();
}

test.each(FAILURES)(
  'whichever command of boot and teardown %s, the driver says so or goes on, nothing is kept, and the next boots',
  async (_name, failure) => {
    const total = await commandsOfLife();
    expect(total).toBeGreaterThan(20);
    for (let at = 0; at < total; at++) {
      const rig = await rigged({ boot: false, vfs: 0 });
      const { made, arm, disarm, failed } = rig;
      arm(at, failure);
      await life(rig);
      disarm();
      const where = `command ${at}, opcode 0x${failed().toString(16)}`;
      expect(made.bus.driverOf(made.pf), where).toBeUndefined();
      expect(made.connectx.hca.phase, where).toBe('disabled');
      expect(made.connectx.hca.pages.count, where).toBe(0);
      expect(tables(made), where).toEqual([0, 0, 0, 0, 0]);
      // The next owner gets a function as new, and can move what it makes.
      await made.bus.bindOverride(made.pf, 'mlx5_core');
      await made.bus.sriovConfigure(made.pf, 1);
      const vf = await made.open(0);
      await vf.set(STATE.STOP);
      expect(await vf.state(), where).toBe(STATE.STOP);
      await vf.device.close();
      await made.bus.unbind(made.pf);
    }
  },
  120_000,
);

test('a function that is no ConnectX, or speaks another command interface, is left as it was', async () => {
  const { made } = await rigged({ boot: false, vfs: 0 });
  const { segment } = made.connectx.hca;
  const read = segment.read.bind(segment);
  segment.read = (offset, width) => (offset === 4 ? 0x0300_0000 : read(offset, width));
  const error: unknown = await made.bus.bindOverride(made.pf, 'mlx5_core').catch((caught: unknown) => caught);
  expect(isVfioError(error) && error.errno).toBe('EIO');
  expect(String(error)).toMatch(/command interface/);
  segment.read = read;
  await made.bus.bindOverride(made.pf, 'mlx5_core');
});
