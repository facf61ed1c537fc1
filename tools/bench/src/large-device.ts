import {
  errnoError,
  type MigrationData,
  type VfioMigrationOps,
  type VfioPciCoreDevice,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
} from '@vfio/core';
import { Edu, EmulatedPciHost } from '@vfio/emulated';

/** VFIO_DEVICE_STATE_* and VFIO_MIGRATION_STOP_COPY. */
const RUNNING = 2;
const STOP_COPY = 3;
const RESUMING = 4;
const FLAGS = 1;

/** As much memory as the state is kept in, over and over; the C program has as much. */
const MEMORY = 64 << 20;

const wrong = (op: string) => errnoError('EINVAL', 'the stream is for the other direction', { op });

/** A device whose state is many bytes: out of its memory, and into its memory. */
export async function largeDevice(stateBytes: number): Promise<VfioPciCoreDevice> {
  const memory = new Uint8Array(MEMORY).fill(0x5a);
  let state = RUNNING;
  const stream = (isSaving: boolean): MigrationData => {
    let done = 0;
    /** The part of the memory where the stream is. */
    const next = (most: number) => {
      const at = done % MEMORY;
      const length = Math.min(most, stateBytes - done, MEMORY - at);
      done += length;
      return memory.subarray(at, at + length);
    };
    return {
      read(into) {
        if (!isSaving) throw wrong('read');
        const part = next(into.length);
        into.set(part);
        return part.length;
      },
      write(from) {
        if (isSaving) throw wrong('write');
        const part = next(from.length);
        part.set(part.length === from.length ? from : from.subarray(0, part.length));
        return part.length;
      },
      precopyInfo: () => ({ flags: 0, initialBytes: 0n, dirtyBytes: 0n }),
      close: () => {},
    };
  };
  const ops: VfioMigrationOps<VfioPciCoreDevice> = {
    getState: () => state,
    getDataSize: () => BigInt(stateBytes),
    setState(_dev, wanted) {
      state = wanted;
      if (wanted === STOP_COPY) return stream(true);
      return wanted === RESUMING ? stream(false) : undefined;
    },
  };
  const fn = new EmulatedPciHost().add({ address: '0000:00:02.0', model: (ctx) => new Edu(ctx) });
  const device = vfioPciCoreAllocDevice(fn, (core) => ({
    ...core,
    name: 'large',
    init(dev) {
      core.init(dev);
      dev.migrationFlags = FLAGS;
      dev.migrationOps = ops;
    },
  }));
  await vfioPciCoreRegisterDevice(device);
  return device;
}
