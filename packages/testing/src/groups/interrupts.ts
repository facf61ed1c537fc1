import type { EventTrigger, VfioDeviceClient } from '@vfio/core';
import {
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_INTERRUPT_PIN,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_QMASK,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_QSIZE,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_INFO_NORESIZE,
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
  VFIO_PCI_REQ_IRQ_INDEX,
} from '@vfio/uapi';
import { findCapability, readConfig, refusal } from '../access.js';
import { check, equal, fails, notApplicable } from '../assert.js';
import type { RuleGroup } from '../contract.js';
import { arrives, CountingTrigger } from '../trigger.js';

const INTX = VFIO_PCI_INTX_IRQ_INDEX;
const MSI = VFIO_PCI_MSI_IRQ_INDEX;
const MSIX = VFIO_PCI_MSIX_IRQ_INDEX;
const NONE_TRIGGER = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
const BOOL_TRIGGER = VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER;
const EVENTFD_TRIGGER = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
const NONE_MASK = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK;
const NONE_UNMASK = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
const EVENTFD_MASK = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_MASK;
const EVENTFD_UNMASK = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK;

/** As many vectors as most cases enable: enough to see that they are told apart. */
const VECTORS = 4;
/** As many as the case enables that wants them all, if there are more. */
const MANY_VECTORS = 128;

/** What the kernel's flags of each index are; MSI-X may be resizable or not. */
const INFO_FLAGS: Readonly<Record<number, number>> = {
  [INTX]: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED,
  [MSI]: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
  [VFIO_PCI_ERR_IRQ_INDEX]: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
  [VFIO_PCI_REQ_IRQ_INDEX]: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
};

interface IrqType {
  readonly index: number;
  /** How many there are. */
  readonly count: number;
  /** How many a case uses. */
  readonly vectors: number;
  /** Vectors can be added while the type is active. */
  readonly canGrow: boolean;
}

/** The types of interrupt that the device has. */
export async function types(device: VfioDeviceClient): Promise<IrqType[]> {
  const found: IrqType[] = [];
  for (const index of [INTX, MSI, MSIX]) {
    const { count, flags } = await device.getIrqInfo(index);
    if (count === 0) continue;
    found.push({
      index,
      count,
      vectors: Math.min(count, VECTORS),
      canGrow: index === MSIX && (flags & VFIO_IRQ_INFO_NORESIZE) === 0,
    });
  }
  return found;
}

const setTriggers = (
  device: VfioDeviceClient,
  index: number,
  start: number,
  triggers: readonly (EventTrigger | null)[],
) => device.setIrqs({ flags: EVENTFD_TRIGGER, index, start, count: triggers.length, triggers });

/** Gives the first vectors of a type a trigger each. */
export async function arm(device: VfioDeviceClient, index: number, count: number): Promise<CountingTrigger[]> {
  const triggers = Array.from({ length: count }, () => new CountingTrigger());
  equal(await setTriggers(device, index, 0, triggers), 0, `result of arming ${index}`);
  return triggers;
}

export const disarm = (device: VfioDeviceClient, index: number): Promise<number> =>
  device.setIrqs({ flags: NONE_TRIGGER, index, start: 0, count: 0 });

/** Signals vectors as if the device had. */
export const loopback = (device: VfioDeviceClient, index: number, start: number, count = 1): Promise<number> =>
  device.setIrqs({ flags: NONE_TRIGGER, index, start, count });

/** Waits until the last of some triggers was signalled and checks how often each was. */
async function signalled(triggers: readonly CountingTrigger[], wanted: readonly number[], what: string): Promise<void> {
  await arrives(() => triggers.every(({ signals }, at) => signals >= (wanted[at] ?? 0)));
  equal(triggers.map(({ signals }) => signals).join(' '), wanted.join(' '), `${what}: signals of each vector`);
}

