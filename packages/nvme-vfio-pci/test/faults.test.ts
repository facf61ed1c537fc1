import { isVfioError } from '@vfio/core';
import type { AdminFault } from '@vfio/emulated';
import {
  VFIO_DEVICE_STATE_ERROR as ERROR,
  VFIO_DEVICE_STATE_RESUMING as RESUMING,
  VFIO_DEVICE_STATE_RUNNING as RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P as RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP as STOP,
} from '@vfio/uapi';
import { expect, test } from 'vitest';
import { Guest } from './helpers/guest.js';
import { type Machine, machine, type Vf } from './helpers/machine.js';

/** Milliseconds for a command that is not answered. */
const SHORT = 60;

const FAILURES: readonly (readonly [string, AdminFault])[] = [
  ['is refused as an internal error', { status: 0x06 }],
  ['is refused as a sequence error', { status: 0x0c }],
  ['is refused because the controller is suspended', { status: 0x139 }],
  ['is refused because the controller is not suspended', { status: 0x13a }],
  ['is refused with a status that nobody knows', { status: 0x7ff }],
  ['is answered with ones', { output: (data) => void data.fill(0xff), result: () => 0xffffffff }],
  ['is answered with zeros', { output: (data) => void data.fill(0), result: () => 0 }],
  ['stalls', 'stalls'],
  ['is carried out and not answered', 'is not answered'],
  ['is the last before the controller dies', 'dies'],
];

/** Takes a step of which anything may come that is told: success, or an error with an errno and a sentence. */
async function attempt<T>(step: () => Promise<T>): Promise<T | undefined> {
  try {
    return await step();
  } catch (error) {
    if (!isVfioError(error)) throw error;
    expect(error.errno).toMatch(/^E[A-Z0-9]+$/);
    expect(error.message.length).toBeGreaterThan(10);
    return undefined;
  }
}

/** What a function says of itself is true. */
async function check({ vf: fn }: Machine, vf: Vf, index: number, isBeyondDoubt: boolean): Promise<void> {
  const state = await vf.state();
  const { isSuspended } = fn(index).model.migratable;
  if (state === RUNNING) expect(isSuspended, 'a function that runs').toBe(false);
  else if (isBeyondDoubt && state !== ERROR) expect(isSuspended, `a function in state ${state}`).toBe(true);
}

/** A migration with dirty tracking, all of its arcs, step by step: where one fails the next is taken. */
async function everything(made: Machine, source: Vf, target: Vf, isBeyondDoubt: boolean): Promise<void> {
  const steps: (() => Promise<unknown>)[] = [];
  let stream: Uint8Array | undefined;
  steps.push(
    () => source.startLog(),
    () => source.set(RUNNING_P2P),
    () => source.dirtyPages(),
    async () => {
      stream = await source.save();
    },
    async () => target.load(stream ?? new Uint8Array(1), 1000),
    () => target.set(STOP),
    () => target.set(RUNNING),
    () => source.set(RUNNING),
    () => source.stopLog(),
    () => source.set(RESUMING),
  );
  for (const step of steps) {
    await attempt(step);
    await check(made, source, 0, isBeyondDoubt);
    await check(made, target, 1, isBeyondDoubt);
  }
}

/** Commands that a migration sends where all goes well. */
const COMMANDS = 13;

test('a migration sends as many commands as are made to fail here', async () => {
  const made = await machine();
  const [source, target] = [await made.open(0), await made.open(1)];
  let commands = 0;
  made.pf.model.adminFault = () => {
    commands++;
    return undefined;
  };
  await everything(made, source, target, true);
  expect(commands).toBe(COMMANDS);
});

test.each(FAILURES)('whichever command %s, states are true, and a reset leads back to work', async (_what, fault) => {
  const isSilent = typeof fault === 'string';
  for (let nth = 0; nth < COMMANDS; nth++) {
    const made = await machine({ parent: { commandTimeoutMs: isSilent ? SHORT : 60_000, warn: () => {} } });
    const [source, target] = [await made.open(0), await made.open(1)];
    const guests = [new Guest(source.device), new Guest(target.device)];
    await guests[0]?.start();
    let sent = 0;
    made.pf.model.adminFault = () => (sent++ === nth ? fault : undefined);
    await everything(made, source, target, !isSilent);
    for (const [index, vf] of [source, target].entries()) {
      await vf.device.reset();
      expect(await vf.state()).toBe(RUNNING);
      await guests[index]?.start();
      await guests[index]?.run({ kind: 'flush' });
    }
  }
});

test('a controller that does not answer is not asked any more, and its functions can be reset and used', async () => {
  const { pf, open } = await machine({ parent: { commandTimeoutMs: SHORT, warn: () => {} } });
  const vf = await open(0);
  pf.model.adminFault = () => 'stalls';
  await expect(vf.set(STOP)).rejects.toMatchObject({ errno: 'ETIMEDOUT', code: 'ERR_VFIO_TIMEOUT' });
  expect(await vf.state()).toBe(ERROR);
  await expect((async () => vf.startLog())()).rejects.toMatchObject({
    errno: 'ENOLINK',
    message: expect.stringContaining(`no answer within ${SHORT} ms`),
  });
  await vf.device.reset();
  expect(await vf.state()).toBe(RUNNING);
  const guest = new Guest(vf.device);
  await guest.start();
  await guest.run({ kind: 'flush' });
});

test('a reset while the suspension is under way leaves a function that runs', async () => {
  const { open, vf: fn } = await machine();
  const vf = await open(0);
  const guest = new Guest(vf.device);
  await guest.start();
  const suspending = attempt(() => vf.set(STOP));
  await vf.device.reset();
  await suspending;
  expect(await vf.state()).toBe(RUNNING);
  expect(fn(0).model.migratable.isSuspended).toBe(false);
});

test.each<[string, AdminFault, RegExp]>([
  ['says that it was not suspended', { result: () => 0 }, /was not suspended while it was read/],
  ['tells of no queues', { output: (data) => void data.fill(0, 16, 20) }, /without its queues/],
  ['tells of more than there may be', { output: (data) => void data.fill(0xff, 16, 20) }, /are the most/],
  ['has another version', { output: (data) => void data.fill(1, 0, 1) }, /version 1/],
])('a controller state that %s is not given to anybody', async (_what, fault, message) => {
  const { open, pf } = await machine();
  const vf = await open(0);
  await vf.set(STOP);
  pf.model.adminFault = (opcode) => (opcode === 0x42 ? fault : undefined);
  await expect(vf.save()).rejects.toThrow(message);
  expect(await vf.state()).toBe(STOP);
  pf.model.adminFault = undefined;
  expect((await vf.save()).length).toBeGreaterThan(100);
});
