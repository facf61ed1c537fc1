import { isVfioError, type MigrationData } from '@vfio/core';
import { type CommandFault, CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import { expect, test } from 'vitest';
import { report, start, stop } from './helpers/logging.js';
import { drain, feed, type Machine, machine, PAGE, STATE, stream, type Vf } from './helpers/setup.js';

/** Milliseconds for a command that will not be answered; the others have all the time they need. */
const SHORT = 10;
const LONG = 30_000;

/** More than the mailboxes of any command. */
const MAILBOXES = 80;

/** What happens to one command; or the firmware dies there, for good. */
type Failure = CommandFault | 'dies' | 'dies in silence';

const FAILURES: readonly (readonly [string, Failure])[] = [
  ['is refused as an internal error', { status: 0x1 }],
  ['is refused for the state of its resource', { status: 0x9 }],
  ['is not delivered', { delivery: 0x6 }],
  ['is answered with ones', { output: (output) => void output.fill(0xff, 8) }],
  ['is answered with zeros', { output: (output) => void output.fill(0, 8) }],
  ['stalls', 'stalls'],
  ['is carried out and not answered', 'is not answered'],
  ['is the last before the firmware dies and says so', 'dies'],
  ['is the last before the firmware dies in silence', 'dies in silence'],
];

const isDeath = (failure: Failure): boolean => failure === 'dies' || failure === 'dies in silence';

/** Whether the driver waits for the answer in vain. */
const isSilent = (failure: Failure): boolean =>
  failure === 'stalls' || failure === 'is not answered' || failure === 'dies in silence';

/** Takes a step of which anything may come that is told: success, or an error with an errno and a sentence. */
async function attempt<T>(step: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await step();
  } catch (error) {
    if (!isVfioError(error)) throw error;
    expect(error.errno).toMatch(/^E[A-Z0-9]+$/);
    expect(error.message.length).toBeGreaterThan(10);
    return undefined;
  }
}

/** A migration with dirty tracking, all of its arcs, step by step: where one fails the next is taken. */
async function everything(source: Vf, target: Vf): Promise<readonly (MigrationData | undefined)[]> {
  await attempt(() => start(source));
  const saving = await attempt(() => source.set(STATE.PRE_COPY));
  const parts: (Uint8Array | undefined)[] = [saving && (await attempt(() => drain(saving)))];
  await source.store(2, 2);
  await attempt(() => saving?.precopyInfo());
  parts.push(saving && (await attempt(() => drain(saving))));
  await attempt(() => source.set(STATE.PRE_COPY_P2P));
  await attempt(() => report(source));
  await attempt(() => source.set(STATE.STOP_COPY));
  parts.push(saving && (await attempt(() => drain(saving))));
  const resuming = await attempt(() => target.set(STATE.RESUMING));
  for (const part of parts) if (part !== undefined) await attempt(() => resuming && feed(resuming, part, 10_000));
  await attempt(() => target.set(STATE.RUNNING));
  await attempt(() => source.set(STATE.RUNNING));
  await attempt(() => stop(source));
  const given = await attempt(() => source.set(STATE.PRE_COPY));
  await attempt(() => source.set(STATE.RUNNING));
  return [saving, resuming, given];
}

const tables = ({ connectx: { hca } }: Machine): number[] =>
  [hca.memoryKeys, hca.protectionDomains, hca.completionQueues, hca.queuePairs, hca.trackers].map(({ size }) => size);

/** A machine of which the n-th command fails, counted from when `arm` is called. */
async function rigged() {
  let commands = 0;
  let sent = 0;
  let silent = Number.POSITIVE_INFINITY;
  let opcode = 0;
  const made = await machine({
    // Commands are sent in the order in which they are carried out.
    core: { commandTimeoutMs: () => (sent++ >= silent ? SHORT : LONG), warn: () => {} },
    connectx: { vfMemory: 4 * PAGE },
  });
  const { firmware } = made.connectx;
  const arm = (at: number, failure: Failure): void => {
    commands = 0;
    sent = 0;
    silent = isSilent(failure) ? at : Number.POSITIVE_INFINITY;
    firmware.misbehave = (_id, current) => {
      if (commands++ !== at) return undefined;
      opcode = current;
      silent = Number.POSITIVE_INFINITY;
      if (failure !== 'dies' && failure !== 'dies in silence') return failure;
      firmware.die(0x1, failure === 'dies');
      return undefined;
    };
  };
  const disarm = (): void => {
    firmware.misbehave = undefined;
  };
  return { made, arm, disarm, count: () => commands, failed: () => opcode };
}

