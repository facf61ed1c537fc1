import type { PeerKind } from './negotiation.js';

/** How a client that does not keep to the specification is answered. */
export interface CompatPolicy {
  readonly peer: PeerKind;
  /** The client does not look at the error flag and reads replies of a fixed size: a header alone would make it wait for
   * ever. It gets a reply of full size instead, with all ones for data. */
  readonly errorsAsData: boolean;
  /** The client takes the RESET flag for its opposite: it resets exactly the devices that do not offer it. */
  readonly invertResetFlag: boolean;
  /** The client may be QEMU 10.1 to 10.2.2, whose DMA messages are laid out differently. */
  readonly mayBeLegacyQemu: boolean;
}

/** What `--compat` can say: `auto` goes by the VERSION message, the others force a behaviour. */
export type CompatMode = 'auto' | 'strict' | PeerKind;

/** The modes, for messages and command lines. */
export const COMPAT_MODES: readonly CompatMode[] = ['auto', 'strict', 'qemu', 'rust', 'spdk', 'other'];

/** What a peer is answered in a mode. `strict` keeps to the letter of the specification whoever asks. */
export function compatPolicy(mode: CompatMode, identified: PeerKind): CompatPolicy {
  const peer = mode === 'auto' ? identified : mode === 'strict' ? 'other' : mode;
  return {
    peer,
    errorsAsData: peer === 'rust',
    invertResetFlag: peer === 'rust',
    mayBeLegacyQemu: peer === 'qemu',
  };
}
