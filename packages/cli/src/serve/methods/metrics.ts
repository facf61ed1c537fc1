import type { CommandCount } from '@vfio/vfio-user';
import { type ClientReport, clientReport } from './client-report.js';
import { defineMethod } from './method.js';

/** Counts since the server started. */
export interface ServedMetrics {
  readonly address: string;
  /** Clients that have attached so far, and the one that is attached. */
  readonly clients: number;
  readonly client: ClientReport | null;
  /** Messages of clients by command: how many, answered with an error, bytes. */
  readonly commands: Readonly<Record<string, CommandCount>>;
  /** Of all messages. */
  readonly bytes: { readonly received: number; readonly sent: number };
  /** What waits now, and behind what. */
  readonly queue: { readonly messages: number; readonly bytes: number; readonly running: string | null };
}

export const metrics = defineMethod({
  params: () => ({}),
  run: ({ address, server }): ServedMetrics => {
    const { clients, commands, bytes, queue } = server.stats();
    return {
      address,
      clients,
      client: clientReport(server),
      commands,
      bytes,
      queue: { ...queue, running: queue.running ?? null },
    };
  },
});
