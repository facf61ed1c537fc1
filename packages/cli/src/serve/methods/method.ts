import type { PciDriver, PciFunction, VfioPciCoreDevice } from '@vfio/core';
import type { ServiceLoop, VfioUserServer } from '@vfio/vfio-user';
import type { FeatureSource } from '../../migration-features.js';
import type { Session } from '../../session.js';
import type { ParamReader } from './params.js';

/** One function that a thread serves, with all that belongs to it: what a method of the control socket works on. */
export interface Served {
  readonly address: string;
  readonly fn: PciFunction;
  readonly driver: PciDriver;
  /** What is known of the driver's package; undefined for a driver without one. */
  readonly driverVersion: string | undefined;
  readonly device: VfioPciCoreDevice;
  readonly server: VfioUserServer;
  readonly loop: ServiceLoop;
  readonly session: Session;
  /** Aborted when the thread ends, before clients are let go. */
  readonly closing: AbortSignal;
  /** Tells the operator: a warning of the command. */
  readonly warn: (message: string) => void;
}

/** Features of a device, whoever has it open: for questions, not for changes. */
export const featuresOf = (device: VfioPciCoreDevice): FeatureSource => ({
  deviceFeature: (request) => device.ops.deviceFeature(device, request),
});

/** What a running call has. */
export interface CallContext<G> {
  /** Tells the caller how far it is. Plain data. */
  readonly progress: (value: G) => void;
  /** Aborted when the caller cancels the call, has gone, or the server ends. */
  readonly signal: AbortSignal;
}

/**
 * A method of the control socket: parameters `P`, result `R` and progress `G`, all plain data that JSON can carry.
 *
 * **Guarantees**: `params` and `run` are called in the thread that serves the function. `run` may await but must not
 * compute for long: the guest's accesses wait meanwhile. Calls of one function may overlap. A failure leaves things as
 * they were; what is thrown reaches the caller with code and errno.
 */
export interface ControlMethod<P, R, G = never> {
  /** Takes the parameters. Whatever is not taken is refused. @throws EINVAL */
  params(given: ParamReader): P;
  run(served: Served, params: P, call: CallContext<G>): R | Promise<R>;
}

/** Lets TypeScript find the three types. */
export const defineMethod = <P, R, G = never>(method: ControlMethod<P, R, G>): ControlMethod<P, R, G> => method;
