import { callbackTrigger } from '@vfio/core';
import { VfioUserClient } from '@vfio/vfio-user';
import { ENGINE_MEMORY, ENGINE_VECTOR, type EnginePlace } from './engine-program.js';
import { Registers } from './registers.js';

const CONFIG_REGION = 7;
const COMMAND = 0x04;
const MEMORY_AND_MASTER = 0x6;
const MSIX = 2;
const DATA_EVENTFD_ACTION_TRIGGER = 0x4 | 0x20;

/** Where every place has its memory, for the device. */
export const ENGINE_IOVA = 0x100000;

/** A served function, attached to as a VMM would: memory by descriptor, interrupts by eventfd. */
export class ServedPlace implements EnginePlace {
  readonly path: string;
  readonly device: VfioUserClient;
  readonly memory: Uint8Array;
  readonly #signal: () => void;

  private constructor(path: string, device: VfioUserClient, memory: Uint8Array, signal: () => void) {
    this.path = path;
    this.device = device;
    this.memory = memory;
    this.#signal = signal;
  }

  /** @param signal called for each interrupt */
  static async attach(path: string, signal: () => void): Promise<ServedPlace> {
    const device = await VfioUserClient.connect(path);
    try {
      const { bytes } = await device.dmaAlloc({ iova: BigInt(ENGINE_IOVA), size: ENGINE_MEMORY });
      const place = new ServedPlace(path, device, bytes, signal);
      await place.#enable();
      return place;
    } catch (error) {
      await device.close();
      throw error;
    }
  }

  async #enable(): Promise<void> {
    await new Registers(this.device, CONFIG_REGION).update16(COMMAND, MEMORY_AND_MASTER);
    const triggers = Array.from({ length: ENGINE_VECTOR + 1 }, (_, vector) =>
      vector === ENGINE_VECTOR ? callbackTrigger(this.#signal) : null,
    );
    const count = triggers.length;
    await this.device.setIrqs({ flags: DATA_EVENTFD_ACTION_TRIGGER, index: MSIX, start: 0, count, triggers });
  }

  /** After the function has moved away: as good as new, so that it may come back. */
  async renew(): Promise<void> {
    await this.device.reset();
    await this.#enable();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.device.close();
  }
}
