import { migrationStateName, type VfioDeviceClient } from '@vfio/core';
import {
  PCI_CAP_ID_EXP,
  PCI_EXP_DEVCAP,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_NR,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '@vfio/uapi';
import { findCapability, readConfig, refusal, writeConfig } from '../access.js';
import { check, equal, fails, notApplicable } from '../assert.js';
import type { ContractOptions, Rule, RuleGroup } from '../contract.js';
import {
  isSaving,
  isWay,
  migrationFlags,
  opensStream,
  PRE_COPY,
  RESUMING,
  RUNNING,
  readForNow,
  STOP,
  STOP_COPY,
  save,
  setState,
  stateOf,
  statesOf,
  writeAll,
} from '../migrate.js';
import { arrives } from '../trigger.js';
import { arm, disarm, loopback, types } from './interrupts.js';
import { whereReset } from './reset.js';

const GET = VFIO_DEVICE_FEATURE_GET;
const SET = VFIO_DEVICE_FEATURE_SET;
const PROBE = VFIO_DEVICE_FEATURE_PROBE;

const NO_STATES = [VFIO_DEVICE_STATE_ERROR, VFIO_DEVICE_STATE_NR, 0xffffffff];

/** A rule of devices that can be migrated. */
export const whereMigratable =
  (rule: (device: VfioDeviceClient, options: ContractOptions, flags: number) => Promise<void>): Rule =>
  async (device, options) => {
    const flags = await migrationFlags(device);
    if (flags === 0) notApplicable('the device cannot be migrated');
    await rule(device, options, flags);
  };

/** Runs a step in each state of the device, which comes to it from RUNNING and goes back there. */
async function inEachState(
  device: VfioDeviceClient,
  flags: number,
  step: (state: number, image: Uint8Array) => Promise<void>,
): Promise<void> {
  const image = await save(device);
  await setState(device, RUNNING);
  for (const state of statesOf(flags).has) {
    await enter(device, state, image);
    await step(state, image);
    await setState(device, RUNNING);
  }
}

/** RUNNING to a state; with a whole image loaded where one is wanted, so that it can be left again. */
async function enter(device: VfioDeviceClient, state: number, image: Uint8Array): Promise<void> {
  const stream = await setState(device, state);
  equal(
    stream !== undefined,
    opensStream(RUNNING, state),
    `a stream on the way from RUNNING to ${migrationStateName(state)}`,
  );
  if (stream !== undefined && state === RESUMING) await writeAll(stream, image);
}

export const migration: RuleGroup = {
  group: 'migration',
  rules: {
    'a device that migrates has STOP_COPY, one that does not says ENOTTY': async (device) => {
      const flags = await migrationFlags(device);
      if (flags !== 0) {
        check((flags & VFIO_MIGRATION_STOP_COPY) !== 0, `migration flags ${flags} without STOP_COPY`);
        return;
      }
      for (const [feature, way] of [
        [VFIO_DEVICE_FEATURE_MIGRATION, GET],
        [VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, GET],
        [VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, SET],
        [VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, GET],
      ] as const) {
        const value = way === SET ? { value: { state: RUNNING } } : {};
        await fails(() => device.deviceFeature({ flags: feature | way, ...value }), 'ENOTTY', `feature ${feature}`);
        await fails(() => device.deviceFeature({ flags: feature | way | PROBE }), 'ENOTTY', `a probe of ${feature}`);
      }
    },
    'a device that migrates is RUNNING at open; no state leads to ERROR by request': whereMigratable(
      async (device, _, flags) => {
        equal(await stateOf(device), RUNNING, 'state at open');
        await inEachState(device, flags, async (state) => {
          for (const wanted of NO_STATES) {
            await fails(
              () => setState(device, wanted),
              'EINVAL',
              `${migrationStateName(state)} to ${migrationStateName(wanted)}`,
            );
            equal(await stateOf(device), state, `state after ${migrationStateName(wanted)} was refused`);
          }
        });
      },
    ),
    'every state leads to every other, but STOP_COPY not back to PRE_COPY; a stream opens where one begins':
      whereMigratable(async (device, _, flags) => {
        const { has } = statesOf(flags);
        await inEachState(device, flags, async (from, image) => {
          for (const to of has) {
            if (!isWay(from, to)) continue;
            const way = `${migrationStateName(from)} to ${migrationStateName(to)}`;
            const stream = await setState(device, to);
            equal(await stateOf(device), to, `state after ${way}`);
            equal(stream !== undefined, opensStream(from, to), `${way}: a stream was opened`);
            if (stream !== undefined && to === RESUMING) await writeAll(stream, image);
            await setState(device, RUNNING);
            equal(await stateOf(device), RUNNING, `state after ${migrationStateName(to)} to RUNNING`);
            await enter(device, from, image);
          }
        });
      }),
    'a state that the device lacks, and a way that there is not, are refused with EINVAL; state and stream go on':
      whereMigratable(async (device, _, flags) => {
        const { has, lacks } = statesOf(flags);
        await inEachState(device, flags, async (from) => {
          for (const to of [...lacks, ...has.filter((state) => !isWay(from, state))]) {
            await fails(
              () => setState(device, to),
              'EINVAL',
              `${migrationStateName(from)} to ${migrationStateName(to)}`,
            );
            equal(await stateOf(device), from, `state after ${migrationStateName(to)} was refused`);
          }
        });
        const stream = await setState(device, STOP_COPY);
        for (const to of [VFIO_DEVICE_STATE_ERROR, ...has.filter((state) => !isWay(STOP_COPY, state))])
          await fails(() => setState(device, to), 'EINVAL', `STOP_COPY to ${migrationStateName(to)}`);
        check(((await stream?.read(new Uint8Array(1))) ?? 0) === 1, 'the stream ended by a request that was refused');
      }),
    'the state that the device is in can be asked for: it stays, no stream opens, the one that is open goes on':
      whereMigratable(async (device, _, flags) => {
        await inEachState(device, flags, async (state) => {
          equal(await setState(device, state), undefined, `stream of ${migrationStateName(state)} again`);
          equal(await stateOf(device), state, 'state');
        });
        const stream = await setState(device, STOP_COPY);
        await setState(device, STOP_COPY);
        check(
          ((await stream?.read(new Uint8Array(1))) ?? 0) === 1,
          'the stream ended when its state was asked for again',
        );
      }),
    'a reset in any state leads to RUNNING, and ends the stream with ENODEV': whereReset(
      whereMigratable(async (device, _, flags) => {
        for (const state of statesOf(flags).has) {
          const stream = await setState(device, state);
          await device.reset();
          equal(await stateOf(device), RUNNING, `state after a reset in ${migrationStateName(state)}`);
          if (stream === undefined) continue;
          const use = async () =>
            isSaving(state) ? stream.read(new Uint8Array(16)) : stream.write(new Uint8Array(16));
          await fails(use, 'ENODEV', `the stream of ${migrationStateName(state)} after a reset`);
        }
        await save(device);
      }),
    ),
    'a function level reset by config space leads to RUNNING too': whereMigratable(async (device, _, flags) => {
      const at = await findCapability(device, PCI_CAP_ID_EXP);
      const capabilities = at === undefined ? 0 : await readConfig(device, at + PCI_EXP_DEVCAP, 4);
      if (at === undefined || (capabilities & PCI_EXP_DEVCAP_FLR) === 0) notApplicable('the device has no FLR');
      for (const state of statesOf(flags).has) {
        const stream = await setState(device, state);
        const control = await readConfig(device, at + PCI_EXP_DEVCTL, 2);
        await writeConfig(device, at + PCI_EXP_DEVCTL, 2, control | PCI_EXP_DEVCTL_BCR_FLR);
        equal(await stateOf(device), RUNNING, `state after an FLR in ${migrationStateName(state)}`);
        if (stream === undefined) continue;
        const use = async () => (isSaving(state) ? stream.read(new Uint8Array(16)) : stream.write(new Uint8Array(16)));
        check((await refusal(use())) !== undefined, `the stream of ${migrationStateName(state)} outlives an FLR`);
      }
    }),
    'the next user finds it RUNNING, in whatever state the last left it': whereMigratable(
      async (device, { open }, flags) => {
        let last = { device, close: () => device.close() };
        try {
          for (const state of statesOf(flags).has) {
            const stream = await setState(last.device, state);
            if (stream !== undefined && isSaving(state)) await stream.read(new Uint8Array(1));
            await last.close();
            last = await open();
            equal(await stateOf(last.device), RUNNING, `state after a close in ${migrationStateName(state)}`);
          }
        } finally {
          await last.close();
        }
      },
    ),
    'the size of the state can be asked for in every state': whereMigratable(async (device, _, flags) => {
      const dataSize = async () =>
        (
          (await device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DATA_SIZE | GET })) as {
            stopCopyLength: unknown;
          }
        ).stopCopyLength;
      await inEachState(device, flags, async (state, image) => {
        const size = await dataSize();
        check(typeof size === 'bigint' && size >= 0n, `size in ${migrationStateName(state)}: ${String(size)}`);
        equal(await stateOf(device), state, 'state after its size was asked for');
        if (state === STOP && image.length > 0) check(size > 0n, `a state of ${image.length} bytes has size 0`);
      });
    }),
    'interrupts that are armed still signal after every state': whereMigratable(async (device, _, flags) => {
      const [type] = await types(device);
      if (type === undefined) notApplicable('the device has no interrupt');
      for (const { index, vectors } of await types(device)) {
        const triggers = await arm(device, index, vectors);
        await inEachState(device, flags, async () => undefined);
        for (const [vector, trigger] of triggers.entries()) {
          await loopback(device, index, vector);
          check(await arrives(() => trigger.signals > 0), `type ${index}: vector ${vector} is dead after a migration`);
        }
        await disarm(device, index);
      }
    }),
    'REINIT of precopy info can be had with PRE_COPY, without it is refused with EINVAL': async (device) => {
      const flags = VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | SET;
      if (((await migrationFlags(device)) & VFIO_MIGRATION_PRE_COPY) === 0) {
        await fails(() => device.deviceFeature({ flags }), 'EINVAL', 'precopy info v2');
        return;
      }
      await device.deviceFeature({ flags: flags | PROBE });
      await device.deviceFeature({ flags });
      const stream = await setState(device, PRE_COPY);
      check(stream !== undefined, 'no stream in PRE_COPY');
      await readForNow(stream);
    },
  },
};
