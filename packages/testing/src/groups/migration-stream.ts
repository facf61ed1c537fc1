import { type MigrationData, migrationStateName, type VfioDeviceClient } from '@vfio/core';
import { VFIO_MIGRATION_P2P, VFIO_MIGRATION_PRE_COPY } from '@vfio/uapi';
import { busMaster, decode, refusal } from '../access.js';
import { check, equal, fails, notApplicable, sameBytes } from '../assert.js';
import type { ContractOptions, ContractSubject, Rule, RuleGroup } from '../contract.js';
import {
  checkIdle,
  hasPrecopyInfo,
  isSaving,
  join,
  load,
  openStream,
  PRE_COPY,
  PRE_COPY_P2P,
  RESUMING,
  RUNNING,
  readForNow,
  readToEnd,
  STOP,
  STOP_COPY,
  save,
  setState,
  stateOf,
  statesOf,
  writeAll,
} from '../migrate.js';
import { random } from '../random.js';
import { arrives } from '../trigger.js';
import { workloadOf } from '../workload.js';
import { arm } from './interrupts.js';
import { whereMigratable } from './migration.js';
import { whereReset } from './reset.js';

const MAX_ROUNDS = 16;
/** Places at which a stream is cut or changed; both ends are among them. */
const PLACES = 12;
/** Runs of the workload before a migration and after. */
const RUNS = 4;
const MEMORY = { iova: 0x400000n, size: 0x40000 };

/** A rule of devices that give state while they run. */
const wherePreCopied = (rule: (device: VfioDeviceClient, options: ContractOptions, flags: number) => Promise<void>) =>
  whereMigratable(async (device, options, flags) => {
    if ((flags & VFIO_MIGRATION_PRE_COPY) === 0) notApplicable('the device has no PRE_COPY');
    await rule(device, options, flags);
  });

/** A rule of streams of which the precopy info can be asked for. */
const wherePrecopyInfo = (rule: (device: VfioDeviceClient, flags: number) => Promise<void>): Rule =>
  wherePreCopied(async (device, _, flags) => {
    const stream = await openStream(device, PRE_COPY);
    const has = await hasPrecopyInfo(stream);
    await setState(device, RUNNING);
    if (!has) notApplicable('the precopy info cannot be asked for over this transport');
    await rule(device, flags);
  });

const info = async (stream: MigrationData) => stream.precopyInfo();

/** Pieces of 1 byte up to a few hundred. */
const pieces = (seed: number): (() => number) => {
  const next = random(seed);
  return () => 1 + Math.floor(next() ** 3 * 700);
};

/** Places in a stream: near its ends, and others that are the same each time. */
function places(length: number): number[] {
  const next = random(length);
  const some = Array.from({ length: PLACES }, () => 1 + Math.floor(next() * (length - 1)));
  return [...new Set([1, length - 1, ...some])].filter((place) => place > 0 && place < length);
}

/** The device that a stream is for: the peer, or the first one as its next user finds it. */
async function withDestination<T>(
  device: VfioDeviceClient,
  { open, peer }: ContractOptions,
  use: (destination: VfioDeviceClient) => Promise<T>,
): Promise<T> {
  if (peer === undefined) await device.close();
  const destination: ContractSubject = await (peer ?? open)();
  try {
    return await use(destination.device);
  } finally {
    await destination.close();
  }
}

/** The state that a device has after it has loaded a stream, as far as the suite was told how to see it. */
async function loaded(device: VfioDeviceClient, bytes: Uint8Array, options: ContractOptions, size?: () => number) {
  await load(device, bytes, size);
  equal(await stateOf(device), STOP, 'state after RESUMING to STOP');
  await setState(device, RUNNING);
  equal(await stateOf(device), RUNNING, 'state after a stream was loaded');
  await decode(device, true);
  return options.state?.get(device);
}

/** The whole state of a device that is let go on, saved in one go or while it runs. */
async function savedFrom(device: VfioDeviceClient, state: number): Promise<Uint8Array> {
  const stream = await openStream(device, state);
  const parts = isSaving(state) && state !== STOP_COPY ? [await readForNow(stream)] : [];
  await setState(device, STOP_COPY);
  parts.push(await readToEnd(stream));
  await setState(device, RUNNING);
  return join(parts);
}

