import { isVfioError, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_REQ_IRQ_INDEX } from '@vfio/uapi';
import type { PciFunction } from '../pci/function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { VFIO_OPS_API, type VfioDeviceOps } from './ops.js';
import { vfioPciCoreMatch } from './vf-token.js';
import type { VfioFunctionBase } from './vfio-base.js';
import type { VfioDevice, VfioDeviceProvider } from './vfio-device.js';

/**
 * Offers a device as the base of another: core over core. The upper device's ops go to the lower one, opened once for it;
 * nothing is virtualised twice.
 */
export function vfioBaseFromDevice(provider: VfioDeviceProvider): VfioFunctionBase {
  const opened = new WeakMap<VfioPciCoreDevice, VfioDevice>();
  const tokens = new WeakMap<VfioPciCoreDevice, Uint8Array>();
  const inner = (dev: VfioPciCoreDevice): VfioDevice => {
    const device = opened.get(dev);
    if (device === undefined) throw dev.error('ENODEV', 'base', 'the device below is not open');
    return device;
  };
  const ops: VfioDeviceOps = {
    name: provider.name,
    api: VFIO_OPS_API,
    init() {},
    release() {},
    async openDevice(dev) {
      const token = tokens.get(dev);
      opened.set(dev, await provider.open(token === undefined ? {} : { vfToken: token }));
    },
    async closeDevice(dev) {
      const device = opened.get(dev);
      opened.delete(dev);
      await device?.close();
    },
    getInfo: (dev) => inner(dev).getInfo(),
    getRegionInfo: (dev, index) => inner(dev).getRegionInfo(index),
    getIrqInfo: (dev, index) => inner(dev).getIrqInfo(index),
    getHotResetInfo: (dev) => inner(dev).getHotResetInfo(),
    read: (dev, region, offset, data) => inner(dev).read(region, offset, data),
    write: (dev, region, offset, data) => inner(dev).write(region, offset, data),
    mmapArea: (dev, region, offset, length) => inner(dev).mmapArea(region, offset, length),
    setIrqs: (dev, request) => inner(dev).setIrqs(request),
    ioeventfd: (dev, request) => inner(dev).ioeventfd(request),
    reset: (dev) => inner(dev).reset(),
    hotReset: (dev, request) => inner(dev).hotReset(request),
    deviceFeature: (dev, request) => inner(dev).deviceFeature(request),
    request(dev, count) {
      // The user's REQ trigger is set on the device below, whose loopback signals it.
      try {
        inner(dev).setIrqs({
          index: VFIO_PCI_REQ_IRQ_INDEX,
          flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
          start: 0,
          count: 1,
        });
      } catch (error) {
        if (!isVfioError(error) || error.errno !== 'EINVAL') throw error;
        if (count === 0)
          dev.warn('no REQ trigger is set, so nobody can be asked to let go: waiting until the user closes the device');
      }
    },
    match: vfioPciCoreMatch,
    matchTokenUuid(dev, uuid) {
      // The device below knows whether one is needed, and says so when it is opened.
      if (uuid === undefined) tokens.delete(dev);
      else tokens.set(dev, uuid);
    },
    dmaMap: (dev, request) => inner(dev).dmaMap(request),
    dmaUnmap: (dev, iova, size) => inner(dev).dmaUnmap(iova, size),
  };
  return { kind: 'vfio', ops };
}

/** A function with the identity of a device's, whose base is that device. */
export function functionOverDevice(provider: VfioDeviceProvider): PciFunction {
  const fn = provider.function;
  return {
    address: fn.address,
    vendor: fn.vendor,
    device: fn.device,
    subvendor: fn.subvendor,
    subdevice: fn.subdevice,
    class: fn.class,
    revision: fn.revision,
    headerType: fn.headerType,
    host: fn.host,
    iommuGroup: fn.iommuGroup,
    physfn: fn.physfn,
    vfIndex: fn.vfIndex,
    base: vfioBaseFromDevice(provider),
    platform: (token) => fn.platform(token),
  };
}
