import type { PciFunction } from '../pci/function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { type DeviceSet, resetScopeOf } from './device-set.js';
import { chain, type MaybePromise, withCleanup } from './maybe-promise.js';
import { lockMemory, unlockMemory } from './memory.js';
import { pmGet, setPowerState, settledPut } from './power.js';
import { notifyReset, withSavedState } from './reset.js';

/** The functions under a device's slot or bus that are not VFIO devices of its set: any of them, a bridge too, bars the reset. */
export function foreignFunctions(dev: VfioPciCoreDevice): PciFunction[] {
  const scope = resetScopeOf(dev.fn);
  const set = dev.deviceSet;
  if (scope === undefined || set === undefined) return [];
  const members = new Set<PciFunction>();
  for (const member of set.devices) members.add(member.fn);
  return scope.functions().filter((fn) => !members.has(fn));
}

/** Whether the slot or bus may be reset: it can be, and every function under it is a device of the set. */
export function isSetResettable(dev: VfioPciCoreDevice): boolean {
  return resetScopeOf(dev.fn) !== undefined && foreignFunctions(dev).length === 0;
}

/**
 * At the close of a device, resets the slot or bus where a member could not be reset alone:
 * `vfio_pci_dev_set_try_reset`. Nothing happens while another device of the set is open.
 */
export function tryResetSet(dev: VfioPciCoreDevice): MaybePromise<void> {
  const set = dev.deviceSet;
  if (set === undefined || set.openCount > 1) return undefined;
  if (![...set.devices].some((member) => member.needsReset)) return undefined;
  if (!isSetResettable(dev)) return undefined;
  return chain(resetScope(dev, set), () => {
    for (const member of set.devices) member.needsReset = false;
  });
}

/**
 * Resets the slot or bus of a set, with the state of every member kept over it. Members are awake and in D0, their memory
 * is held and user mappings are gone while it runs.
 *
 * @throws EBUSY where a member's memory is held by somebody else, EAGAIN where a lock is contended.
 */
export function resetScope(dev: VfioPciCoreDevice, set: DeviceSet): MaybePromise<void> {
  const members = [...set.devices];
  const held = members.find((member) => member.memoryLocks > 0);
  if (held !== undefined) {
    throw dev.error('EBUSY', 'hotReset', `${held.fn.address} is being reset or changes its power state`);
  }
  for (const member of members) lockMemory(member, true);
  const awake: VfioPciCoreDevice[] = [];
  return withCleanup(
    () => chain(wakeAll(members, awake), () => resetMembers(dev, members)),
    () => {
      for (const member of awake) settledPut(member);
      for (const member of members) unlockMemory(member);
    },
  );
}

/** Wakes every member and brings it to D0; adds to `awake` those whose need to be awake must be given up again. */
function wakeAll(members: readonly VfioPciCoreDevice[], awake: VfioPciCoreDevice[]): MaybePromise<void> {
  let result: MaybePromise<void> | undefined;
  for (const member of members) {
    result = chain(result, () =>
      chain(pmGet(member), () => {
        awake.push(member);
        return setPowerState(member, 0);
      }),
    );
  }
  return result;
}

function resetMembers(dev: VfioPciCoreDevice, members: readonly VfioPciCoreDevice[]): MaybePromise<void> {
  const scope = resetScopeOf(dev.fn)!;
  let reset = () => scope.tryReset();
  for (const member of members) {
    const inner = reset;
    reset = () => withSavedState(member, inner);
  }
  return chain(reset(), () => {
    for (const member of members) notifyReset(member);
  });
}
