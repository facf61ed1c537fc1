import type { PciPowerState } from './config/host.js';
import type { SavedState } from './config/saved-state.js';
import type { EventTrigger } from './triggers.js';

/** What a device keeps of its power. */
export class PowerState {
  state: PciPowerState = 0;
  /** Where hardware has the power management capability; 0: nowhere, so there is only D0. */
  pmAt = 0;
  /** Suspended because nobody needs it. */
  asleep = false;
  /** The falling asleep or waking that takes place now; never rejects. */
  transition: Promise<void> | undefined = undefined;
  /** The function forgets its config space on the way from D3hot to D0 (no NoSoftRst). */
  needsRestore = false;
  /** Config space from before D3hot, where {@link needsRestore}. */
  saved: SavedState | undefined = undefined;
  /** Who needs the function awake; at 0 it may sleep. Starts with one, which registration gives up. */
  users = 1;
  /** The user has entered low power (features 3 and 4). */
  engaged = false;
  /** Signalled once when the device wakes; waking then ends low power. */
  wakeTrigger: EventTrigger | undefined = undefined;
  /** INTx was masked by the suspend, to be unmasked on waking. */
  intxMasked = false;
}
