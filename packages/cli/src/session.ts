import {
  errnoError,
  normalizePciAddress,
  OpsRegistry,
  PciBus,
  type PciDriver,
  type PciFunction,
  type PciHost,
} from '@vfio/core';
import type { InstalledDrivers } from '@vfio/core/node';
import type { KernelModules, LinuxPciHost } from '@vfio/linux';

/** A host with its bus, and the drivers that can be had: what the commands on emulated functions work on. */
export interface Session {
  readonly host: PciHost;
  readonly bus: PciBus;
  readonly drivers: InstalledDrivers;
  /** Drivers that the user wants for functions, by address: `driver_override`. */
  readonly overrides: Map<string, string>;
}

/** The machine's functions and the kernel's drivers. */
export interface LinuxMachine {
  readonly host: LinuxPciHost;
  readonly modules: KernelModules;
}

/** The machine beside the drivers that can be had: the kernel has its functions, so there is no bus of ours. */
export interface LinuxSession extends LinuxMachine {
  readonly drivers: InstalledDrivers;
}

export function openSession(host: PciHost, drivers: InstalledDrivers, warn: (message: string) => void): Session {
  const bus = new PciBus(host, {
    ops: new OpsRegistry(),
    warn: ({ device, message }) => warn(`${device}: ${message}`),
  });
  return { host, bus, drivers, overrides: new Map() };
}

/** Whether a text has the form of an address, whatever is there. */
export const isAddress = (text: string): boolean => /^([0-9a-f]{1,8}:)?[0-9a-f]{1,2}:[0-9a-f]{1,2}\.[0-7]$/i.test(text);

/** What of a host it takes to find its functions. */
interface FunctionsOf<F> {
  readonly name: string;
  functions(): readonly F[];
  find(address: string): F | undefined;
}

/** The function at an address as people write it: `0000:00:04.0` or `00:04.0`. @throws EINVAL, ENODEV naming those that are there. */
export function findFunction<F extends PciFunction>(host: FunctionsOf<F>, text: string): F {
  const address = normalizePciAddress(text);
  const fn = host.find(address);
  if (fn !== undefined) return fn;
  const known = host.functions().map((other) => other.address);
  throw errnoError(
    'ENODEV',
    `no function ${address} on the ${host.name} host; there ${known.length === 0 ? 'is none' : `are ${known.join(', ')}`}`,
    {
      op: 'find',
      device: address,
      // Of the default host the command's own hint is right.
      ...(host.name === 'linux'
        ? { details: { try: '`vfio list --host linux` shows the functions of this machine' } }
        : {}),
    },
  );
}

/**
 * Binds the driver that the user wants for a function, else the one that is named, else the best.
 * @throws what matching, loading and probing throw
 */
export function bindFunction(session: Session, fn: PciFunction, named?: string): Promise<PciDriver> {
  const { bus, drivers, overrides } = session;
  const driver = overrides.get(fn.address) ?? named;
  return driver === undefined ? bus.bindBest(fn, drivers) : bus.bindOverride(fn, driver, drivers);
}
