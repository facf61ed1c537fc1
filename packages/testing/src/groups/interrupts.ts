import { callbackTrigger, type VfioDeviceClient } from '@vfio/core';
import {
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '@vfio/uapi';
import { check, equal, fails } from '../assert.js';
import type { RuleGroup } from '../contract.js';

const NONE_TRIGGER = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
const EVENTFD_TRIGGER = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
const TYPES = [VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX];
/** As many vectors as a case enables: enough to see that they are told apart. */
const VECTORS = 4;

/** The types of interrupt that the device has, with how many vectors a case may use. */
async function types(device: VfioDeviceClient): Promise<{ index: number; vectors: number }[]> {
  const found: { index: number; vectors: number }[] = [];
  for (const index of TYPES) {
    const { count } = await device.getIrqInfo(index);
    if (count > 0) found.push({ index, vectors: Math.min(count, VECTORS) });
  }
  return found;
}

/** Sets triggers that count, and gives the counts. */
async function arm(device: VfioDeviceClient, index: number, count: number): Promise<number[]> {
  const counts = new Array<number>(count).fill(0);
  const triggers = counts.map((_, vector) =>
    callbackTrigger(() => {
      counts[vector] = (counts[vector] ?? 0) + 1;
    }),
  );
  equal(
    await device.setIrqs({ flags: EVENTFD_TRIGGER, index, start: 0, count, triggers }),
    0,
    `result of arming ${index}`,
  );
  return counts;
}

const disarm = (device: VfioDeviceClient, index: number): Promise<number> =>
  device.setIrqs({ flags: NONE_TRIGGER, index, start: 0, count: 0 });

/** A signal may come back over a socket: looks for a while, without a fixed sleep. */
async function arrives(condition: () => boolean): Promise<boolean> {
  for (let n = 0; n < 400 && !condition(); n++) await new Promise((resolve) => setTimeout(resolve, 5));
  return condition();
}

export const interrupts: RuleGroup = {
  group: 'interrupts',
  rules: {
    'an interrupt index past the last is refused with EINVAL': async (device) => {
      const { numIrqs } = await device.getInfo();
      await fails(() => device.getIrqInfo(numIrqs), 'EINVAL', `getIrqInfo(${numIrqs})`);
      const request = { flags: NONE_TRIGGER, index: numIrqs, start: 0, count: 0 };
      await fails(() => device.setIrqs(request), 'EINVAL', `setIrqs of index ${numIrqs}`);
    },
    'every type is signalled by eventfd, INTx can be masked and masks itself': async (device) => {
      for (const { index } of await types(device)) {
        const { flags } = await device.getIrqInfo(index);
        check((flags & VFIO_IRQ_INFO_EVENTFD) !== 0, `type ${index} has no EVENTFD flag`);
        if (index !== VFIO_PCI_INTX_IRQ_INDEX) continue;
        const wanted = VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
        equal(flags & wanted, wanted, 'MASKABLE and AUTOMASKED of INTx');
      }
    },
    'a request must have exactly one kind of data': async (device) => {
      for (const { index } of await types(device)) {
        for (const flags of [
          VFIO_IRQ_SET_ACTION_TRIGGER,
          VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER,
          0x80000000 | NONE_TRIGGER,
        ]) {
          const request = { flags: flags >>> 0, index, start: 0, count: 1 };
          await fails(() => device.setIrqs(request), 'EINVAL', `type ${index}, flags ${flags >>> 0}`);
        }
      }
    },
    'vectors past the last are refused with EINVAL': async (device) => {
      for (const { index } of await types(device)) {
        const { count } = await device.getIrqInfo(index);
        for (const [start, n] of [
          [count, 1],
          [0, count + 1],
          [count, 0],
        ] as const) {
          const request = { flags: NONE_TRIGGER, index, start, count: n };
          await fails(() => device.setIrqs(request), 'EINVAL', `type ${index}, ${n} from ${start} of ${count}`);
        }
      }
    },
    'MSI and MSI-X cannot be masked: ENOTTY': async (device) => {
      for (const { index } of await types(device)) {
        if (index === VFIO_PCI_INTX_IRQ_INDEX) continue;
        for (const action of [VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK]) {
          const request = { flags: VFIO_IRQ_SET_DATA_NONE | action, index, start: 0, count: 1 };
          await fails(() => device.setIrqs(request), 'ENOTTY', `type ${index}, action ${action}`);
        }
      }
    },
    'a type that is not active cannot be disabled': async (device) => {
      for (const { index } of await types(device)) {
        await fails(() => disarm(device, index), 'EINVAL', `disabling type ${index}`);
      }
    },
    'each vector signals its own trigger, once for each loopback': async (device) => {
      for (const { index, vectors } of await types(device)) {
        const counts = await arm(device, index, vectors);
        for (let vector = 0; vector < vectors; vector++) {
          await device.setIrqs({ flags: NONE_TRIGGER, index, start: vector, count: 1 });
          check(await arrives(() => counts[vector] === 1), `type ${index}: vector ${vector} did not signal`);
        }
        check(
          counts.every((count) => count === 1),
          `type ${index}: counts ${counts.join(' ')}`,
        );
        await disarm(device, index);
      }
    },
    'only one type is active at a time': async (device) => {
      const [first, second] = await types(device);
      if (first === undefined || second === undefined) return;
      await arm(device, first.index, 1);
      await fails(() => arm(device, second.index, 1), 'EINVAL', `type ${second.index} while ${first.index} is active`);
      await disarm(device, first.index);
      await arm(device, second.index, 1);
      await disarm(device, second.index);
    },
    'a trigger that is taken away is not signalled any more': async (device) => {
      for (const { index, vectors } of await types(device)) {
        if (index === VFIO_PCI_INTX_IRQ_INDEX || vectors < 2) continue;
        const counts = await arm(device, index, 2);
        await device.setIrqs({ flags: EVENTFD_TRIGGER, index, start: 0, count: 1, triggers: [null] });
        await device.setIrqs({ flags: NONE_TRIGGER, index, start: 0, count: 2 });
        check(await arrives(() => counts[1] === 1), `type ${index}: vector 1 did not signal`);
        equal(counts[0], 0, `type ${index}: signals of vector 0`);
        await disarm(device, index);
      }
    },
    'ERR takes and gives back a trigger': async (device) => {
      const { count } = await device.getIrqInfo(VFIO_PCI_ERR_IRQ_INDEX).catch(() => ({ count: 0 }));
      if (count === 0) return;
      let signalled = 0;
      const triggers = [callbackTrigger(() => void signalled++)];
      const index = VFIO_PCI_ERR_IRQ_INDEX;
      await device.setIrqs({ flags: EVENTFD_TRIGGER, index, start: 0, count: 1, triggers });
      await device.setIrqs({ flags: NONE_TRIGGER, index, start: 0, count: 1 });
      check(await arrives(() => signalled === 1), 'ERR did not signal');
      await device.setIrqs({ flags: EVENTFD_TRIGGER, index, start: 0, count: 1, triggers: [null] });
    },
  },
};
