import type { VfioUserServer } from '@vfio/vfio-user';

/** The client that is attached, for people who ask. */
export interface ClientReport {
  /** Who it is, or is taken for. */
  readonly peer: string;
  /** Null where the socket does not tell. */
  readonly pid: number | null;
  /** When it attached, ISO 8601. */
  readonly since: string;
}

/** Null where none is attached. */
export function clientReport({ client }: VfioUserServer): ClientReport | null {
  if (client === undefined) return null;
  return { peer: client.peer, pid: client.pid ?? null, since: new Date(client.since).toISOString() };
}
