import type { VfioPciCoreDevice } from './core-device.js';

/** Typed state that one driver keeps for each device; another driver cannot reach it by accident. */
export interface DeviceState<T> {
  /** @throws EINVAL where none was set. */
  get(dev: VfioPciCoreDevice): T;
  find(dev: VfioPciCoreDevice): T | undefined;
  set(dev: VfioPciCoreDevice, value: T): T;
  clear(dev: VfioPciCoreDevice): void;
}

/** Declares a kind of state, `const state = deviceState<NvmeState>('nvme')`. It goes with the device. */
export function deviceState<T>(name: string): DeviceState<T> {
  const values = new WeakMap<VfioPciCoreDevice, { readonly value: T }>();
  return {
    get(dev) {
      const found = values.get(dev);
      if (found === undefined) throw dev.error('EINVAL', name, `the device has no ${name} state`);
      return found.value;
    },
    find: (dev) => values.get(dev)?.value,
    set(dev, value) {
      values.set(dev, { value });
      return value;
    },
    clear(dev) {
      values.delete(dev);
    },
  };
}