/** Changes what is to move, where the suite was told how. */
async function put(device: VfioDeviceClient, { state }: ContractOptions, seed: number) {
  await decode(device, true);
  await state?.put(device, seed);
  return state?.get(device);
}

function sameState(found: Uint8Array | undefined, wanted: Uint8Array | undefined): void {
  if (found !== undefined && wanted !== undefined) sameBytes(found, wanted, 'state that was moved');
}

export const migrationStream: RuleGroup = {
  group: 'migration',
  rules: {
    'a save stream is only read, a resume stream only written': whereMigratable(async (device, _, flags) => {
      for (const state of statesOf(flags).has.filter(isSaving)) {
        const stream = await openStream(device, state);
        const write = async () => stream.write(new Uint8Array(16));
        await fails(write, ['EINVAL', 'EBADF'], `writing to the stream of ${migrationStateName(state)}`);
        check((await stream.read(new Uint8Array(1))) === 1, 'the stream gives nothing after a refused write');
        await setState(device, RUNNING);
      }
      const image = await save(device);
      const stream = await openStream(device, RESUMING);
      await fails(async () => stream.read(new Uint8Array(16)), ['EINVAL', 'EBADF'], 'reading from a resume stream');
      await writeAll(stream, image);
      await setState(device, RUNNING);
    }),
    'a stopped device gives its state in pieces of any size, and nothing for ever after the last byte': whereMigratable(
      async (device, options) => {
        const wanted = await put(device, options, 1);
        await setState(device, STOP);
        const images = [await save(device)];
        for (const size of [() => 1, pieces(7), () => 1 << 20]) {
          const stream = await openStream(device, STOP_COPY);
          equal(await stream.read(new Uint8Array(0)), 0, 'a read of 0 bytes');
          images.push(await readToEnd(stream, size));
          for (let n = 0; n < 3; n++) equal(await stream.read(new Uint8Array(16)), 0, 'a read at the end');
          await setState(device, STOP);
        }
        // A device may stamp what it saves: the bytes need not be the same, what they mean must be.
        await setState(device, RUNNING);
        await withDestination(device, options, async (peer) => {
          for (const [n, image] of images.entries()) {
            equal(image.length, images[0]?.length, `bytes of save ${n}`);
            await put(peer, options, 100 + n);
            sameState(await loaded(peer, image, options), wanted);
          }
        });
      },
    ),
    'a device is pre-copied until it has nothing new (ENOMSG), then on the same stream to the end': wherePreCopied(
      async (device, options) => {
        await put(device, options, 2);
        const stream = await openStream(device, PRE_COPY);
        const first = await readForNow(stream, pieces(11));
        await checkIdle(stream);
        await put(device, options, 3);
        const parts = [first];
        // Asking is what makes new state appear.
        for (let n = 0; n < MAX_ROUNDS && (await hasPrecopyInfo(stream)); n++) {
          const { initialBytes, dirtyBytes } = await info(stream);
          if (initialBytes + dirtyBytes === 0n) break;
          parts.push(await readForNow(stream, pieces(n)));
        }
        const wanted = await put(device, options, 4);
        equal(await setState(device, STOP_COPY), undefined, 'another stream in STOP_COPY');
        parts.push(await readToEnd(stream));
        equal(await stream.read(new Uint8Array(16)), 0, 'a read at the end');
        const found = await withDestination(device, options, (peer) => loaded(peer, join(parts), options));
        sameState(found, wanted);
      },
    ),
    'the stream goes on when the device goes quiet and back; what was not read before is read in STOP_COPY':
      wherePreCopied(async (device, options, flags) => {
        const wanted = await put(device, options, 5);
        const stream = await openStream(device, PRE_COPY);
        const one = new Uint8Array(1);
        equal(await stream.read(one), 1, 'the first byte');
        if ((flags & VFIO_MIGRATION_P2P) !== 0)
          for (const state of [PRE_COPY_P2P, PRE_COPY, PRE_COPY_P2P])
            equal(await setState(device, state), undefined, `another stream in ${migrationStateName(state)}`);
        equal(await setState(device, STOP_COPY), undefined, 'another stream in STOP_COPY');
        const bytes = join([one, await readToEnd(stream, pieces(13))]);
        const found = await withDestination(device, options, (peer) => loaded(peer, bytes, options));
        sameState(found, wanted);
      }),
    'as many bytes as the precopy info says are initial can be read at once; of an idle device none are':
      wherePrecopyInfo(async (device) => {
        const stream = await openStream(device, PRE_COPY);
        const { initialBytes } = await info(stream);
        const initial = new Uint8Array(Number(initialBytes));
        for (let at = 0; at < initial.length; ) {
          const count = await stream.read(initial.subarray(at));
          check(count > 0, `the stream ended after ${at} of ${initial.length} bytes`);
          at += count;
        }
        await readForNow(stream);
        equal((await info(stream)).initialBytes, 0n, 'initial bytes after all was read');
      }),
    'precopy info is refused with EINVAL outside the PRE_COPY states, with ENODEV when the session has ended':
      wherePrecopyInfo(async (device, flags) => {
        for (const state of statesOf(flags).has.filter((one) => isSaving(one) && one !== STOP_COPY)) {
          const stream = await openStream(device, state);
          await info(stream);
          await setState(device, STOP_COPY);
          await fails(() => info(stream), 'EINVAL', 'precopy info in STOP_COPY');
          await setState(device, RUNNING);
          await fails(() => info(stream), 'ENODEV', 'precopy info of a session that has ended');
        }
        const image = await save(device);
        const stream = await openStream(device, RESUMING);
        await fails(() => info(stream), 'EINVAL', 'precopy info in RESUMING');
        await writeAll(stream, image);
        await setState(device, RUNNING);
      }),
    'a stream ends with its session: ENODEV': whereMigratable(async (device, _, flags) => {
      const image = await save(device);
      await setState(device, RUNNING);
      for (const state of statesOf(flags).has.filter((one) => isSaving(one) || one === RESUMING)) {
        const stream = await openStream(device, state);
        if (state === RESUMING) await writeAll(stream, image);
        await setState(device, RUNNING);
        const use = async () =>
          state === RESUMING ? stream.write(new Uint8Array(16)) : stream.read(new Uint8Array(16));
        await fails(use, 'ENODEV', `the stream of ${migrationStateName(state)} after it was left`);
      }
      const stream = await openStream(device, STOP_COPY);
      await device.close();
      check((await refusal((async () => stream.read(new Uint8Array(16)))())) !== undefined, 'a stream outlives close');
    }),
    'a migration that was broken off anywhere can be begun again': whereMigratable(async (device, options, flags) => {
      for (const state of statesOf(flags).has.filter(isSaving)) {
        for (const read of [0, 1, 40]) {
          const stream = await openStream(device, state);
          if (read > 0) await stream.read(new Uint8Array(read));
          await setState(device, RUNNING);
        }
      }
      const wanted = await put(device, options, 6);
      const image = await save(device);
      const found = await withDestination(device, options, async (peer) => {
        // Half of it first, which is given up.
        const stream = await openStream(peer, RESUMING);
        await writeAll(stream, image.subarray(0, image.length >> 1));
        const errno = await refusal(setState(peer, STOP));
        if (errno !== undefined) await peer.reset();
        equal(await setState(peer, RUNNING), undefined, 'a stream in RUNNING');
        return loaded(peer, image, options);
      });
      sameState(found, wanted);
    }),
    'a stream that was cut is refused, and a reset makes the device as new': whereReset(
      whereMigratable(async (device, options) => {
        const wanted = await put(device, options, 7);
        const image = await save(device);
        await setState(device, RUNNING);
        for (const place of places(image.length)) {
          const stream = await openStream(device, RESUMING);
          await writeAll(stream, image.subarray(0, place), () => 1000);
          const errno = await refusal(setState(device, STOP));
          check(errno !== undefined, `${place} of ${image.length} bytes were taken for the whole state`);
          check(
            statesOf(7).has.includes(await stateOf(device)) || (await stateOf(device)) === 0,
            'no state that there is',
          );
          await device.reset();
          equal(await stateOf(device), RUNNING, 'state after a reset');
        }
        sameState(await loaded(device, image, options), wanted);
      }),
    ),
    'a stream with a byte that was changed does no more than be refused': whereReset(
      whereMigratable(async (device, options) => {
        const wanted = await put(device, options, 8);
        const image = await save(device);
        await setState(device, RUNNING);
        for (const place of [0, ...places(image.length)]) {
          const changed = image.slice();
          changed[place] = (changed[place] ?? 0) ^ 0xff;
          // Wherever it is noticed: a VfioError with an errno, or another state.
          await refusal(load(device, changed));
          await stateOf(device);
          await device.reset();
          equal(await stateOf(device), RUNNING, 'state after a reset');
        }
        sameState(await loaded(device, image, options), wanted);
      }),
    ),
    'what one device saves another loads, in pieces of any size, and has the same state then': whereMigratable(
      async (device, options) => {
        const wanted = await put(device, options, 9);
        const image = await save(device);
        await setState(device, RUNNING);
        await put(device, options, 10);
        const found = await withDestination(device, options, (peer) => loaded(peer, image, options, pieces(17)));
        sameState(found, wanted);
      },
    ),
    'streams go to another version of the driver and come back, the state is the same: stopped, and pre-copied':
      whereMigratable(async (device, options, flags) => {
        const { otherVersion } = options;
        if (otherVersion === undefined) notApplicable('the suite was not told of another version of the driver');
        const other = await otherVersion();
        try {
          for (const from of [STOP_COPY, ...((flags & VFIO_MIGRATION_PRE_COPY) === 0 ? [] : [PRE_COPY])]) {
            const wanted = await put(device, options, 20 + from);
            const there = await savedFrom(device, from);
            await put(other.device, options, 40 + from);
            sameState(await loaded(other.device, there, options, pieces(from)), wanted);
            await put(device, options, 60 + from);
            const back = await savedFrom(other.device, from);
            sameState(await loaded(device, back, options, pieces(from)), wanted);
          }
        } finally {
          await other.close();
        }
      }),
    'a stream of a device that is not compatible is refused both ways, and a reset makes the device as new': whereReset(
      whereMigratable(async (device, options) => {
        const { incompatible } = options;
        if (incompatible === undefined) notApplicable('the suite was not told of a device that is not compatible');
        const other = await incompatible();
        try {
          const images = [await savedFrom(device, STOP_COPY), await savedFrom(other.device, STOP_COPY)] as const;
          for (const [to, foreign, own] of [
            [device, images[1], images[0]],
            [other.device, images[0], images[1]],
          ] as const) {
            check((await refusal(load(to, foreign))) !== undefined, 'the stream of another kind of device was taken');
            await to.reset();
            equal(await stateOf(to), RUNNING, 'state after a reset');
            await load(to, own);
            await setState(to, RUNNING);
          }
        } finally {
          await other.close();
        }
      }),
    ),
    'a device that was stopped, or loaded, works on: what it writes arrives, and its interrupts come': whereMigratable(
      async (device, options, flags) => {
        await works(device, options, 0);
        for (const state of statesOf(flags).has) {
          if (state === RESUMING) continue;
          await setState(device, state);
          await setState(device, RUNNING);
          await works(device, options, state);
        }
        const image = await save(device);
        await withDestination(device, options, async (peer) => {
          await loaded(peer, image, options);
          await works(peer, options, 9);
        });
      },
    ),
  },
};

