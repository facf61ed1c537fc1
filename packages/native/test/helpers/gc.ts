import { setImmediate as nextTurn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
// The flag adds `gc` to the globals of contexts made from now on.
const gc = runInNewContext('gc') as () => void;

/** Collects garbage and lets finalizers run, until `done` or for at most 50 turns; answers whether it became true. */
export async function collectUntil(done: () => boolean): Promise<boolean> {
  for (let turn = 0; turn < 50 && !done(); turn++) {
    gc();
    await nextTurn();
  }
  return done();
}

/** Collects garbage once, finalizers included. */
export async function collect(): Promise<void> {
  await collectUntil(() => false);
}
