import { type ConfigSpaceHost, type PciPowerState, VirtualConfigSpace } from '@vfio/core';
import { PCI_COMMAND, PCI_COMMAND_INTX_DISABLE } from '@vfio/uapi';
import { hardwareOf, isVirtualFunction } from './config-space-hardware.js';
import type { ConfigSpaceRecording } from './config-space-recording.js';
import type { ReplayTarget } from './config-space-replay.js';

/** Virtual config space alone, on a host that does of a device's work only what COMMAND needs. */
export function bareTarget(recording: ConfigSpaceRecording): ReplayTarget {
  const raw = hardwareOf(recording);
  const { config } = raw;
  const setDisIntx = (on: boolean): void => {
    const command = config.read(PCI_COMMAND, 2);
    config.write(PCI_COMMAND, 2, on ? command | PCI_COMMAND_INTX_DISABLE : command & ~PCI_COMMAND_INTX_DISABLE);
  };
  const powerState: PciPowerState = 0;
  const host: ConfigSpaceHost = {
    raw,
    address: recording.address,
    vendor: recording.vendor,
    device: recording.device,
    isVf: isVirtualFunction(recording),
    noCommandMemory: isVirtualFunction(recording),
    intxUsable: raw.interrupts.intxLine !== undefined,
    nointx: false,
    virqDisabled: false,
    maskIntx: () => setDisIntx(true),
    unmaskIntx: () => setDisIntx(false),
    msiActive: false,
    msiQmax: 0,
    powerState,
    setPowerState() {},
    tryResetFunction() {},
    lockMemory() {},
    unlockMemory() {},
    warn() {},
  };
  const space = new VirtualConfigSpace(host);
  space.init();
  return {
    read: (offset, data) => space.read(offset, data),
    write: (offset, data) => space.write(offset, data),
    hardware: config.bytes,
  };
}
