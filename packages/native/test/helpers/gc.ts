import { setImmediate as nextTurn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
// The flag adds `gc` to the globals of contexts made from now on.
const gc = runInNewContext('gc') as () => void;

/** Collects garbage and lets finalizers run, until `done` or for some turns at most; answers whether it became true. */
export async function collectUntil(done: () => boolean, turns = 50): Promise<boolean> {
  for (let turn = 0; turn < turns && !done(); turn++) {
    gc();
    await nextTurn();
  }
  return done();
}

/** Collects what can be collected, finalizers included. */
export async function collect(): Promise<void> {
  await collectUntil(() => false, 10);
}