async function commandsOfEverything(): Promise<number> {
  const { made, arm, count } = await rigged();
  const [source, target] = [await made.open(0), await made.open(1)];
  source.start();
  arm(-1, 'stalls');
  await everything(source, target);
  await expect.poll(() => tables(made)).toEqual([0, 0, 0, 0, 0]);
  return count();
}

/** State that is seen in the other function when it has moved. */
async function move(source: Vf, target: Vf): Promise<void> {
  source.start();
  await source.store(1, 0x77);
  source.write(ENGINE.SCRATCH, 0xfeed);
  const state = await drain(await stream(source, STATE.STOP_COPY), 10_000);
  const resuming = await stream(target, STATE.RESUMING);
  await feed(resuming, state, 10_000);
  await target.set(STATE.RUNNING);
  expect(target.register(ENGINE.SCRATCH)).toBe(0xfeed);
  expect(target.model.memory.page(1)).toEqual(new Uint8Array(PAGE).fill(0x77));
  await source.set(STATE.RUNNING);
}

/** Objects that a command makes or unmakes: where that is not known, the firmware keeps one, and what it hangs on. */
const CREATORS = [0x800, 0x200, 0x400, 0x500, 0xa00];
const DESTROYERS = [0x801, 0x202, 0x401, 0x501, 0xa03];

/** Whether an object may be left with the firmware: one of which the driver cannot know, or that it would not let go. */
const mayLeave = (failure: Failure, opcode: number): boolean =>
  failure === 'is not answered' || (typeof failure === 'object' && 'output' in failure)
    ? CREATORS.includes(opcode)
    : DESTROYERS.includes(opcode);

test.each(FAILURES)(
  'whichever command %s, the state is told, a reset leads to RUNNING, nothing is kept, and all works again',
  async (_name, failure) => {
    const total = await commandsOfEverything();
    expect(total).toBeGreaterThan(40);
    for (let at = 0; at < total; at++) {
      const { made, arm, disarm, failed } = await rigged();
      const { hca: firmware } = made.connectx;
      const [source, target] = [await made.open(0), await made.open(1)];
      source.start();
      const held = made.hca().pool.used;
      arm(at, failure);
      const streams = await everything(source, target);
      disarm();
      const where = `command ${at}, opcode 0x${failed().toString(16)}`;
      for (const vf of [source, target]) {
        expect(Object.values(STATE), where).toContain(await vf.state());
        await vf.device.reset();
        expect(await vf.state(), where).toBe(STATE.RUNNING);
      }
      for (const data of streams)
        if (data !== undefined)
          await expect(
            Promise.resolve().then(() => data.read(new Uint8Array(1))),
            where,
          ).rejects.toMatchObject({ errno: 'ENODEV' });
      await attempt(() => stop(source));
      if (!isDeath(failure)) {
        await move(source, target);
        const left = mayLeave(failure, failed()) ? 5 : 0;
        await expect
          .poll(() => tables(made).reduce((sum, size) => sum + size, 0), { message: where })
          .toBeLessThanOrEqual(left);
        const mailboxes = isSilent(failure) ? MAILBOXES : 0;
        await expect.poll(() => made.hca().pool.used, { message: where }).toBeLessThanOrEqual(held + mailboxes);
      }
      for (const vf of [source, target]) await vf.device.close();
      await made.bus.unbind(made.pf);
      expect(firmware.pages.count, where).toBe(0);
      expect(tables(made), where).toEqual([0, 0, 0, 0, 0]);
      // A firmware that has died is booted by the next owner.
      if (isDeath(failure)) await made.bus.bindOverride(made.pf, 'mlx5_core');
    }
  },
  120_000,
);
