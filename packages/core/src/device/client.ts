import type { VfioDevice, VfioDeviceClient } from './vfio-device.js';

/** A local device with the methods of a remote one: the same calls, all as promises. Closing it closes the device. */
export function toClient(device: VfioDevice): VfioDeviceClient {
  return {
    name: device.name,
    getInfo: async () => device.getInfo(),
    getRegionInfo: async (index) => device.getRegionInfo(index),
    getIrqInfo: async (index) => device.getIrqInfo(index),
    getHotResetInfo: async () => device.getHotResetInfo(),
    read: async (region, offset, data) => device.read(region, offset, data),
    write: async (region, offset, data) => device.write(region, offset, data),
    mmapArea: async (region, offset, length) => device.mmapArea(region, offset, length),
    setIrqs: async (request) => device.setIrqs(request),
    ioeventfd: async (request) => device.ioeventfd(request),
    reset: async () => device.reset(),
    hotReset: async (request) => device.hotReset(request),
    deviceFeature: async (request) => device.deviceFeature(request),
    dmaMap: async (request) => device.dmaMap(request),
    dmaUnmap: async (iova, size) => device.dmaUnmap(iova, size),
    close: async () => device.close(),
    [Symbol.asyncDispose]: () => device[Symbol.asyncDispose](),
  };
}
