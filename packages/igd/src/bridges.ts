import type { DevRegionOps, RawConfigSpace, VfioPciCoreDevice } from '@vfio/core';
import {
  hex,
  PCI_CLASS_BRIDGE_HOST,
  PCI_CLASS_BRIDGE_ISA,
  PCI_VENDOR_ID_INTEL,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG,
  VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG,
} from '@vfio/uapi';
import { clipRead, INTEL_REGION_TYPE, refuseWrite } from './region.js';

/** Where the bridges of every machine with integrated graphics are, and what they must be. */
const BRIDGES = {
  host: {
    name: 'host bridge',
    address: '0000:00:00.0',
    class: PCI_CLASS_BRIDGE_HOST << 8,
    subtype: VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG,
  },
  lpc: {
    name: 'LPC bridge',
    address: '0000:00:1f.0',
    class: PCI_CLASS_BRIDGE_ISA << 8,
    subtype: VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG,
  },
} as const;

/**
 * The configuration of a bridge, all of it, read-only: guests identify the platform by its ids.
 *
 * @throws ENODEV where the bridge is not there, EINVAL where something else is in its place
 */
export function registerBridgeRegion(dev: VfioPciCoreDevice, which: keyof typeof BRIDGES): void {
  const { name, address, class: wanted, subtype } = BRIDGES[which];
  const bridge = dev.fn.host.find(address);
  if (bridge === undefined || bridge.base.kind !== 'raw') {
    throw dev.error('ENODEV', 'openDevice', `no ${name} at ${address}`);
  }
  if (bridge.vendor !== PCI_VENDOR_ID_INTEL || bridge.class !== wanted) {
    throw dev.error(
      'EINVAL',
      'openDevice',
      `${address} is no ${name} of Intel: vendor ${hex(bridge.vendor)}, class ${hex(bridge.class)}`,
    );
  }
  const { config } = bridge.base;
  dev.registerDevRegion({
    type: INTEL_REGION_TYPE,
    subtype,
    size: config.size,
    flags: VFIO_REGION_INFO_FLAG_READ,
    ops: bridgeOps(config),
  });
}

const bridgeOps = (config: RawConfigSpace): DevRegionOps => ({
  read(dev, region, offset, data) {
    const count = clipRead(dev, region, offset, data);
    for (let done = 0; done < count; ) {
      const at = offset + done;
      const left = count - done;
      // As wide as alignment allows: the bridge is real hardware.
      const width = at % 4 === 0 && left >= 4 ? 4 : at % 2 === 0 && left >= 2 ? 2 : 1;
      const value = config.read(at, width);
      for (let byte = 0; byte < width; byte++) data[done + byte] = value >>> (8 * byte);
      done += width;
    }
    return count;
  },
  write: refuseWrite,
});
