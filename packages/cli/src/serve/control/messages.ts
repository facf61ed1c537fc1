import type { PlainError } from '../plain-error.js';

/** Plain messages about calls on the control socket: the command's thread takes calls, the serving thread carries them out. */

/** Of the command, to the thread that serves `address`. */
export type CallMessage =
  | {
      readonly type: 'call';
      /** Not used twice while its call runs. */
      readonly id: number;
      readonly address: string;
      readonly method: string;
      readonly params: unknown;
    }
  /** Nobody waits for the call any more; its answer comes all the same. */
  | { readonly type: 'cancel'; readonly id: number };

/** Of the serving thread: any number of `progress`, then one of the others. */
export type AnswerMessage =
  | { readonly type: 'progress'; readonly id: number; readonly value: unknown }
  | { readonly type: 'result'; readonly id: number; readonly value: unknown }
  | {
      readonly type: 'error';
      readonly id: number;
      /** Whose mistake it is: the parameters are not what the method takes, the method failed, or it was cancelled. */
      readonly kind: 'params' | 'failed' | 'cancelled';
      readonly error: PlainError;
    };
