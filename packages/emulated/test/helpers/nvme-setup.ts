import { NvmeController, type NvmeOptions } from '../../src/index.js';
import { MemorySpace } from './memory-space.js';
import { NvmeDriver } from './nvme-driver.js';
import { manualHost, setMaster } from './setup.js';

export const MIB = 0x100000;

/** A controller below a root port, bus mastering on, with 16 MiB of guest memory and a driver. */
export function nvme(options: NvmeOptions = {}, memoryOptions: { remote?: boolean; base?: number } = {}) {
  const { host, deferred, clock } = manualHost();
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  const fn = host.add({ address: '0000:01:00.0', model: (ctx) => new NvmeController(ctx, options) });
  setMaster(fn, true);
  const memory = new MemorySpace(16 * MIB, memoryOptions);
  fn.attachDma(memory);
  return { host, deferred, clock, fn, memory, controller: fn.model, driver: new NvmeDriver(fn, memory, deferred) };
}
