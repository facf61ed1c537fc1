import {
  PCI_BASE_ADDRESS_0,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_DEVICE_ID,
  PCI_REVISION_ID,
  PCI_SUBSYSTEM_ID,
} from '@vfio/uapi';
import { deviceState, intersectRanges, type VfioOpsFactory } from '../../../src/index.js';

const CONFIG = 7;
const BAR0 = 0;
const BAR0_SIZE = 0x20;

/** What the driver keeps for a device: the registers of the old interface, and what the user wrote to BAR 0 and COMMAND. */
class Legacy {
  readonly registers = new Uint8Array(BAR0_SIZE);
  bar0 = 0;
  ioEnabled = false;

  /** The identity of a transitional device, and the I/O BAR that the function does not have. */
  overlay(): { at: number; bytes: number[] }[] {
    const bar = ((this.bar0 & ~(BAR0_SIZE - 1)) | 1) >>> 0;
    return [
      { at: PCI_DEVICE_ID, bytes: [0x00, 0x10] },
      { at: PCI_REVISION_ID, bytes: [0] },
      { at: PCI_SUBSYSTEM_ID, bytes: [0x01, 0x00] },
      { at: PCI_BASE_ADDRESS_0, bytes: [bar & 0xff, (bar >> 8) & 0xff, (bar >> 16) & 0xff, bar >>> 24] },
    ];
  }
}

const legacy = deviceState<Legacy>('virtio-legacy');

/** A driver that shows a modern virtio function as a transitional one: config space overlaid, BAR 0 an I/O BAR in software. */
export const virtioLegacyOps: VfioOpsFactory = (core) => ({
  ...core,
  name: 'virtio-vfio-pci-trans',
  async openDevice(dev) {
    await core.openDevice(dev);
    legacy.set(dev, new Legacy());
  },
  async closeDevice(dev) {
    legacy.clear(dev);
    await core.closeDevice(dev);
  },
  getRegionInfo(dev, index) {
    const info = core.getRegionInfo(dev, index);
    return index === BAR0 ? { ...info, flags: 3, size: BAR0_SIZE, caps: [] } : info;
  },
  read(dev, region, offset, data) {
    const state = legacy.get(dev);
    if (region === BAR0) {
      if (offset >= BAR0_SIZE) throw dev.error('EINVAL', 'read', 'past the end of the legacy registers');
      if (!state.ioEnabled) throw dev.error('EIO', 'read', 'I/O decode is off');
      const count = Math.min(data.length, BAR0_SIZE - offset);
      data.set(state.registers.subarray(offset, offset + count));
      return count;
    }
    const done = core.read(dev, region, offset, data);
    if (region !== CONFIG) return done;
    for (const { at, bytes } of state.overlay()) {
      const overlap = intersectRanges(offset, done, at, bytes.length);
      if (overlap === undefined) continue;
      const { registerOffset, bufferOffset, count } = overlap;
      data.set(bytes.slice(registerOffset, registerOffset + count), bufferOffset);
    }
    const command = intersectRanges(offset, done, PCI_COMMAND, 1);
    if (command !== undefined && state.ioEnabled)
      data[command.bufferOffset] = data[command.bufferOffset]! | PCI_COMMAND_IO;
    return done;
  },
  write(dev, region, offset, data) {
    const state = legacy.get(dev);
    if (region === BAR0) {
      if (offset >= BAR0_SIZE) throw dev.error('EINVAL', 'write', 'past the end of the legacy registers');
      if (!state.ioEnabled) throw dev.error('EIO', 'write', 'I/O decode is off');
      const count = Math.min(data.length, BAR0_SIZE - offset);
      state.registers.set(data.subarray(0, count), offset);
      return count;
    }
    if (region === CONFIG) {
      const command = intersectRanges(offset, data.length, PCI_COMMAND, 1);
      if (command !== undefined) state.ioEnabled = (data[command.bufferOffset]! & PCI_COMMAND_IO) !== 0;
      const bar = intersectRanges(offset, data.length, PCI_BASE_ADDRESS_0, 4);
      if (bar !== undefined) {
        for (let i = 0; i < bar.count; i++) {
          const shift = 8 * (bar.registerOffset + i);
          state.bar0 = (state.bar0 & ~(0xff << shift)) | (data[bar.bufferOffset + i]! << shift);
        }
      }
    }
    return core.write(dev, region, offset, data);
  },
  mmapArea(dev, region, offset, length) {
    if (region === BAR0) throw dev.error('EINVAL', 'mmapArea', 'the legacy registers cannot be mapped');
    return core.mmapArea(dev, region, offset, length);
  },
});
