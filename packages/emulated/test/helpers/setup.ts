import type { RegisterSpace } from '@vfio/core';
import { PCI_COMMAND, PCI_COMMAND_MASTER } from '@vfio/uapi';
import {
  DeferredQueue,
  type DeviceModel,
  type EmulatedFunction,
  EmulatedPciHost,
  ManualClock,
  type ModelFactory,
} from '../../src/index.js';

/** A host whose deferred work and time move only when the test says so. */
export function manualHost(options: ConstructorParameters<typeof EmulatedPciHost>[0] = {}) {
  const clock = new ManualClock();
  const deferred = new DeferredQueue(() => {});
  const host = new EmulatedPciHost({ clock, deferred, ...options });
  return { host, clock, deferred };
}

/** One function on bus 0, bus mastering on. */
export function singleFunction<M extends DeviceModel>(model: ModelFactory<M>, address = '0000:00:02.0') {
  const { host, clock, deferred } = manualHost();
  const fn = host.add({ address, model });
  setMaster(fn, true);
  return { host, clock, deferred, fn };
}

export function setMaster(fn: EmulatedFunction, on: boolean): void {
  const command = fn.config.read(PCI_COMMAND, 2);
  fn.config.write(PCI_COMMAND, 2, on ? command | PCI_COMMAND_MASTER : command & ~PCI_COMMAND_MASTER);
}

export function setCommand(fn: EmulatedFunction, set: number, clear: number): void {
  fn.config.write(PCI_COMMAND, 2, (fn.config.read(PCI_COMMAND, 2) | set) & ~clear);
}

/** Offset of a capability, found as software finds it; 0 where there is none. */
export function findCapability(fn: EmulatedFunction, id: number): number {
  for (let at = fn.config.read(0x34, 1); at !== 0; at = fn.config.read(at + 1, 1))
    if (fn.config.read(at, 1) === id) return at;
  return 0;
}

/** Offset of an extended capability. */
export function findExtended(fn: EmulatedFunction, id: number): number {
  let at = 0x100;
  while (at !== 0) {
    const header = fn.config.read(at, 4);
    if (header === 0 || header === -1) return 0;
    if ((header & 0xffff) === id) return at;
    at = (header >>> 20) & 0xffc;
  }
  return 0;
}

/** Unsigned 32-bit load. */
export function read32(space: RegisterSpace, offset: number): number {
  return space.read(offset, 4) >>> 0;
}

/** A function that declares nothing but ids: `declare` adds the rest. */
export function bareModel(declare: (ctx: Parameters<ModelFactory>[0]) => void): ModelFactory {
  return (ctx) => {
    ctx.identity({ vendor: 0x1234, device: 0x5678, class: 0xff0000 });
    declare(ctx);
    return {};
  };
}
