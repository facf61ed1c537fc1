import {
  type VfioDeviceOps,
  type VfioPciCoreDevice,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
} from '@vfio/core';
import {
  type DeviceModel,
  Edu,
  type EduOptions,
  type EmulatedFunction,
  EmulatedPciHost,
  type EmulatedPciHostOptions,
  type FunctionContext,
  type MemoryProvider,
} from '@vfio/emulated';
import { closeFd, memfdCreate, mmap } from '@vfio/native';

/** A function on a host of its own, as a device that can be served. */
export interface ServedFunction<M extends DeviceModel> {
  readonly host: EmulatedPciHost;
  readonly fn: EmulatedFunction<M>;
  readonly model: M;
  readonly device: VfioPciCoreDevice;
}

/** Makes a device of a model, with core's ops or with some of them replaced. */
export async function makeDevice<M extends DeviceModel>(
  model: (ctx: FunctionContext) => M,
  ops: Partial<VfioDeviceOps> = {},
  options: EmulatedPciHostOptions = {},
): Promise<ServedFunction<M>> {
  const host = new EmulatedPciHost(options);
  const fn = host.add({ address: '0000:00:02.0', model });
  const device = vfioPciCoreAllocDevice(fn, (core) => ({ ...core, ...ops, name: 'test' }), { unmapDeadlineMs: 200 });
  await vfioPciCoreRegisterDevice(device);
  return { host, fn, model: fn.model, device };
}

/** The educational device. */
export function makeEdu(ops: Partial<VfioDeviceOps> = {}, options: EduOptions = {}): Promise<ServedFunction<Edu>> {
  return makeDevice((ctx) => new Edu(ctx, options), ops);
}

/** BAR memory that a client can map; `files` counts what was made. */
export class MemfdMemory implements MemoryProvider {
  files = 0;
  readonly #fds: number[] = [];

  allocate(size: number, options: { shared?: boolean } = {}) {
    if (options.shared !== true) return { bytes: new Uint8Array(size), fd: undefined, fdOffset: 0 };
    this.files++;
    const fd = memfdCreate('bar', { size });
    this.#fds.push(fd);
    return { bytes: mmap(fd, 0, size).bytes, fd, fdOffset: 0 };
  }

  close(): void {
    for (const fd of this.#fds.splice(0)) closeFd(fd);
  }
}
