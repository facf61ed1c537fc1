import {
  type ErrnoName,
  isVfioError,
  messageOf,
  PCI_CLASS_DISPLAY_VGA,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_INTERRUPT_PIN,
  PCI_MSIX_ENTRY_SIZE,
  PCI_STD_NUM_BARS,
  VFIO_PCI_ROM_REGION_INDEX,
} from '@vfio/uapi';
import { restoreConfigState, type SavedState, saveConfigState } from './config/saved-state.js';
import { VirtualConfigSpace } from './config/virtual-config.js';
import { DeviceConfigHost } from './config-host.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { releaseRegions } from './dev-region.js';
import { isIntxMaskSupported, pciIntx } from './intx.js';
import { leaveLowPower } from './low-power.js';
import { isPromise, type MaybePromise } from './maybe-promise.js';
import { PAGE_SIZE } from './mmap.js';
import { isNointxDevice } from './nointx.js';
import { pmGet, pmPut, pmResume, setPowerState } from './power.js';
import { tryResetFunction } from './reset.js';
import { tryResetSet } from './reset-set.js';
import { disableIrqs, dropSingleTriggers } from './set-irqs.js';

/**
 * Makes a raw function ready for a user: `vfio_pci_core_enable`. A reset that does not work is fine, one that met a
 * contended lock is not.
 *
 * @throws EAGAIN (reset lock contended), EFAULT (impossible capability), EIO (cannot be woken). The function is as before then.
 */
export async function vfioPciCoreEnable(dev: VfioPciCoreDevice): Promise<void> {
  const { raw } = dev;
  const { config } = raw;
  await pmGet(dev);
  try {
    // Nothing of a former owner may still write to memory.
    config.write(PCI_COMMAND, 2, config.read(PCI_COMMAND, 2) & ~PCI_COMMAND_MASTER);
    await setPowerState(dev, 0);
    enableResources(dev);
    dev.resetWorks = await probeReset(dev);
    dev.savedState = saveConfigState(config);
    if (!dev.params.nointxmask) {
      if (isNointxDevice(dev.fn)) {
        dev.warn('INTx of this device is broken and is not offered');
        dev.nointx = true;
        pciIntx(config, false);
      } else dev.pci23 = isIntxMaskSupported(config);
    }
    if (dev.pci23) pciIntx(config, true);
    openBars(dev);
    dev.config = new VirtualConfigSpace(new DeviceConfigHost(dev));
    dev.config.init();
    const { msix } = dev.config;
    if (msix !== undefined) {
      dev.irqs.dynamicMsix = raw.interrupts.dynamicMsix;
      dev.msixBar = msix.tableBar;
      dev.msixOffset = msix.tableOffset;
      dev.msixSize = msix.vectors * PCI_MSIX_ENTRY_SIZE;
      const bar = dev.bars[msix.tableBar];
      if (bar !== undefined && msix.tableBar < VFIO_PCI_ROM_REGION_INDEX) {
        bar.holeStart = dev.msixOffset;
        bar.holeEnd = dev.msixOffset + dev.msixSize;
      }
    }
    if (!dev.params.disableVga && dev.fn.class >>> 8 === PCI_CLASS_DISPLAY_VGA) dev.vga = raw.vga;
    raw.attachDma(dev.dmaSpace);
  } catch (error) {
    forget(dev);
    restoreFound(dev);
    await pmPut(dev);
    throw error;
  }
}

/**
 * Decoding of the BARs that the function has (a ROM is decoded only while it is read), and its INTx if it has a pin, which
 * the last close turned off: `pci_enable_device`.
 */
function enableResources(dev: VfioPciCoreDevice): void {
  const { config, resources } = dev.raw;
  let command = config.read(PCI_COMMAND, 2);
  for (let index = 0; index < PCI_STD_NUM_BARS; index++) {
    const resource = resources[index];
    if (resource !== undefined && resource.size > 0) command |= resource.io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
  }
  if (config.read(PCI_INTERRUPT_PIN, 1) !== 0) command &= ~PCI_COMMAND_INTX_DISABLE;
  config.write(PCI_COMMAND, 2, command);
}

async function probeReset(dev: VfioPciCoreDevice): Promise<boolean> {
  try {
    await tryResetFunction(dev);
    return true;
  } catch (error) {
    if (isVfioError(error) && error.errno === 'EAGAIN') throw error;
    return false;
  }
}

/** Opens every BAR now. One that cannot be had keeps its error for whoever touches it: the others work. */
function openBars(dev: VfioPciCoreDevice): void {
  const { raw } = dev;
  for (const bar of dev.bars) {
    const resource = raw.resources[bar.index];
    bar.clear();
    if (resource === undefined) continue;
    bar.resource = resource;
    bar.size = resource.size;
    bar.isIo = resource.io;
    // A ROM is opened when it is read.
    if (resource.size === 0 || bar.index === VFIO_PCI_ROM_REGION_INDEX) continue;
    if (resource.start === 0) {
      // Unassigned by the host: sized, but nowhere to be reached.
      bar.error = 'EINVAL';
      continue;
    }
    if (raw.nonMappableBars === true) continue;
    try {
      bar.space = raw.open(bar.index);
      bar.error = undefined;
    } catch (error) {
      bar.error = keptErrno(error);
      dev.warn(`BAR ${bar.index} could not be opened: ${messageOf(error)}`);
    }
  }
}

