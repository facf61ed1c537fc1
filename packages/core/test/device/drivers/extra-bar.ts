import { PCI_BASE_ADDRESS_0 } from '@vfio/uapi';
import {
  deviceState,
  intersectRanges,
  type SharedMemory,
  type VfioOpsFactory,
  type VfioPciCoreDevice,
} from '../../../src/index.js';

const CONFIG = 7;
const BAR = 2;
const BAR_AT = PCI_BASE_ADDRESS_0 + 4 * BAR;
/** 64-bit, prefetchable. */
const BAR_FLAGS = 0xc;

interface Extra {
  /** The device's coherent memory, which is not behind any BAR of the function. */
  readonly memory: SharedMemory;
  /** Both BAR registers, as the user wrote them. */
  readonly registers: Uint8Array;
}

const extra = deviceState<Extra>('extra-bar');

/**
 * A driver that shows coherent memory as a 64-bit BAR that the function does not have, as that of a Grace Hopper GPU. A
 * BAR is a power of two, so what lies behind the memory reads as ones and drops writes.
 */
export function extraBarOps(memory: SharedMemory): VfioOpsFactory {
  const real = memory.bytes.length;
  let size = 4096;
  while (size < real) size *= 2;

  const access = (dev: VfioPciCoreDevice, op: string, offset: number, length: number): number => {
    if (offset >= size) throw dev.error('EINVAL', op, `region ${BAR}: past the end (size 0x${size.toString(16)})`);
    return Math.min(length, size - offset);
  };

  return (core) => ({
    ...core,
    name: 'extra-bar-vfio-pci',
    async openDevice(dev) {
      await core.openDevice(dev);
      extra.set(dev, { memory, registers: new Uint8Array(8) });
    },
    async closeDevice(dev) {
      extra.clear(dev);
      await core.closeDevice(dev);
    },
    getRegionInfo(dev, index) {
      const info = core.getRegionInfo(dev, index);
      // MMAP with one sparse area: only what is there can be mapped.
      const areas = [{ offset: 0, size: real }];
      return index === BAR ? { ...info, flags: 7, size, caps: [{ id: 1, version: 1, areas }] } : info;
    },
    read(dev, region, offset, data) {
      if (region === BAR) {
        const count = access(dev, 'read', offset, data.length);
        data.fill(0xff, 0, count);
        data.set(memory.bytes.subarray(offset, Math.min(offset + count, real)));
        return count;
      }
      const done = core.read(dev, region, offset, data);
      const overlap = region === CONFIG ? intersectRanges(offset, done, BAR_AT, 8) : undefined;
      if (overlap !== undefined) {
        const address = new DataView(new ArrayBuffer(8));
        const written = new DataView(extra.get(dev).registers.buffer).getBigUint64(0, true);
        address.setBigUint64(0, (written & ~BigInt(size - 1)) | BigInt(BAR_FLAGS), true);
        const bytes = new Uint8Array(address.buffer);
        data.set(bytes.subarray(overlap.registerOffset, overlap.registerOffset + overlap.count), overlap.bufferOffset);
      }
      return done;
    },
    write(dev, region, offset, data) {
      if (region === BAR) {
        const count = access(dev, 'write', offset, data.length);
        if (offset < real) memory.bytes.set(data.subarray(0, Math.min(count, real - offset)), offset);
        return count;
      }
      const overlap = region === CONFIG ? intersectRanges(offset, data.length, BAR_AT, 8) : undefined;
      if (overlap !== undefined) {
        const { registerOffset, bufferOffset, count } = overlap;
        extra.get(dev).registers.set(data.subarray(bufferOffset, bufferOffset + count), registerOffset);
      }
      return core.write(dev, region, offset, data);
    },
    mmapArea(dev, region, offset, length) {
      if (region !== BAR) return core.mmapArea(dev, region, offset, length);
      if (offset + length > real) throw dev.error('EINVAL', 'mmapArea', `region ${BAR}: only its memory can be mapped`);
      const part = {
        bytes: memory.bytes.subarray(offset, offset + length),
        fd: memory.fd,
        fdOffset: memory.fdOffset + offset,
      };
      return { offset, size: length, memory: part };
    },
  });
}
