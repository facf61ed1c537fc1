import type { VfioOpsFactory, VfioPciCoreDevice } from '../../../src/index.js';

/** The BAR whose upper half belongs to the driver, as the migration registers of a HiSilicon accelerator do. */
const BAR = 2;

/** A driver that hides half of a BAR in everything that reaches it: info, read, write, mmap, ioeventfd. */
export const halfBarOps: VfioOpsFactory = (core) => {
  const half = (dev: VfioPciCoreDevice) => core.getRegionInfo(dev, BAR).size / 2;

  /** Bytes of an access that the user may do. */
  const visible = (dev: VfioPciCoreDevice, op: string, offset: number, length: number): number => {
    const end = half(dev);
    if (offset >= end) throw dev.error('EINVAL', op, `region ${BAR}: past the end (size 0x${end.toString(16)})`);
    return Math.min(length, end - offset);
  };

  return {
    ...core,
    name: 'half-bar-vfio-pci',
    getRegionInfo(dev, index) {
      const info = core.getRegionInfo(dev, index);
      return index === BAR ? { ...info, size: info.size / 2, caps: [] } : info;
    },
    read(dev, region, offset, data) {
      if (region !== BAR || data.length === 0) return core.read(dev, region, offset, data);
      return core.read(dev, region, offset, data.subarray(0, visible(dev, 'read', offset, data.length)));
    },
    write(dev, region, offset, data) {
      if (region !== BAR || data.length === 0) return core.write(dev, region, offset, data);
      return core.write(dev, region, offset, data.subarray(0, visible(dev, 'write', offset, data.length)));
    },
    mmapArea(dev, region, offset, length) {
      if (region === BAR && offset + length > half(dev)) {
        throw dev.error('EINVAL', 'mmapArea', `region ${BAR}: only its lower half can be mapped`);
      }
      return core.mmapArea(dev, region, offset, length);
    },
    ioeventfd(dev, request) {
      if (request.region === BAR && request.offset + request.width > half(dev)) {
        request.trigger?.release();
        throw dev.error('EINVAL', 'ioeventfd', `region ${BAR}: past the end`);
      }
      core.ioeventfd(dev, request);
    },
  };
};
