import type { CommandFault } from '@vfio/emulated';
import { isVfioError } from '@vfio/uapi';
import { expect } from 'vitest';
import { type Machine, machine, PAGE } from './setup.js';

/** Milliseconds for a command that will not be answered; the others have all the time they need. */
const SHORT = 10;
const LONG = 30_000;

/** What happens to one command; or the firmware dies there, for good. */
export type Failure = CommandFault | 'dies' | 'dies in silence';

export const FAILURES: readonly (readonly [string, Failure])[] = [
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

export const isDeath = (failure: Failure): boolean => failure === 'dies' || failure === 'dies in silence';

/** Whether the driver waits for the answer in vain. */
export const isSilent = (failure: Failure): boolean =>
  failure === 'stalls' || failure === 'is not answered' || failure === 'dies in silence';

/** Takes a step of which anything may come that is told: success, or an error with an errno and a sentence. */
export async function attempt<T>(step: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await step();
  } catch (error) {
    if (!isVfioError(error)) throw error;
    expect(error.errno).toMatch(/^E[A-Z0-9]+$/);
    expect(error.message.length).toBeGreaterThan(10);
    return undefined;
  }
}

/** Sizes of the tables of what the driver creates. */
export const tables = ({ connectx: { hca } }: Machine): number[] =>
  [hca.memoryKeys, hca.protectionDomains, hca.completionQueues, hca.queuePairs, hca.trackers].map(({ size }) => size);

/** A machine of which the n-th command fails, counted from when `arm` is called. */
export async function rigged(options: { boot?: boolean; vfs?: number } = {}) {
  let commands = 0;
  let sent = 0;
  let silent = Number.POSITIVE_INFINITY;
  let opcode = 0;
  const made = await machine({
    ...options,
    // Commands are sent in the order in which they are carried out.
    core: { commandTimeoutMs: () => (sent++ >= silent ? SHORT : LONG), warn: () => {} },
    connectx: { vfMemory: 4 * PAGE },
  });
  const { firmware } = made.connectx;
  const arm = (at: number, failure: Failure): void => {
    commands = 0;
    sent = 0;
    // A death is told by an event only where there is a queue for it.
    silent = isSilent(failure) || isDeath(failure) ? at : Number.POSITIVE_INFINITY;
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
