import type { VfioDeviceOps, VfioPciCoreDevice } from '@vfio/core';
import {
  PCI_CAP_ID_PM,
  PCI_CAPABILITY_LIST,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_MEMORY,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';

/** As many capabilities as fit behind the header, so that a chain that loops ends. */
const MAX_CAPS = 48;

/**
 * Makes a function's registers answer, whatever its last user left: power state D0, memory decode on, bus mastering off
 * so that nothing it was told to do reaches memory any more, INTx off.
 */
export async function quiesce(dev: VfioPciCoreDevice, base: VfioDeviceOps): Promise<void> {
  const bytes = new Uint8Array(2);
  const read = (offset: number, width: 1 | 2): number => {
    const part = bytes.subarray(0, width);
    base.read(dev, VFIO_PCI_CONFIG_REGION_INDEX, offset, part);
    return width === 1 ? (part[0] ?? 0) : (part[0] ?? 0) | ((part[1] ?? 0) << 8);
  };
  const write = async (offset: number, value: number): Promise<void> => {
    await base.write(dev, VFIO_PCI_CONFIG_REGION_INDEX, offset, Uint8Array.of(value & 0xff, value >>> 8));
  };

  if ((read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST) !== 0) {
    let at = read(PCI_CAPABILITY_LIST, 1) & ~3;
    for (let n = 0; n < MAX_CAPS && at >= 0x40; n++) {
      if (read(at, 1) === PCI_CAP_ID_PM) {
        const control = read(at + PCI_PM_CTRL, 2);
        if ((control & PCI_PM_CTRL_STATE_MASK) !== 0) await write(at + PCI_PM_CTRL, control & ~PCI_PM_CTRL_STATE_MASK);
        break;
      }
      at = read(at + 1, 1) & ~3;
    }
  }
  await write(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
}