export const interrupts: RuleGroup = {
  group: 'interrupts',
  rules: {
    'an interrupt index past the last is refused with EINVAL': async (device) => {
      const { numIrqs } = await device.getInfo();
      for (const index of [numIrqs, 0xffffffff]) {
        await fails(() => device.getIrqInfo(index), 'EINVAL', `getIrqInfo(${index})`);
        await fails(() => disarm(device, index), 'EINVAL', `setIrqs of index ${index}`);
      }
    },
    'each index has the flags of its kind': async (device) => {
      const { numIrqs } = await device.getInfo();
      for (let index = 0; index < numIrqs; index++) {
        const { flags } = await device.getIrqInfo(index);
        const wanted = INFO_FLAGS[index];
        if (wanted !== undefined) equal(flags, wanted, `flags of index ${index}`);
        else equal(flags & ~VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_INFO_EVENTFD, `flags of index ${index}`);
      }
    },
    'there are as many of each type as config space says': async (device) => {
      const count = async (index: number) => (await device.getIrqInfo(index)).count;
      const pin = await readConfig(device, PCI_INTERRUPT_PIN, 1);
      equal(await count(INTX), pin === 0 ? 0 : 1, 'INTx');
      const msi = await findCapability(device, PCI_CAP_ID_MSI);
      const msiFlags = msi === undefined ? 0 : await readConfig(device, msi + PCI_MSI_FLAGS, 2);
      equal(await count(MSI), msi === undefined ? 0 : 1 << ((msiFlags & PCI_MSI_FLAGS_QMASK) >> 1), 'MSI');
      const msix = await findCapability(device, PCI_CAP_ID_MSIX);
      const msixFlags = msix === undefined ? 0 : await readConfig(device, msix + PCI_MSIX_FLAGS, 2);
      equal(await count(MSIX), msix === undefined ? 0 : (msixFlags & PCI_MSIX_FLAGS_QSIZE) + 1, 'MSI-X');
    },
    'a request must have exactly one kind of data, and no flag that nobody knows': async (device) => {
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
    'a request has one action, one that its index has, or is refused': async (device) => {
      for (const { index } of await types(device)) {
        const refused = (action: number, errnos: string | string[]) => {
          const request = { flags: VFIO_IRQ_SET_DATA_NONE | action, index, start: 0, count: 1 };
          return fails(() => device.setIrqs(request), errnos, `type ${index}, action ${action}`);
        };
        // The kernel says ENOTTY, as for an action that the index does not have; a vfio-user server finds the message malformed.
        for (const action of [0, VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_ACTION_MASK])
          await refused(action, ['ENOTTY', 'EINVAL']);
        if (index === INTX) continue;
        for (const action of [VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK]) await refused(action, 'ENOTTY');
      }
    },
    'vectors past the last are refused with EINVAL': async (device) => {
      for (const { index, count } of await types(device)) {
        for (const [start, n] of [
          [count, 1],
          [0, count + 1],
          [count, 0],
          [1, 0xffffffff],
        ] as const) {
          const request = { flags: NONE_TRIGGER, index, start, count: n };
          await fails(() => device.setIrqs(request), 'EINVAL', `type ${index}, ${n} from ${start} of ${count}`);
        }
      }
    },
    'a type that is not active can neither be disabled, signalled nor masked: EINVAL': async (device) => {
      for (const { index } of await types(device)) {
        await fails(() => disarm(device, index), 'EINVAL', `disabling type ${index}`);
        await fails(() => loopback(device, index, 0), 'EINVAL', `signalling type ${index}`);
        if (index !== INTX) continue;
        for (const flags of [NONE_MASK, NONE_UNMASK])
          await fails(() => device.setIrqs({ flags, index, start: 0, count: 1 }), 'EINVAL', `INTx, flags ${flags}`);
      }
    },
    'each vector signals its own trigger, once for each loopback': async (device) => {
      for (const { index, vectors } of await types(device)) {
        const triggers = await arm(device, index, vectors);
        const wanted = new Array<number>(vectors).fill(0);
        for (let vector = 0; vector < vectors; vector++) {
          await loopback(device, index, vector);
          wanted[vector] = 1;
          await signalled(triggers, wanted, `type ${index}, vector ${vector}`);
        }
        await loopback(device, index, 0, vectors);
        await signalled(triggers, new Array<number>(vectors).fill(2), `type ${index}, all at once`);
        await disarm(device, index);
      }
    },
    'a loopback by booleans signals the vectors that are true': async (device) => {
      for (const { index, vectors } of await types(device)) {
        const triggers = await arm(device, index, vectors);
        const bools = Uint8Array.from({ length: vectors }, (_, vector) => (vector + 1) % 2);
        await device.setIrqs({ flags: BOOL_TRIGGER, index, start: 0, count: vectors, bools });
        await signalled(triggers, [...bools], `type ${index}`);
        await disarm(device, index);
      }
    },
    'all vectors of a type can be armed at once': async (device) => {
      for (const { index, count } of await types(device)) {
        const armed = Math.min(count, MANY_VECTORS);
        const triggers = Array.from({ length: armed }, () => new CountingTrigger());
        const result = await setTriggers(device, index, 0, triggers);
        // A host may have fewer: it says how many, and nothing is armed.
        if (result !== 0) {
          check(result > 0 && result < armed, `type ${index}: ${result} of ${armed} vectors can be had`);
          for (const { releases } of triggers) equal(releases, 1, 'releases of a trigger that was not taken');
          continue;
        }
        await loopback(device, index, 0, armed);
        await signalled(triggers, new Array<number>(armed).fill(1), `type ${index}`);
        await disarm(device, index);
      }
    },
    'vectors are added in pieces where the type can grow; elsewhere they may be, or are refused with EINVAL': async (
      device,
    ) => {
      for (const { index, vectors, canGrow } of await types(device)) {
        if (index === INTX || vectors < 2) continue;
        const [first] = await arm(device, index, 1);
        const more = new CountingTrigger();
        // A vfio-user server may take what the kernel does not: its clients send many descriptors in several messages.
        const errno = await refusal(setTriggers(device, index, 1, [more]));
        if (errno === undefined) {
          await loopback(device, index, 0, 2);
          await signalled([first!, more], [1, 1], `type ${index}, added vector`);
        } else {
          check(!canGrow && errno === 'EINVAL', `adding a vector to type ${index}: failed with ${errno}`);
          equal(more.releases, 1, 'releases of the trigger that was refused');
          await loopback(device, index, 0);
          await signalled([first!], [1], `type ${index} after the refusal`);
        }
        await disarm(device, index);
      }
    },
    'only one type is active at a time, and the refused one leaves no trace': async (device) => {
      const [first, second] = await types(device);
      if (first === undefined || second === undefined) notApplicable('the device has one type of interrupt at most');
      const [trigger] = await arm(device, first.index, 1);
      await fails(() => arm(device, second.index, 1), 'EINVAL', `type ${second.index} while ${first.index} is active`);
      await loopback(device, first.index, 0);
      await signalled([trigger!], [1], `type ${first.index} after the refusal`);
      await disarm(device, first.index);
      await arm(device, second.index, 1);
      await disarm(device, second.index);
    },
    'a trigger that is taken away or replaced is let go of and not signalled any more': async (device) => {
      for (const { index, vectors } of await types(device)) {
        if (index === INTX || vectors < 2) continue;
        const [first, second] = await arm(device, index, 2);
        const replacement = new CountingTrigger();
        await setTriggers(device, index, 0, [null]);
        await setTriggers(device, index, 1, [replacement]);
        await loopback(device, index, 0, 2);
        await signalled([first!, second!, replacement], [0, 0, 1], `type ${index}`);
        equal(`${first!.releases} ${second!.releases}`, '1 1', 'releases of the old triggers');
        await disarm(device, index);
      }
    },
    'a type that is disabled lets go of its triggers and signals none': async (device) => {
      for (const { index, vectors } of await types(device)) {
        const triggers = await arm(device, index, vectors);
        for (const { releases } of triggers) equal(releases, 0, 'releases of a trigger in use');
        await disarm(device, index);
        for (const { releases } of triggers) equal(releases, 1, 'releases of a trigger of a disabled type');
        await fails(() => loopback(device, index, 0), 'EINVAL', `signalling type ${index} after it was disabled`);
      }
    },
    'INTx is masked and unmasked, by data or an eventfd as each action takes it': async (device) => {
      if ((await device.getIrqInfo(INTX)).count === 0) notApplicable('the device has no INTx');
      const set = (flags: number, more: object = {}) =>
        device.setIrqs({ flags, index: INTX, start: 0, count: 1, ...more });
      await arm(device, INTX, 1);
      await set(NONE_MASK);
      await set(NONE_UNMASK);
      for (const action of [VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK])
        await set(VFIO_IRQ_SET_DATA_BOOL | action, { bools: Uint8Array.of(1) });
      const masker = new CountingTrigger();
      await fails(() => set(EVENTFD_MASK, { triggers: [masker] }), 'ENOTTY', 'an eventfd that masks');
      equal(masker.releases, 1, 'releases of the eventfd that was refused');
      await set(EVENTFD_UNMASK, { triggers: [new CountingTrigger()] });
      await fails(
        () => set(EVENTFD_UNMASK, { triggers: [new CountingTrigger()] }),
        'EBUSY',
        'a second eventfd that unmasks',
      );
      await set(EVENTFD_UNMASK, { triggers: [null] });
      await set(EVENTFD_UNMASK, { triggers: [new CountingTrigger()] });
      await disarm(device, INTX);
    },
    'ERR and REQ take a trigger, signal it and give it back, whatever type is active': async (device) => {
      const [active] = await types(device);
      if (active !== undefined) await arm(device, active.index, 1);
      for (const index of [VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX]) {
        // Older kernels have ERR on PCI Express only.
        const { count } = await device.getIrqInfo(index).catch(() => ({ count: 0 }));
        if (count === 0) continue;
        await fails(() => loopback(device, index, 0), 'EINVAL', `signalling index ${index} without a trigger`);
        await fails(() => loopback(device, index, 1), 'EINVAL', `index ${index} from 1`);
        const trigger = new CountingTrigger();
        await setTriggers(device, index, 0, [trigger]);
        await loopback(device, index, 0);
        await signalled([trigger], [1], `index ${index}`);
        await setTriggers(device, index, 0, [null]);
        equal(trigger.releases, 1, `releases of the trigger of index ${index}`);
        await fails(() => loopback(device, index, 0), 'EINVAL', `signalling index ${index} after it was taken away`);
      }
    },
    'a trigger belongs to the device also where the call fails: it is let go of once': async (device) => {
      const { numIrqs } = await device.getInfo();
      const [type] = await types(device);
      const bad = [{ index: numIrqs, flags: EVENTFD_TRIGGER, start: 0 }];
      if (type !== undefined) {
        bad.push({ index: type.index, flags: EVENTFD_TRIGGER, start: type.count });
        bad.push({ index: type.index, flags: VFIO_IRQ_SET_DATA_EVENTFD, start: 0 });
      }
      for (const request of bad) {
        const trigger = new CountingTrigger();
        await fails(
          () => device.setIrqs({ ...request, count: 1, triggers: [trigger] }),
          ['EINVAL', 'ENOTTY'],
          'a bad request',
        );
        equal(trigger.releases, 1, `releases of the trigger of index ${request.index}`);
      }
    },
  },
};
