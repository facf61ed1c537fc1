import {
  deviceOf,
  type MigrationData,
  OpsRegistry,
  PciBus,
  type VfioDevice,
  type VfioDeviceProvider,
} from '@vfio/core';
import { type Clock, type EmulatedFunction, EmulatedPciHost, SerialCard } from '@vfio/emulated';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '@vfio/uapi';
import { afterEach } from 'vitest';
import { serialVfioPciDriver } from '../../src/index.js';
import type { StreamMinor } from '../../src/stream.js';

export const STATE = {
  STOP: VFIO_DEVICE_STATE_STOP,
  RUNNING: VFIO_DEVICE_STATE_RUNNING,
  STOP_COPY: VFIO_DEVICE_STATE_STOP_COPY,
  RESUMING: VFIO_DEVICE_STATE_RESUMING,
  RUNNING_P2P: VFIO_DEVICE_STATE_RUNNING_P2P,
  PRE_COPY: VFIO_DEVICE_STATE_PRE_COPY,
  PRE_COPY_P2P: VFIO_DEVICE_STATE_PRE_COPY_P2P,
} as const;

const cleanUp: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of cleanUp.splice(0).reverse()) await step();
});

export interface CardOptions {
  readonly ports?: 1 | 2;
  readonly minor?: StreamMinor;
  readonly clock?: Clock;
}

export async function stateOf(device: VfioDevice): Promise<number> {
  const flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
  return ((await device.deviceFeature({ flags })) as { state: number }).state;
}

/** A card with the driver, opened. */
export class Card {
  readonly provider: VfioDeviceProvider;
  readonly device: VfioDevice;
  readonly fn: EmulatedFunction<SerialCard>;

  private constructor(provider: VfioDeviceProvider, device: VfioDevice, fn: EmulatedFunction<SerialCard>) {
    this.provider = provider;
    this.device = device;
    this.fn = fn;
  }

  static async open({ ports = 2, minor = 1, clock }: CardOptions = {}): Promise<Card> {
    const host = new EmulatedPciHost(clock === undefined ? {} : { clock });
    const fn = host.add({ address: '0000:00:03.0', model: (ctx) => new SerialCard(ctx, { ports }) });
    const bus = new PciBus(host, { ops: new OpsRegistry() });
    const driver = serialVfioPciDriver({ minor });
    await bus.register(driver);
    await bus.bindOverride(fn, driver.name);
    const provider = deviceOf(bus, fn);
    const device = await provider.open();
    cleanUp.push(
      () => bus.close(),
      () => device.close(),
    );
    return new Card(provider, device, fn);
  }

  read(port: number, register: number): number {
    const byte = new Uint8Array(1);
    this.device.read(port, register, byte);
    return byte[0] ?? 0;
  }

  write(port: number, register: number, value: number): void {
    void this.device.write(port, register, Uint8Array.of(value));
  }

  config(offset: number, bytes: readonly number[]): void {
    void this.device.write(7, offset, Uint8Array.from(bytes));
  }

  state(): Promise<number> {
    return stateOf(this.device);
  }

  async set(state: number): Promise<MigrationData | undefined> {
    const flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
    return ((await this.device.deviceFeature({ flags, value: { state } })) as { data: MigrationData | undefined }).data;
  }

  async stream(state: number): Promise<MigrationData> {
    const data = await this.set(state);
    if (data === undefined) throw new Error(`no stream in state ${state}`);
    return data;
  }

  /** The whole state; the card is STOPped then. */
  async save(): Promise<Uint8Array> {
    const data = await this.stream(STATE.STOP_COPY);
    const bytes = new Uint8Array(4096);
    const length = await data.read(bytes);
    await this.set(STATE.STOP);
    return bytes.subarray(0, length);
  }

  /** Loads a state; the card is STOPped then. */
  async load(bytes: Uint8Array): Promise<void> {
    const data = await this.stream(STATE.RESUMING);
    await data.write(bytes);
    await this.set(STATE.STOP);
  }
}
