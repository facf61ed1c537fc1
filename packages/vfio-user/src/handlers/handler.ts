import type { MigrationData, VfioDevice } from '@vfio/core';
import type { VfioError } from '@vfio/uapi';
import type { ChunkedVectors } from '../chunked-vectors.js';
import type { CompatPolicy } from '../compat.js';
import type { ClientMemory } from '../dma.js';
import type { AgreedLimits } from '../negotiation.js';
import type { RegionMemory } from '../region-memory.js';
import type { Reply, Request } from '../request.js';
import type { ServiceLoop } from '../service-loop.js';

/** What a handler sees of the session: an attached client, its device and what belongs to both. */
export interface HandlerContext {
  readonly device: VfioDevice;
  readonly loop: ServiceLoop;
  readonly limits: AgreedLimits;
  readonly compat: CompatPolicy;
  /** What the client mapped. */
  readonly memory: ClientMemory;
  /** What the client may map of the device's regions. */
  readonly regions: RegionMemory;
  /** The stream of a migration that is under way. */
  migrationData: MigrationData | undefined;
  /** The state that the client last set; undefined: none. */
  migrationState: number | undefined;
  /** The device lives on at another server; what is left here is stopped, until it is reset. */
  hasMoved: boolean;
  /** The client has the device log its writes. */
  isLogging: boolean;
  /** Indexes of interrupts that the client gave descriptors for, or was found to have lost them. */
  readonly irqsGiven: Set<number>;
  /** Triggers of indexes that cannot grow, by index. */
  readonly chunkedVectors: Map<number, ChunkedVectors>;
  /** A sentence for the log. */
  warn(message: string): void;
  /** The same for what a posted command could not do; not every one of many is told. */
  warnPosted(command: number, error: VfioError): void;
}

/**
 * Carries out one command. Throws `VfioError` with the errno that the client gets; descriptors of the request that it
 * does not take are closed after it.
 */
export type Handler = (context: HandlerContext, request: Request) => Reply | Promise<Reply>;
