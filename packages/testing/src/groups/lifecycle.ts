import { isVfioError, type VfioDeviceClient } from '@vfio/core';
import {
  PCI_BASE_ADDRESS_0,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_INTERRUPT_LINE,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';
import { readBytes, readConfig, setCommand, writeConfig } from '../access.js';
import { check, equal, notApplicable, sameBytes } from '../assert.js';
import type { ContractOptions, RuleGroup } from '../contract.js';
import { CountingTrigger } from '../trigger.js';
import { arm, types } from './interrupts.js';

const IOVA = 0x100000n;
const SIZE = 0x4000n;
const EVENTFD_TRIGGER = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;

/** The device as its next user finds it. */
async function next<T>({ open }: ContractOptions, look: (device: VfioDeviceClient) => Promise<T>): Promise<T> {
  const subject = await open();
  try {
    return await look(subject.device);
  } finally {
    await subject.close();
  }
}

export const lifecycle: RuleGroup = {
  group: 'lifecycle',
  rules: {
    'a closed device answers every call with an error, and closing again does nothing': async (device) => {
      await device.close();
      await device.close();
      const trigger = new CountingTrigger();
      for (const [what, call] of [
        ['getInfo', () => device.getInfo()],
        ['getRegionInfo', () => device.getRegionInfo(0)],
        ['getIrqInfo', () => device.getIrqInfo(0)],
        ['getHotResetInfo', () => device.getHotResetInfo()],
        ['read', () => device.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, new Uint8Array(4))],
        ['write', () => device.write(VFIO_PCI_CONFIG_REGION_INDEX, 0, new Uint8Array(4))],
        ['mmapArea', () => device.mmapArea(0, 0, 4096)],
        [
          'setIrqs',
          () => device.setIrqs({ flags: EVENTFD_TRIGGER, index: 0, start: 0, count: 1, triggers: [trigger] }),
        ],
        ['reset', () => device.reset()],
        ['deviceFeature', () => device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_GET | 1 })],
        ['dmaMap', () => device.dmaMap(mapping())],
        ['dmaUnmap', () => device.dmaUnmap(IOVA, SIZE)],
      ] as const) {
        const error: unknown = await call().then(
          () => undefined,
          (reason: unknown) => reason,
        );
        check(isVfioError(error), `${what} after close: ${error === undefined ? 'succeeded' : String(error)}`);
      }
      equal(trigger.releases, 1, 'releases of a trigger that was given after close');
    },
    'the next user finds nothing of the last: bus mastering off, COMMAND as at first': async (device, options) => {
      const command = await readConfig(device, PCI_COMMAND, 2);
      equal(command & PCI_COMMAND_MASTER, 0, 'bus mastering at open');
      await setCommand(device, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
      await device.close();
      equal(await next(options, (again) => readConfig(again, PCI_COMMAND, 2)), command, 'COMMAND of the next user');
    },
    'the header is the same for the next user, whatever the last wrote over it': async (device, options) => {
      const header = (of: VfioDeviceClient) => readBytes(of, VFIO_PCI_CONFIG_REGION_INDEX, 0x08, 0x38);
      const before = await header(device);
      await writeConfig(device, PCI_INTERRUPT_LINE, 1, (before[PCI_INTERRUPT_LINE - 0x08] ?? 0) ^ 0xff);
      for (let bar = 0; bar < 6; bar++) await writeConfig(device, PCI_BASE_ADDRESS_0 + 4 * bar, 4, 0xffffffff);
      await device.close();
      sameBytes(await next(options, header), before, 'header of the next user');
    },
    'what was armed is off and let go of at close, and the next user may arm another type': async (device, options) => {
      const [first, second] = await types(device);
      if (first === undefined) notApplicable('the device has no interrupt');
      const triggers = await arm(device, first.index, 1);
      await device.close();
      for (const { releases } of triggers) equal(releases, 1, 'releases of a trigger after close');
      const { index } = second ?? first;
      await next(options, async (again) => void (await arm(again, index, 1)));
    },
    'memory is let go of at close, and the next user may map it': async (device, options) => {
      let releases = 0;
      await device.dmaMap(mapping(() => void releases++));
      equal(releases, 0, 'releases while it is mapped');
      await device.close();
      equal(releases, 1, 'releases after close');
      await next(options, (again) => again.dmaMap(mapping()));
    },
  },
};

const mapping = (release?: () => void) => ({
  iova: IOVA,
  size: SIZE,
  readable: true,
  writable: true,
  memory: undefined,
  ...(release === undefined ? {} : { release }),
});
