import { isVfioError } from '@vfio/core';
import { VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';
import { decode, readBytes, readConfig } from '../access.js';
import { check, equal } from '../assert.js';
import type { RuleGroup } from '../contract.js';

export const lifecycle: RuleGroup = {
  group: 'lifecycle',
  rules: {
    'a closed device answers every call with an error, and closing again does nothing': async (device) => {
      await device.close();
      await device.close();
      for (const [what, call] of [
        ['getInfo', () => device.getInfo()],
        ['read', () => device.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, new Uint8Array(4))],
        ['write', () => device.write(VFIO_PCI_CONFIG_REGION_INDEX, 0, new Uint8Array(4))],
        ['setIrqs', () => device.setIrqs({ flags: 0x21, index: 0, start: 0, count: 0 })],
      ] as const) {
        const error: unknown = await call().then(
          () => undefined,
          (reason: unknown) => reason,
        );
        check(isVfioError(error), `${what} after close: ${error === undefined ? 'succeeded' : String(error)}`);
      }
    },
    'the next user finds nothing of the last: bus mastering off, COMMAND as at first': async (device, { open }) => {
      const command = await readConfig(device, 0x04, 2);
      await decode(device, true);
      await device.write(VFIO_PCI_CONFIG_REGION_INDEX, 0x04, Uint8Array.of(0x06, 0x04));
      await device.close();
      const next = await open();
      try {
        equal(await readConfig(next.device, 0x04, 2), command, 'COMMAND of the next user');
      } finally {
        await next.close();
      }
    },
    'config space is the same for the next user': async (device, { open }) => {
      const before = await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, 0x08, 0x34);
      await device.close();
      const next = await open();
      try {
        const after = await readBytes(next.device, VFIO_PCI_CONFIG_REGION_INDEX, 0x08, 0x34);
        check(
          after.every((byte, at) => byte === before[at]),
          'the header differs for the next user',
        );
      } finally {
        await next.close();
      }
    },
  },
};
