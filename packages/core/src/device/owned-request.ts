import type { EventTrigger, SetIrqsRequest } from './triggers.js';

/**
 * A SET_IRQS on its way through the device, which owns the triggers from the call on: who keeps one takes it out of
 * `owned`, and what is left at the end is released. So each is released exactly once, whatever fails where.
 */
export interface OwnedRequest extends SetIrqsRequest {
  readonly owned: (EventTrigger | null)[];
}

/** Takes the trigger at a place over; undefined for -1. */
export function takeTrigger(request: OwnedRequest, at: number): EventTrigger | undefined {
  const trigger = request.owned[at] ?? undefined;
  if (at < request.owned.length) request.owned[at] = null;
  return trigger;
}
