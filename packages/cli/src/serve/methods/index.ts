import { handover } from './handover.js';
import { info } from './info.js';
import type { ControlMethod } from './method.js';
import { metrics } from './metrics.js';
import { migrateIn } from './migrate-in.js';
import { migrateOut } from './migrate-out.js';
import { migrateTakeBack } from './migrate-take-back.js';
import { state } from './state.js';
import { trace } from './trace.js';

/** The methods of the control socket. A new one is a file here and a line below. */
export const METHODS = {
  info,
  state,
  metrics,
  trace,
  'migrate-in': migrateIn,
  'migrate-out': migrateOut,
  'migrate-take-back': migrateTakeBack,
  handover,
} as const;

export type MethodName = keyof typeof METHODS;

type Parts<M extends MethodName> =
  (typeof METHODS)[M] extends ControlMethod<infer P, infer R, infer G> ? { params: P; result: R; progress: G } : never;

export type ParamsOf<M extends MethodName> = Parts<M>['params'];
export type ResultOf<M extends MethodName> = Parts<M>['result'];
export type ProgressOf<M extends MethodName> = Parts<M>['progress'];