function keptErrno(error: unknown): ErrnoName {
  return (isVfioError(error) ? error.errno : undefined) ?? 'ENOMEM';
}

/** Decides which BARs may be mapped: `vfio_pci_core_finish_enable`. The driver's own setup comes before it. */
export function vfioPciCoreFinishEnable(dev: VfioPciCoreDevice): void {
  for (const bar of dev.bars) {
    if (bar.index === VFIO_PCI_ROM_REGION_INDEX) continue;
    bar.mmapable = isMmapable(dev, bar.index);
  }
  if (dev.vf.pf !== undefined) dev.vf.pf.vf.users++;
}

function isMmapable(dev: VfioPciCoreDevice, index: number): boolean {
  const bar = dev.bars[index]!;
  const { resource } = bar;
  if (resource === undefined || resource.io || resource.size === 0 || resource.start === 0) return false;
  if (dev.raw.nonMappableBars === true) return false;
  // A BAR whose reservation failed is still announced: mapping it is what gives EBUSY.
  if (bar.space !== undefined && bar.space.mmapAreas.length === 0) return false;
  if (resource.size >= PAGE_SIZE) return true;
  // A small BAR shares its page with what comes after it, unless it starts the page.
  return resource.start % PAGE_SIZE === 0;
}

/**
 * Ends a user's time: `vfio_pci_core_close_device`. After the driver's own part.
 */
export async function vfioPciCoreCloseDevice(dev: VfioPciCoreDevice): Promise<void> {
  if (dev.vf.pf !== undefined) dev.vf.pf.vf.users--;
  for (const watcher of dev.memoryWatchers) watcher(false);
  dev.memoryWatchers.clear();
  await vfioPciCoreDisable(dev);
  dropSingleTriggers(dev);
}

/** Undoes {@link vfioPciCoreEnable}: interrupts off, device regions gone, the function reset and as it was found. */
export async function vfioPciCoreDisable(dev: VfioPciCoreDevice): Promise<void> {
  const { raw } = dev;
  const { config } = raw;
  leaveLowPower(dev);
  const quietly = async (what: string, work: () => MaybePromise<void>) => {
    try {
      const done = work();
      if (isPromise(done)) await done;
    } catch (error) {
      dev.warn(`${what}: ${messageOf(error)}`);
    }
  };
  await quietly('power up at close', () => pmResume(dev));
  await quietly('power up at close', () => setPowerState(dev, 0));
  config.write(PCI_COMMAND, 2, config.read(PCI_COMMAND, 2) & ~PCI_COMMAND_MASTER);
  disableIrqs(dev);
  dev.ioeventfds.clear();
  dev.irqs.virqDisabled = false;
  releaseRegions(dev, dev.lastingRegions);
  raw.attachDma(undefined);
  dev.needsReset = true;
  // Virtual functions outlive the user, as those that the function had before it outlive the reset.
  const { sriov } = saveConfigState(config);
  // Quiet before the reset: no decoding, no line interrupt.
  config.write(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
  forget(dev);
  if (dev.resetWorks) {
    await quietly('reset at close', async () => {
      await raw.tryResetFunction();
      dev.needsReset = false;
    });
  }
  restoreFound(dev, sriov);
  await quietly('reset of the slot or bus at close', () => tryResetSet(dev));
  await quietly('power down at close', () => pmPut(dev));
}

/** Forgets what enabling found out. */
function forget(dev: VfioPciCoreDevice): void {
  for (const bar of dev.bars) bar.clear();
  dev.config = undefined;
  dev.vga = undefined;
  dev.msixBar = -1;
  dev.msixOffset = 0;
  dev.msixSize = 0;
  dev.pci23 = false;
  dev.nointx = false;
  dev.irqs.msiQmax = 0;
  dev.irqs.dynamicMsix = false;
}

/**
 * Config space as it was found, with the virtual functions that there are now, but decoding off: the function cannot be
 * reached while it waits for its next owner.
 */
function restoreFound(dev: VfioPciCoreDevice, sriov: SavedState['sriov'] | undefined = undefined): void {
  const { config } = dev.raw;
  if (dev.savedState !== undefined)
    restoreConfigState(config, { ...dev.savedState, sriov: sriov ?? dev.savedState.sriov }, false);
  dev.savedState = undefined;
  config.write(
    PCI_COMMAND,
    2,
    config.read(PCI_COMMAND, 2) & ~(PCI_COMMAND_MASTER | PCI_COMMAND_IO | PCI_COMMAND_MEMORY),
  );
}
