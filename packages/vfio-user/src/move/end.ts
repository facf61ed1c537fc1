import type { VfioDevice } from '@vfio/core';
import type { ClientMemory } from '../dma.js';

/** A device with its client, as one side of a move has them. A server's session is one. */
export interface MoveEnd {
  readonly device: VfioDevice;
  /** What the client has mapped. */
  readonly memory: ClientMemory;
  /** Aborted when the client goes: the device is closed then. */
  readonly left: AbortSignal;
  /** The device lives on at another server; its client's commands are refused. */
  hasMoved: boolean;
  /** The client drives a migration of its own. */
  readonly migrationData: unknown;
  /** Does work between two commands of the client; those that come meanwhile wait. */
  hold<T>(name: string, work: () => Promise<T>): Promise<T>;
  /** Ends the session: the device is closed, and as good as new when it is opened again. */
  end(reason: string): void;
}

/** Where a move is. */
export type MovePhase = 'negotiate' | 'pre-copy' | 'stop-copy' | 'commit' | 'done';

/** How far a move has come. */
export interface MoveProgress {
  readonly phase: MovePhase;
  /** VFIO_DEVICE_STATE_* of the source's device. */
  readonly state: number;
  /** From 0; the last is that in which the device stands still. */
  readonly round: number;
  /** Bytes of the device's state so far, and of memory. */
  readonly stateBytes: number;
  readonly memoryBytes: number;
  /** Bytes that are to go yet, as far as is known now. */
  readonly remainingBytes: number;
  /** Bytes a second, of late. */
  readonly bytesPerSecond: number;
}

/** What a move has come to. */
export interface MoveReport {
  readonly rounds: number;
  readonly stateBytes: number;
  readonly memoryBytes: number;
  /** Bytes of memory that are the same at both ends and went nowhere. */
  readonly sharedBytes: number;
  /** Bytes of memory that the device may only read and that its client has to bring. */
  readonly leftBytes: number;
  readonly totalMs: number;
  /** From when the device stopped at the source to when it ran at the destination. */
  readonly downtimeMs: number;
}

/** Milliseconds between two reports of progress. */
export const PROGRESS_MS = 100;
