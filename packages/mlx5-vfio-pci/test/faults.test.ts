import type { MigrationData } from '@vfio/core';
import { CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import { expect, test } from 'vitest';
import { attempt, FAILURES, type Failure, isDeath, isSilent, rigged, tables } from './helpers/faults.js';
import { report, start, stop } from './helpers/logging.js';
import { drain, feed, PAGE, STATE, stream, type Vf } from './helpers/setup.js';

/** More than the mailboxes of any command. */
const MAILBOXES = 80;

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
    expect(total).toBeGreaterThan(30);
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
