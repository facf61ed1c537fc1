import type { HostSetup } from '../host-setup.js';
import type { AnswerMessage, CallMessage } from './control/messages.js';
import type { FileDrive } from './host.js';
import type { PlainError } from './plain-error.js';

/** Plain messages between the command and the thread that serves: nothing else crosses. */

/** One function to be served and where. */
export interface ServeTarget {
  readonly address: string;
  readonly driver: string | undefined;
  /** A socket file, a descriptor that was inherited, or where another server hands its client over. */
  readonly socket:
    | { readonly path: string; readonly mode?: number; readonly group?: string }
    | { readonly fd: number }
    | { readonly incoming: { readonly path: string } };
}

/** What a serving thread is started with. */
export interface ServeJob {
  readonly cwd: string;
  readonly script: string | undefined;
  readonly targets: readonly ServeTarget[];
  readonly compat: string | undefined;
  readonly traceFile: string | undefined;
  readonly hostOptions: HostOptions;
  /** What is done to functions of that host first. */
  readonly setup: HostSetup;
  /** Shared: where the thread shows what it does, for the command to see when it does not come back. */
  readonly pulse: Int32Array;
}

/** How the emulated host is made. */
export interface HostOptions {
  /** A file in which the namespace of the NVMe drive that is served is kept. */
  readonly nvmeFile?: string | undefined;
  /** Which drive that is. */
  readonly nvmeDrive?: FileDrive | undefined;
  /** Its size in bytes where it is new. */
  readonly nvmeSize?: number | undefined;
}

export type FromServer =
  | {
      readonly type: 'listening';
      readonly address: string;
      readonly driver: string;
      readonly ops: string;
      /** Null for a descriptor. */
      readonly socket: string | null;
    }
  | {
      readonly type: 'waiting';
      readonly address: string;
      readonly driver: string;
      readonly ops: string;
      readonly incoming: string;
    }
  | {
      readonly type: 'attached';
      readonly address: string;
      readonly peer: string;
      /** Null where the socket does not tell. */
      readonly pid: number | null;
    }
  | { readonly type: 'detached'; readonly address: string; readonly reason: string }
  | { readonly type: 'warning'; readonly address: string | null; readonly message: string }
  | ({ readonly type: 'failed' } & PlainError)
  | { readonly type: 'ready' }
  | AnswerMessage;

export type ToServer = { readonly type: 'stop' } | CallMessage;
