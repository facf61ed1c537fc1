import { readdirSync, readlinkSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';

/** Open descriptors of this process, number and target, but for the one that the listing itself needs. */
export function openFds(): Map<number, string> {
  const result = new Map<number, string>();
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      result.set(Number(name), readlinkSync(`/proc/self/fd/${name}`));
    } catch {
      // The listing's own descriptor is closed by now.
    }
  }
  return result;
}

/** Descriptors of `kind` (part of the link's target) that are open. */
export function countFds(kind: string): number {
  return [...openFds().values()].filter((target) => target.includes(kind)).length;
}

/** Runs `work` some times, first to warm up, and answers how many descriptors more are open afterwards. */
export async function leakedFds(rounds: number, work: () => void | Promise<void>): Promise<number> {
  await work();
  await nextTurn();
  const before = openFds().size;
  for (let round = 0; round < rounds; round++) await work();
  await nextTurn();
  return openFds().size - before;
}
