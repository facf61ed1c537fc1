/** Offsets of region 0 at which the `scripted` device of `thread.ts` does something that a real one does not. */
export const SCRIPT = { CLOSE: 0x100, STALL: 0x200, STALL_MS: 1000 } as const;
