import { type EmulatedFunction, CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import {
  PCI_CAP_ID_EXP,
  PCI_CAPABILITY_LIST,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { feed, type Machine, machine, nothingHeld, PAGE, STATE, saved, type Vf } from './helpers/setup.js';

/** Offset of the PCI Express capability. */
function express(vf: Vf): number {
  const bytes = new Uint8Array(256);
  vf.device.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, bytes);
  let at = bytes[PCI_CAPABILITY_LIST] ?? 0;
  while (at !== 0 && bytes[at] !== PCI_CAP_ID_EXP) at = bytes[at + 1] ?? 0;
  return at;
}

/** Every way in which a virtual function is reset under its user. */
const PATHS: readonly (readonly [string, (made: Machine, vf: Vf) => unknown])[] = [
  ['by RESET', (_made, vf) => vf.device.reset()],
  [
    'by FLR in config space',
    (_made, vf) => {
      const control = new Uint8Array(2);
      new DataView(control.buffer).setUint16(0, PCI_EXP_DEVCTL_BCR_FLR, true);
      return vf.device.write(VFIO_PCI_CONFIG_REGION_INDEX, express(vf) + PCI_EXP_DEVCTL, control);
    },
  ],
  ['by the host, as error recovery does', ({ vf }) => (vf(0) as EmulatedFunction).resetByHost()],
];

const STATES = Object.entries(STATE).filter(([name]) => name !== 'ERROR');

/** The function does what it is told, with memory and interrupt. */
async function works(vf: Vf): Promise<void> {
  vf.start();
  vf.interrupts.length = 0;
  vf.memory.fill(0x3c, PAGE, 2 * PAGE);
  expect(await vf.run(ENGINE.COPY | ENGINE.INTERRUPT, PAGE, PAGE, 5 * PAGE)).toBe(ENGINE.DONE);
  expect(vf.memory[5 * PAGE]).toBe(0x3c);
  expect(vf.interrupts).toEqual([3]);
}

describe.each(PATHS)('a reset %s', (_path, reset) => {
  test.each(STATES)(
    'in %s leads to RUNNING and ends the stream; the function works, and can be moved',
    async (_name, state) => {
      const made = await machine();
      const vf = await made.open(0);
      vf.start();
      await vf.store(1, 1);
      const data = await vf.set(state);
      await reset(made, vf);
      expect(await vf.state()).toBe(STATE.RUNNING);
      for (const use of [() => data?.read(new Uint8Array(8)), () => data?.write(new Uint8Array(8))])
        if (data !== undefined) await expect(Promise.resolve().then(use)).rejects.toMatchObject({ errno: 'ENODEV' });
      await nothingHeld(made);
      await works(vf);
      const target = await made.open(1);
      await feed((await target.set(STATE.RESUMING))!, await saved(vf));
      await target.set(STATE.RUNNING);
    },
  );

  test('in ERROR leads to RUNNING, which nothing else does', async () => {
    const made = await machine({ core: { commandTimeoutMs: 20 } });
    const vf = await made.open(0);
    made.connectx.firmware.stall(0x115);
    await expect(vf.set(STATE.RUNNING_P2P)).rejects.toMatchObject({ errno: 'ETIMEDOUT' });
    for (const [, state] of STATES)
      await expect(Promise.resolve().then(() => vf.set(state))).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(await vf.state()).toBe(STATE.ERROR);
    await reset(made, vf);
    expect(await vf.state()).toBe(STATE.RUNNING);
    await works(vf);
  });
});

test('a hot reset cannot be asked for by a virtual function, and changes nothing', async () => {
  const { open } = await machine();
  const vf = await open(0);
  await vf.set(STATE.STOP);
  expect(() => vf.device.hotReset({ flags: 0, owned: [vf.device.function.address] })).toThrow(
    expect.objectContaining({ errno: 'ENODEV' }),
  );
  expect(await vf.state()).toBe(STATE.STOP);
});

/** Arcs, with the states on the way to where each begins. */
const ARCS: readonly (readonly [string, readonly number[], number])[] = [
  ['RUNNING to RUNNING_P2P', [], STATE.RUNNING_P2P],
  ['RUNNING to STOP_COPY', [], STATE.STOP_COPY],
  ['STOP to RUNNING', [STATE.STOP], STATE.RUNNING],
  ['RUNNING to PRE_COPY', [], STATE.PRE_COPY],
  ['PRE_COPY to PRE_COPY_P2P', [STATE.PRE_COPY], STATE.PRE_COPY_P2P],
  ['PRE_COPY to STOP_COPY', [STATE.PRE_COPY], STATE.STOP_COPY],
  ['PRE_COPY_P2P to STOP_COPY', [STATE.PRE_COPY_P2P], STATE.STOP_COPY],
  ['PRE_COPY to RUNNING', [STATE.PRE_COPY], STATE.RUNNING],
  ['STOP_COPY to RUNNING', [STATE.STOP_COPY], STATE.RUNNING],
  ['RUNNING to RESUMING', [], STATE.RESUMING],
];

const pause = (turns: number): Promise<void> =>
  turns === 0 ? Promise.resolve() : new Promise((resolve) => setImmediate(() => resolve(pause(turns - 1))));

test.each(ARCS)('a reset that comes while %s is under way leaves a function that runs', async (_name, before, to) => {
  const made = await machine();
  const vf = await made.open(0);
  for (let turns = 0; turns < 12; turns++) {
    for (const state of before) await vf.set(state);
    const arriving = vf.set(to).catch(() => undefined);
    await pause(turns);
    (made.vf(0) as EmulatedFunction).resetByHost();
    const data = await arriving;
    const where = `after ${turns} turns`;
    expect(await vf.state(), where).toBe(STATE.RUNNING);
    for (const use of [() => data?.read(new Uint8Array(8)), () => data?.write(new Uint8Array(8))])
      if (data !== undefined)
        await expect(Promise.resolve().then(use), where).rejects.toMatchObject({ errno: 'ENODEV' });
    expect(made.connectx.virtualFunctions.get(0)?.migration.isRunning, where).toBe(true);
    await works(vf);
  }
  await nothingHeld(made);
});
