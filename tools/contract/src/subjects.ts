import { readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  deviceOf,
  functionOverDevice,
  OpsRegistry,
  PciBus,
  type PciDriver,
  type PciFunction,
  type PciHost,
  toClient,
  type VfioDeviceProvider,
} from '@vfio/core';
import type { MemoryProvider } from '@vfio/emulated';
import { mappingCount, memfdCreate, mmap } from '@vfio/native';
import type { ContractSubject, DeviceWorkload } from '@vfio/testing';
import { type ConnectOptions, VfioUserClient, VfioUserServer } from '@vfio/vfio-user';

/** What this process holds of the system: open descriptors and mappings. */
export function handles(): number {
  // The listing itself has one open.
  return readdirSync('/proc/self/fd').length - 1 + mappingCount();
}

/** BAR memory that a client can map. It is the device's, which lives as long as the test. */
export const sharedMemory: MemoryProvider = {
  allocate(size, options = {}) {
    if (options.shared !== true) return { bytes: new Uint8Array(size), fd: undefined, fdOffset: 0 };
    const fd = memfdCreate('bar', { size });
    return { bytes: mmap(fd, 0, size).bytes, fd, fdOffset: 0 };
  },
};

/** Binds a driver to a function and gives its device. */
export async function bound(host: PciHost, fn: PciFunction, driver: PciDriver): Promise<VfioDeviceProvider> {
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(driver);
  await bus.bindOverride(fn, driver.name);
  return deviceOf(bus, fn);
}

/** Binds a driver to a physical function and another to two virtual ones of it. */
export async function virtualFunctions(
  host: PciHost,
  pf: PciFunction,
  pfDriver: PciDriver,
  driver: PciDriver,
): Promise<{ readonly bus: PciBus; readonly devices: readonly VfioDeviceProvider[] }> {
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(pfDriver);
  await bus.register(driver);
  await bus.bindOverride(pf, pfDriver.name);
  await bus.sriovConfigure(pf, 2);
  const devices: VfioDeviceProvider[] = [];
  for (const fn of host.functions()) {
    if (fn.physfn !== pf) continue;
    await bus.bindOverride(fn, driver.name);
    devices.push(deviceOf(bus, fn));
  }
  return { bus, devices };
}

/** The device, called directly. */
export async function local(device: VfioDeviceProvider): Promise<ContractSubject> {
  const opened = await device.open();
  return { device: toClient(opened), close: async () => opened.close() };
}

/** The same driver over a function that is a VFIO device already: the first one's. */
export async function overDevice(device: VfioDeviceProvider, driver: PciDriver): Promise<VfioDeviceProvider> {
  const fn = functionOverDevice(device);
  const host: PciHost = {
    name: 'over-device',
    functions: () => [fn],
    find: (address) => (address === fn.address ? fn : undefined),
    watch: () => () => {},
  };
  return bound(host, fn, driver);
}

/** Memory that a client of a socket shares with its server. */
export const dmaAlloc: DeviceWorkload['map'] = async (device, iova, size) =>
  (await (device as VfioUserClient).dmaAlloc({ iova, size })).bytes;

/** A device that is served in this thread, for clients one after the other. */
export class Served {
  readonly #server: VfioUserServer;
  readonly #folder: string;
  readonly path: string;
  readonly #options: ConnectOptions;

  private constructor(server: VfioUserServer, folder: string, path: string, options: ConnectOptions) {
    this.#server = server;
    this.#folder = folder;
    this.path = path;
    this.#options = options;
  }

  static async start(device: VfioDeviceProvider, options: ConnectOptions = {}): Promise<Served> {
    const folder = await mkdtemp(join(tmpdir(), 'vfio-contract-'));
    const path = join(folder, 'socket');
    const server = new VfioUserServer(device);
    await server.listen(path);
    return new Served(server, folder, path, options);
  }

  async open(): Promise<ContractSubject> {
    const client = await VfioUserClient.connect(this.path, this.#options);
    return {
      device: client,
      close: async () => {
        await client.close();
        await this.idle();
      },
    };
  }

  /** The server is done with a client only when its device is closed: what it held counts until then. */
  async idle(): Promise<void> {
    while (this.#server.isBusy) await new Promise((resolve) => setImmediate(resolve));
  }

  async stop(): Promise<void> {
    await this.#server.close();
    await rm(this.#folder, { recursive: true });
  }
}
