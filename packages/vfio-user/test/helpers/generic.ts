import { deviceOf, OpsRegistry, PciBus, type PciDriver, type PciFunction, type VfioDeviceProvider } from '@vfio/core';
import { type DeviceModel, EmulatedPciHost, type EmulatedPciHostOptions, type FunctionContext } from '@vfio/emulated';
import { vfioPciDriver } from '@vfio/vfio-pci';

/** The device of a driver that is bound to a function. */
export async function bind(fn: PciFunction, driver: PciDriver = vfioPciDriver()): Promise<VfioDeviceProvider> {
  const host = {
    name: 'test',
    functions: () => [fn],
    find: (address: string) => (address === fn.address ? fn : undefined),
    watch: () => () => {},
  };
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(driver);
  await bus.bindOverride(fn, driver.name);
  return deviceOf(bus, fn);
}

/** A model behind the generic driver. */
export async function generic<M extends DeviceModel>(
  model: (ctx: FunctionContext) => M,
  options: EmulatedPciHostOptions = {},
) {
  const fn = new EmulatedPciHost(options).add({ address: '0000:00:03.0', model });
  return { device: await bind(fn), fn, model: fn.model };
}
