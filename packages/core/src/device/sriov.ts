import type { PciFunction } from '../pci/function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { pmGet, pmPut, setPowerState } from './power.js';
import { randomToken } from './vf-token.js';

/** PFs whose VFs core has made. */
const sriovPfs = new WeakMap<PciFunction, VfioPciCoreDevice>();

/** Registration's part: a VF finds its PF, a PF that can have VFs gets a token and captures them. */
export function vfInit(dev: VfioPciCoreDevice): void {
  const { fn } = dev;
  if (fn.physfn !== undefined) {
    dev.vf.pf = sriovPfs.get(fn.physfn);
    return;
  }
  if (fn.base.kind !== 'raw' || fn.base.sriov === undefined) return;
  dev.vf.token = randomToken();
  dev.vf.stopCapture = dev.bus?.captureVfs(fn);
}

export function vfUninit(dev: VfioPciCoreDevice): void {
  dev.vf.stopCapture?.();
  dev.vf.stopCapture = undefined;
  dev.vf.token = undefined;
  dev.vf.pf = undefined;
}

/**
 * Creates (count) or removes (0) virtual functions: `vfio_pci_core_sriov_configure`. The PF stays awake in D0 while it has
 * some. Returns how many there are.
 *
 * @throws EINVAL where core has made some already, ENODEV without SR-IOV, what the host says (EBUSY, EINVAL).
 */
export async function vfioPciCoreSriovConfigure(dev: VfioPciCoreDevice, count: number): Promise<number> {
  const { fn } = dev;
  const sriov = fn.base.kind === 'raw' ? fn.base.sriov : undefined;
  if (count === 0) {
    if (sriovPfs.get(fn) !== dev) return 0;
    sriovPfs.delete(fn);
    try {
      await (dev.bus === undefined ? sriov?.disable() : dev.bus.disableSriov(fn));
    } finally {
      dev.vf.sriovActive = false;
      await pmPut(dev);
    }
    return 0;
  }
  if (sriov === undefined) throw dev.error('ENODEV', 'sriovConfigure', 'the function has no SR-IOV');
  if (sriovPfs.has(fn)) throw dev.error('EINVAL', 'sriovConfigure', 'the function has VFs already; remove them first');
  await pmGet(dev);
  try {
    await setPowerState(dev, 0);
    // Before the VFs appear: none of them may find its PF asleep or unknown.
    dev.vf.sriovActive = true;
    sriovPfs.set(fn, dev);
    await (dev.bus === undefined ? sriov.enable(count) : dev.bus.enableSriov(fn, count));
  } catch (error) {
    sriovPfs.delete(fn);
    dev.vf.sriovActive = false;
    await pmPut(dev);
    throw error;
  }
  return sriov.numVfs;
}
