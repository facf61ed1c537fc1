import type { VfioPciCoreDevice } from './core-device.js';

/** Takes memory decode for changing: until {@link unlockMemory} no BAR access reaches the hardware. */
export function lockMemory(dev: VfioPciCoreDevice, zap: boolean): void {
  dev.memoryLocks++;
  if (zap) for (const watcher of dev.memoryWatchers) watcher(false);
}

/** Ends a {@link lockMemory}; where memory is enabled now, what was revoked comes back. */
export function unlockMemory(dev: VfioPciCoreDevice): void {
  dev.memoryLocks--;
  notifyMemory(dev);
}

/** Tells mappings and DMA buffers over BARs whether there is memory behind them. */
export function notifyMemory(dev: VfioPciCoreDevice): void {
  if (dev.memoryWatchers.size === 0) return;
  const enabled = isMappingLive(dev);
  for (const watcher of dev.memoryWatchers) watcher(enabled);
}

/** Whether a load through a user's mapping finds the BAR: where not, the kernel answers it with SIGBUS. */
export function isMappingLive(dev: VfioPciCoreDevice): boolean {
  return dev.memoryLocks === 0 && !dev.power.engaged && dev.config?.memoryEnabled === true;
}
