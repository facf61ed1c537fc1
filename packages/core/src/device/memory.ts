import { PCI_COMMAND, PCI_COMMAND_MEMORY } from '@vfio/uapi';
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

/**
 * Runs `work` with memory decode on in hardware, which the user may have switched off: vectors are set up through the MSI-X
 * table, and ROMs read, behind the user's back.
 */
export function withMemoryEnabled<T>(dev: VfioPciCoreDevice, work: () => T): T {
  const { config } = dev.raw;
  const command = config.read(PCI_COMMAND, 2);
  if ((command & PCI_COMMAND_MEMORY) !== 0) return work();
  config.write(PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY);
  try {
    return work();
  } finally {
    config.write(PCI_COMMAND, 2, config.read(PCI_COMMAND, 2) & ~PCI_COMMAND_MEMORY);
  }
}
