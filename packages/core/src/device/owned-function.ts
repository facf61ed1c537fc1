import {
  errnoError,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';
import type { PciFunction } from '../pci/function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import {
  vfioPciCoreAllocDevice,
  vfioPciCorePutDevice,
  vfioPciCoreRegisterDevice,
  vfioPciCoreUnregisterDevice,
} from './lifecycle.js';
import type { VfioDevice } from './vfio-device.js';

/** Who drives a function in this process. */
const owners = new WeakMap<PciFunction, string>();

/**
 * A function that its driver keeps for itself, as the kernel's own drivers do: opened, decoding and mastering the bus. It is
 * a device of core's that nobody else can open, as it is not on the bus. One owner at a time in a process.
 */
export class OwnedFunction {
  readonly handle: VfioDevice;
  readonly #dev: VfioPciCoreDevice;

  private constructor(dev: VfioPciCoreDevice, handle: VfioDevice) {
    this.#dev = dev;
    this.handle = handle;
  }

  /** @param owner the driver's name @throws EBUSY naming the owner, what opening throws; nothing is kept then. */
  static async open(fn: PciFunction, owner: string, warn: (message: string) => void): Promise<OwnedFunction> {
    const before = owners.get(fn);
    if (before !== undefined)
      throw errnoError(
        'EBUSY',
        `${before} on another bus of this process has the function; one owner at a time can drive it`,
        {
          op: 'probe',
          device: fn.address,
        },
      );
    owners.set(fn, owner);
    const dev = vfioPciCoreAllocDevice(fn, (core) => ({ ...core, name: owner.replaceAll('_', '-') }), { warn });
    let handle: VfioDevice | undefined;
    try {
      await vfioPciCoreRegisterDevice(dev);
      handle = await dev.open();
      await enableBus(handle);
      return new OwnedFunction(dev, handle);
    } catch (error) {
      await handle?.close();
      await release(dev);
      throw error;
    }
  }

  /** Closes the function, and lets others have it. */
  async close(): Promise<void> {
    await this.handle.close();
    await release(this.#dev);
  }
}

async function release(dev: VfioPciCoreDevice): Promise<void> {
  await vfioPciCoreUnregisterDevice(dev);
  vfioPciCorePutDevice(dev);
  owners.delete(dev.fn);
}

/** Memory decode and bus mastering, which a VFIO device has off when it is opened. */
async function enableBus(handle: VfioDevice): Promise<void> {
  const bytes = new Uint8Array(2);
  handle.read(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, bytes);
  bytes[0] = (bytes[0] ?? 0) | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
  await handle.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, bytes);
}
