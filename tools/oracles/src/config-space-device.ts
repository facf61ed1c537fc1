import {
  deviceOf,
  functionOverDevice,
  PciBus,
  type PciFunction,
  type PciHost,
  type VfioDevice,
  type VfioPciCoreDevice,
} from '@vfio/core';
import { PCI_HEADER_TYPE, PCI_HEADER_TYPE_MASK, PCI_REVISION_ID, VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { hardwareOf, isVirtualFunction, type RecordedHardware } from './config-space-hardware.js';
import type { ConfigSpaceRecording } from './config-space-recording.js';
import type { ReplayTarget } from './config-space-replay.js';

/** A host with the functions that are put there. */
class ListHost implements PciHost {
  readonly name = 'recorded';
  readonly list: PciFunction[] = [];

  functions(): readonly PciFunction[] {
    return this.list;
  }

  find(address: string): PciFunction | undefined {
    return this.list.find((fn) => fn.address === address);
  }

  watch(): () => void {
    return () => {};
  }
}

/** A recorded function as its host would describe it. */
function recordedFunction(host: PciHost, recording: ConfigSpaceRecording, base: RecordedHardware): PciFunction {
  const physical: PciFunction = {
    address: recording.address,
    vendor: recording.vendor,
    device: recording.device,
    subvendor: recording.subsystemVendor,
    subdevice: recording.subsystemDevice,
    class: recording.class,
    revision: recording.openHardware[PCI_REVISION_ID]!,
    headerType: recording.openHardware[PCI_HEADER_TYPE]! & PCI_HEADER_TYPE_MASK,
    host,
    iommuGroup: 1,
    physfn: undefined,
    vfIndex: undefined,
    base,
    platform: () => undefined,
  };
  // Nothing is known of the physical function but that there is one.
  const physfn: PciFunction = { ...physical, address: `${recording.address.slice(0, -4)}1f.7` };
  return isVirtualFunction(recording) ? { ...physical, physfn, vfIndex: 0 } : physical;
}

/** Binds the generic driver to a function on a bus of its own, as somebody does who asks for it. */
async function bind(make: (host: PciHost) => PciFunction): Promise<VfioPciCoreDevice> {
  const host = new ListHost();
  const fn = make(host);
  host.list.push(fn);
  const bus = new PciBus(host);
  const driver = vfioPciDriver();
  await driver.load(bus);
  await bus.bindOverride(fn, driver.name);
  return deviceOf(bus, fn);
}

/** A device that was opened over a recording, and the hardware below. */
export interface OpenedRecording extends ReplayTarget {
  readonly device: VfioDevice;
}

function target(device: VfioDevice, hardware: Uint8Array): OpenedRecording {
  return {
    device,
    hardware,
    read: (offset, data) => device.read(VFIO_PCI_CONFIG_REGION_INDEX, offset, data),
    write: (offset, data) => device.write(VFIO_PCI_CONFIG_REGION_INDEX, offset, data),
  };
}

/** The recorded function on a bus, bound to the generic driver and opened. */
export async function openRecording(recording: ConfigSpaceRecording): Promise<OpenedRecording> {
  const hardware = hardwareOf(recording);
  const dev = await bind((host) => recordedFunction(host, recording, hardware));
  return target(await dev.open(), hardware.config.bytes);
}

/** The same, offered as an already-VFIO function and opened by a second device on a second bus. */
export async function openRecordingTwice(recording: ConfigSpaceRecording): Promise<OpenedRecording> {
  const hardware = hardwareOf(recording);
  const lower = await bind((host) => recordedFunction(host, recording, hardware));
  const upper = await bind(() => functionOverDevice(lower));
  return target(await upper.open(), hardware.config.bytes);
}
