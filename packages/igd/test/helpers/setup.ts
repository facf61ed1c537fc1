import {
  deviceOf,
  functionOverDevice,
  OpsRegistry,
  PciBus,
  type PciDriver,
  type PciFunction,
  type PciHost,
  pciDriverOverrideDeviceVfio,
  type VfioPciCoreDevice,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
} from '@vfio/core';
import { addIgd, EmulatedPciHost, type IgdOptions, type OpRegionOptions } from '@vfio/emulated';
import { PCI_ANY_ID } from '@vfio/uapi';
import { igdVfioPciDriver } from '../../src/index.js';

/** A driver that changes nothing: what the generic one does. */
export const generic: PciDriver = {
  name: 'vfio-pci',
  idTable: [pciDriverOverrideDeviceVfio(PCI_ANY_ID, PCI_ANY_ID)],
  async probe(fn, _id, bus) {
    await vfioPciCoreProbe(bus, fn, { ops: (core) => ({ ...core, name: 'vfio-pci' }) });
  },
  remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
};

export async function bind(host: PciHost, fn: PciFunction, driver: PciDriver): Promise<VfioPciCoreDevice> {
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(driver);
  await bus.bindOverride(fn, driver.name);
  return deviceOf(bus, fn);
}

/** A driver over a function that is a VFIO device already, as the kernel's is. */
export function bindOver(below: Parameters<typeof functionOverDevice>[0], driver: PciDriver) {
  const fn = functionOverDevice(below);
  const host: PciHost = {
    name: 'over-device',
    functions: () => [fn],
    find: (address) => (address === fn.address ? fn : undefined),
    watch: () => () => {},
  };
  return bind(host, fn, driver);
}

/** A machine with integrated graphics, its device bound to the variant. */
export async function machine(options: OpRegionOptions & Pick<IgdOptions, 'class'> = {}) {
  const host = new EmulatedPciHost();
  const made = addIgd(host, options);
  return { host, ...made, device: await bind(host, made.igd, igdVfioPciDriver()) };
}
