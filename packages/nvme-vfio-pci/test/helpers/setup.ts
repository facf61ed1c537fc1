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
import { type BlockStore, EmulatedPciHost, NvmeController, SparseMemoryStore } from '@vfio/emulated';
import { PCI_ANY_ID } from '@vfio/uapi';
import { nvmeVfioPciDriver } from '../../src/index.js';
import { RegisterModel } from './register-model.js';

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

export type Base = 'hardware' | 'a VFIO device';

/** A drive with its data in `store`, its device on one of the two bases, and what the driver warned of. */
export async function drive(
  driver: 'variant' | 'generic',
  options: { base?: Base; store?: BlockStore; cacheSize?: number } = {},
) {
  const { base = 'hardware', store = new SparseMemoryStore(), cacheSize = 0x100000 } = options;
  const host = new EmulatedPciHost();
  const fn = host.add({
    address: '0000:00:03.0',
    model: (ctx) => new NvmeController(ctx, { namespaces: [{ size: 0x100000, store }], cacheSize }),
  });
  const warnings: string[] = [];
  const chosen = driver === 'generic' ? generic : nvmeVfioPciDriver({ warn: (text) => void warnings.push(text) });
  const device =
    base === 'hardware' ? await bind(host, fn, chosen) : await bindOver(await bind(host, fn, generic), chosen);
  return { host, fn, store, device, warnings, controller: fn.model };
}

/** A controller that is all registers, below the variant. */
export async function registers(options: { shutdownTimeoutMs?: number } = {}) {
  const host = new EmulatedPciHost();
  const fn = host.add({ address: '0000:00:03.0', model: (ctx) => new RegisterModel(ctx) });
  const warnings: string[] = [];
  const driver = nvmeVfioPciDriver({ ...options, warn: (text) => void warnings.push(text) });
  return { host, fn, model: fn.model, warnings, device: await bind(host, fn, driver) };
}