/** Lets a device work for a while. */
async function works(device: VfioDeviceClient, options: ContractOptions, seed: number): Promise<void> {
  const { map, run, interrupt } = workloadOf(options);
  const bytes = await map(device, MEMORY.iova, MEMORY.size);
  await decode(device, true);
  await busMaster(device, true);
  const next = random(seed);
  const trigger =
    interrupt === undefined ? undefined : (await arm(device, interrupt.index, interrupt.vector + 1))[interrupt.vector];
  for (let n = 0; n < RUNS; n++) {
    const signals = trigger?.signals ?? 0;
    bytes.fill(0);
    const ranges = await run(device, { iova: MEMORY.iova, bytes }, next);
    check(
      ranges.length > 0 || trigger !== undefined,
      `run ${n}: nothing was written, and there is no interrupt to see`,
    );
    for (const { iova, length } of ranges) {
      const at = Number(iova - MEMORY.iova);
      check(
        !bytes.subarray(at, at + Number(length)).every((byte) => byte === 0),
        `run ${n}: 0x${iova.toString(16)} is as it was`,
      );
    }
    if (trigger !== undefined) check(await arrives(() => trigger.signals > signals), `run ${n}: no interrupt`);
  }
  await device.dmaUnmap(MEMORY.iova, BigInt(MEMORY.size));
}
