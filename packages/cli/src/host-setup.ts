import { errnoError, normalizePciAddress, type PciFunction, type PciHost } from '@vfio/core';
import { bindFunction, findFunction, type Session } from './session.js';
import { UsageError } from './usage-error.js';

/** What is done to the functions of the emulated host before a command looks at them, in the words of sysfs. */
export interface HostSetup {
  /** `driver_override` of functions: what takes each instead of the best. */
  readonly driverOverride: readonly { readonly address: string; readonly driver: string }[];
  /** `sriov_numvfs` of physical functions, each under its driver. */
  readonly sriovNumvfs: readonly { readonly address: string; readonly count: number }[];
}

/** `0000:05:00.0=mlx5_core` and `0000:05:00.0=2` as they stand on the command line. @throws {@link UsageError}, EINVAL */
export function parseHostSetup(driverOverride: readonly string[], sriovNumvfs: readonly string[]): HostSetup {
  return {
    driverOverride: pairs('--driver-override', driverOverride).map(([address, driver]) => ({ address, driver })),
    sriovNumvfs: pairs('--sriov-numvfs', sriovNumvfs).map(([address, text]) => {
      if (!/^\d{1,5}$/.test(text)) throw new UsageError(`--sriov-numvfs ${address}=${text}: how many, a whole number`);
      return { address, count: Number(text) };
    }),
  };
}

function pairs(option: string, texts: readonly string[]): [address: string, value: string][] {
  const found = texts.map((text): [string, string] => {
    const [, address = '', value = ''] = /^([^=]+)=(.+)$/.exec(text) ?? [];
    if (address === '') throw new UsageError(`${option} "${text}": it must be ADDRESS=VALUE`);
    return [normalizePciAddress(address), value];
  });
  const twice = found.find(([address], index) => found.findIndex(([other]) => other === address) !== index);
  if (twice !== undefined) throw new UsageError(`${option} has ${twice[0]} twice`);
  return found;
}

/** Whether a command's functions have anything to do with one that is set up. */
const concerns = (address: string, functions: readonly PciFunction[]): boolean =>
  functions.some((fn) => fn.address === address || fn.physfn?.address === address);

/** The part of a setup that functions need: those and the physical functions that they belong to. */
export function setupFor(setup: HostSetup, functions: readonly PciFunction[]): HostSetup {
  return {
    driverOverride: setup.driverOverride.filter(({ address }) => concerns(address, functions)),
    sriovNumvfs: setup.sriovNumvfs.filter(({ address }) => concerns(address, functions)),
  };
}

/**
 * Makes virtual functions appear, without a driver for the physical ones: which there are does not depend on it.
 * @throws ENODEV for a function that is not there or has no SR-IOV, EINVAL for more than there can be
 */
export async function enableVirtualFunctions(host: PciHost, { sriovNumvfs }: HostSetup): Promise<void> {
  for (const { address, count } of sriovNumvfs) {
    const pf = findFunction(host, address);
    if (pf.base.kind !== 'raw' || pf.base.sriov === undefined) {
      throw errnoError('ENODEV', 'the function has no SR-IOV capability', { op: 'sriov_numvfs', device: address });
    }
    if (count > 0) await pf.base.sriov.enable(count);
  }
}

/**
 * Sets functions up: overrides are kept for when each is bound; a physical function that has one is bound now and its driver
 * makes its virtual ones, else nobody drives it, as under the kernel's `pci-pf-stub`.
 * @throws as {@link enableVirtualFunctions}, and what binding throws
 */
export async function setUpHost(session: Session, setup: HostSetup): Promise<void> {
  const { bus, host, overrides } = session;
  for (const { address, driver } of setup.driverOverride) overrides.set(address, driver);
  for (const numvfs of setup.sriovNumvfs) {
    const { address, count } = numvfs;
    if (!overrides.has(address)) {
      await enableVirtualFunctions(host, { driverOverride: [], sriovNumvfs: [numvfs] });
      continue;
    }
    const pf = findFunction(host, address);
    await bindFunction(session, pf);
    await bus.sriovConfigure(pf, count);
  }
  for (const [address, driver] of overrides) bus.setDriverOverride(findFunction(host, address), driver);
}
