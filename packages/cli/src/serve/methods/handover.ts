import { defineMethod } from './method.js';

export interface HandoverParams {
  /** Where the other server waits: its --incoming. */
  readonly to: string;
  /** Milliseconds that the client may have to wait. */
  readonly maxPauseMs?: number | undefined;
}

/** What a handover came to. This server ends then. */
export interface HandoverResult {
  readonly address: string;
  /** The process that serves it now; null where its socket does not tell. */
  readonly pid: number | null;
  /** Milliseconds in which no command of the client was carried out. */
  readonly pauseMs: number;
  /** Bytes of the device's state. */
  readonly stateBytes: number;
  /** Mappings of the client. */
  readonly maps: number;
  /** Commands that came during the pause and went along. */
  readonly waiting: number;
}

/** Above this a guest takes its device for dead: QEMU gives a command up after 5000 ms. */
const MAX_PAUSE_MS = 4000;

export const handover = defineMethod<HandoverParams, HandoverResult>({
  params: (given) => ({
    to: given.path('to'),
    maxPauseMs: given.optionalInteger('maxPauseMs', 1, MAX_PAUSE_MS),
  }),
  run: async ({ address, server }, { to, maxPauseMs }, { signal }) => {
    const report = await server.handover(to, { signal, ...(maxPauseMs === undefined ? {} : { maxPauseMs }) });
    return { address, ...report, pid: report.pid ?? null };
  },
});
