import type { VfioPciCoreDevice } from './core-device.js';

/** What a device keeps as the PF of VFs, or as a VF. */
export class VfState {
  /** PF: the token, 16 bytes; undefined on other functions. */
  token: Uint8Array | undefined = undefined;
  /** VF: the device of its PF, where core made the VFs. */
  pf: VfioPciCoreDevice | undefined = undefined;
  /** PF: open VFs. */
  users = 0;
  /** PF: VFs are there or about to be; it must stay in D0. */
  sriovActive = false;
  /** Undoes the capture of new VFs. */
  stopCapture: (() => void) | undefined = undefined;
}
