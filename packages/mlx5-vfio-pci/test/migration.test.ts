import { CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_SET,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { drain, feed, type Machine, machine, nothingHeld, PAGE, STATE, stream, type Vf } from './helpers/setup.js';

const OP = { SUSPEND: 0x115, RESUME: 0x116, QUERY: 0x117, SAVE: 0x118, LOAD: 0x119 } as const;

const migrationCommands = ({ commands }: Machine): string[] =>
  commands
    .filter(({ opcode }) => opcode >= OP.SUSPEND && opcode <= OP.LOAD)
    .map(({ name, opMod }) => `${name.replace('_VHCA', '')} ${opMod}`);

async function moved(source: Vf, target: Vf, state: Uint8Array): Promise<void> {
  const data = await stream(target, STATE.RESUMING);
  await feed(data, state);
  await target.set(STATE.STOP);
  source.moveTo(target);
}

describe('whether a function can be migrated', () => {
  const flags = async (vf: Vf) =>
    vf.device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION });

  test('it can with a physical function of ours and a firmware that says so', async () => {
    const { open, warnings } = await machine();
    expect(await flags(await open(0))).toEqual({ flags: 7 });
    expect(warnings).toEqual([]);
  });

  test.each<[string, Parameters<typeof machine>[0], RegExp]>([
    ['the physical function is not ours', { boot: false }, /0000:01:00\.0 is not bound to mlx5_core/],
    ['the firmware cannot migrate', { connectx: { without: ['migration'] } }, /capability migration\)/],
    ['the firmware loads in one piece', { connectx: { without: ['migration_multi_load'] } }, /migration_multi_load/],
    ['the firmware cannot track', { connectx: { without: ['migration_tracking_state'] } }, /migration_tracking_state/],
    ['the function was not made migratable', { core: { migratable: false } }, /capability migratable/],
  ])('it is passed through as it is where %s, and says so', async (_name, options, message) => {
    const { open, warnings } = await machine(options);
    const vf = await open(0);
    await expect(flags(vf)).rejects.toMatchObject({ errno: 'ENOTTY', message: expect.stringMatching(message) });
    expect(warnings).toEqual([expect.stringMatching(message)]);
  });
});

describe('what the firmware can beyond that', () => {
  test('without chunks a large state goes in one image', async () => {
    const { open, commands } = await machine({ connectx: { vfMemory: 0x1400000, without: ['migration_in_chunks'] } });
    const vf = await open(0);
    for (let page = 0; page < 0x1400; page++) vf.model.memory.write(page * PAGE, new Uint8Array(PAGE).fill(page));
    const saving = await stream(vf, STATE.STOP_COPY);
    expect((await drain(saving, 0x100000)).length).toBeGreaterThan(0x1400000);
    expect(commands.filter(({ opcode }) => opcode === OP.SAVE)).toHaveLength(1);
  });

  test('without its state nobody hears that a pre-copy begins anew, and what comes is dirty', async () => {
    const { open } = await machine({ connectx: { without: ['migration_state'] } });
    const vf = await open(0);
    vf.start();
    await vf.store(1, 1);
    await vf.device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 });
    const saving = await stream(vf, STATE.PRE_COPY);
    await drain(saving);
    vf.model.migration.startAnew();
    expect(await saving.precopyInfo()).toMatchObject({ flags: 0, initialBytes: 0n });
  });
});

describe('arcs', () => {
  test('each is the command that the firmware wants, SUSPEND and RESUME with numbers of their own', async () => {
    const made = await machine();
    const vf = await made.open(0);
    vf.start();
    await vf.store(1, 1);
    made.commands.length = 0;
    const walk = async (...states: number[]) => {
      made.commands.length = 0;
      for (const state of states) await vf.set(state);
      return migrationCommands(made);
    };
    expect(await walk(STATE.RUNNING_P2P)).toEqual(['SUSPEND 0']);
    expect(await walk(STATE.STOP)).toEqual(['SUSPEND 1']);
    expect(await walk(STATE.RUNNING_P2P)).toEqual(['RESUME 0']);
    expect(await walk(STATE.RUNNING)).toEqual(['RESUME 1']);
    expect(await walk(STATE.STOP)).toEqual(['SUSPEND 0', 'SUSPEND 1']);
    expect(await walk(STATE.RUNNING)).toEqual(['RESUME 0', 'RESUME 1']);
    expect(await walk(STATE.PRE_COPY, STATE.PRE_COPY_P2P, STATE.PRE_COPY, STATE.RUNNING)).toEqual([
      'QUERY_MIGRATION_STATE 0',
      'SAVE_STATE 0',
      'SUSPEND 0',
      'RESUME 1',
      'SAVE_STATE 0',
    ]);
    expect(await walk(STATE.STOP_COPY, STATE.STOP, STATE.RESUMING, STATE.RUNNING)).toEqual([
      'SUSPEND 0',
      'SUSPEND 1',
      'QUERY_MIGRATION_STATE 0',
      'SAVE_STATE 0',
      'RESUME 0',
      'RESUME 1',
    ]);
    expect(made.commands.filter(({ status }) => status !== 0)).toEqual([]);
    await nothingHeld(made);
  });

  test('the size of the state can be asked for at any time', async () => {
    const { open } = await machine();
    const vf = await open(0);
    vf.start();
    await vf.store(3, 1);
    const size = async () => {
      const result = await vf.device.deviceFeature({
        flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
      });
      return Number((result as { stopCopyLength: bigint }).stopCopyLength);
    };
    const before = await size();
    await vf.store(4, 1);
    expect(await size()).toBeGreaterThan(before);
    await vf.set(STATE.STOP);
    expect(await size()).toBeGreaterThan(before);
  });
});

describe('moving', () => {
  test('a stopped function: all that it was, from one machine to another', async () => {
    const [from, to] = [await machine(), await machine()];
    const [source, target] = [await from.open(0), await to.open(1)];
    source.start();
    for (const page of [0, 7, 63]) await source.store(page, 0x40 + page);
    await source.run(ENGINE.COPY | ENGINE.INTERRUPT, 64, PAGE, 9 * PAGE);
    source.write(ENGINE.SCRATCH, 0xabcd);
    const state = await drain(await stream(source, STATE.STOP_COPY), 4096);
    await moved(source, target, state);
    await target.set(STATE.RUNNING);
    for (const page of [0, 7, 63])
      expect(target.model.memory.page(page)).toEqual(new Uint8Array(PAGE).fill(0x40 + page));
    expect([ENGINE.SCRATCH, ENGINE.COMPLETED, ENGINE.INTERRUPTS].map((r) => target.register(r))).toEqual([
      0xabcd, 4, 1,
    ]);
    // It goes on where it was.
    target.memory.fill(0x11, PAGE, 2 * PAGE);
    expect(await target.run(ENGINE.COPY | ENGINE.INTERRUPT, PAGE, PAGE, 5 * PAGE)).toBe(ENGINE.DONE);
    expect(target.memory[5 * PAGE]).toBe(0x11);
    expect(target.interrupts).toEqual([3]);
    await source.set(STATE.STOP);
    await nothingHeld(from);
    await nothingHeld(to);
  });

  test('the whole stream is one that a reader of any piece size takes', async () => {
    const { open } = await machine();
    const [source, target] = [await open(0), await open(1)];
    source.start();
    await source.store(2, 9);
    const state = await drain(await stream(source, STATE.STOP_COPY), 13);
    const data = await stream(target, STATE.RESUMING);
    await feed(data, state, 1);
    await target.set(STATE.STOP);
    expect(target.model.memory.page(2)[0]).toBe(9);
  });

  test('a function that runs: what changes meanwhile follows in increments', async () => {
    const [from, to] = [await machine(), await machine()];
    const [source, target] = [await from.open(0), await to.open(0)];
    source.start();
    await source.store(1, 1);
    const saving = await stream(source, STATE.PRE_COPY);
    const resuming = await stream(target, STATE.RESUMING);
    await feed(resuming, await drain(saving));
    for (let round = 2; round < 6; round++) {
      await source.store(round, round);
      await source.store(1, round);
      const info = await saving.precopyInfo();
      expect(info.initialBytes).toBe(0n);
      expect(info.dirtyBytes).toBeGreaterThan(BigInt(2 * PAGE));
      const increment = await drain(saving);
      expect(increment.length).toBe(Number(info.dirtyBytes));
      expect(increment.length).toBeLessThan(4 * PAGE);
      await feed(resuming, increment);
    }
    expect(await saving.precopyInfo()).toMatchObject({ initialBytes: 0n, dirtyBytes: 0n });
    await source.store(9, 9);
    await source.set(STATE.PRE_COPY_P2P);
    expect(await saving.precopyInfo()).toMatchObject({ dirtyBytes: 0n });
    await source.set(STATE.STOP_COPY);
    await feed(resuming, await drain(saving));
    await target.set(STATE.STOP);
    source.moveTo(target);
    await target.set(STATE.RUNNING);
    expect([1, 2, 3, 4, 5, 9].map((page) => target.model.memory.page(page)[0])).toEqual([5, 2, 3, 4, 5, 9]);
    expect(await target.run(ENGINE.FETCH, PAGE, 9 * PAGE, 7 * PAGE)).toBe(ENGINE.DONE);
    expect(target.memory[7 * PAGE]).toBe(9);
    expect(from.commands.filter(({ status }) => status !== 0)).toEqual([]);
    await source.set(STATE.STOP);
    await nothingHeld(from);
  });

  test('a large state in chunks, with two of them in memory at the most', async () => {
    const connectx = { vfMemory: 0x2000000 };
    const [from, to] = [await machine({ connectx }), await machine({ connectx })];
    const [source, target] = [await from.open(0), await to.open(0)];
    for (let page = 0; page < 0x2000; page++)
      source.model.memory.write(page * PAGE, new Uint8Array(PAGE).fill((page * 7) % 251));
    source.start();
    const saving = await stream(source, STATE.STOP_COPY);
    const resuming = await stream(target, STATE.RESUMING);
    const piece = new Uint8Array(0x40000);
    let most = 0;
    for (let count = 1; count > 0; ) {
      count = await saving.read(piece);
      await resuming.write(piece.subarray(0, count));
      most = Math.max(most, from.connectx.hca.memoryKeys.size);
    }
    expect(most).toBeLessThanOrEqual(3);
    await target.set(STATE.STOP);
    for (const page of [0, 1, 0xfff, 0x1fff])
      expect(target.model.memory.page(page)).toEqual(source.model.memory.page(page));
    expect(from.commands.filter(({ opcode }) => opcode === OP.SAVE).length).toBeGreaterThan(3);
  });

  test('reading does not wait for the firmware while something is ready: it saves the next part meanwhile', async () => {
    const { open, connectx } = await machine({ connectx: { vfMemory: 0x1400000 } });
    const source = await open(0);
    for (let page = 0; page < 0x1400; page++) source.model.memory.write(page * PAGE, new Uint8Array(PAGE).fill(page));
    const saves: number[] = [];
    connectx.firmware.misbehave = (_id, opcode) => {
      if (opcode !== OP.SAVE) return undefined;
      saves.push(opcode);
      // The second of three takes for ever.
      return saves.length === 2 ? 'stalls' : undefined;
    };
    const saving = await stream(source, STATE.STOP_COPY);
    const first = new Uint8Array(1);
    await saving.read(first);
    await expect.poll(() => saves.length).toBe(2);
    const piece = new Uint8Array(0x10000);
    let total = 1;
    let count = saving.read(piece);
    for (; typeof count === 'number'; count = saving.read(piece)) total += count;
    // A promise: all that was ready has been read.
    expect(total).toBeGreaterThan(0x700000);
    const waiting = expect(count).rejects.toMatchObject({ errno: 'ENODEV' });
    await source.device.reset();
    await waiting;
  });

  test('a function that runs can be read from while the firmware saves what has changed', async () => {
    const { open, connectx } = await machine();
    const source = await open(0);
    source.start();
    await source.store(1, 1);
    await source.device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 });
    const saving = await stream(source, STATE.PRE_COPY);
    const { initialBytes } = await saving.precopyInfo();
    source.model.migration.startAnew();
    connectx.firmware.stall(OP.SAVE);
    // All begins anew, so another SAVE is under way while the first is unread.
    expect(await saving.precopyInfo()).toMatchObject({ flags: 1 });
    expect(saving.read(new Uint8Array(Number(initialBytes)))).toBe(Number(initialBytes));
    await source.device.reset();
  });

  test('two questions for the precopy info at once begin one SAVE', async () => {
    const { open, commands } = await machine();
    const source = await open(0);
    source.start();
    const saving = await stream(source, STATE.PRE_COPY);
    await drain(saving);
    await source.store(2, 2);
    commands.length = 0;
    await Promise.all([saving.precopyInfo(), saving.precopyInfo(), source.set(STATE.PRE_COPY_P2P)]);
    expect(commands.filter(({ opcode }) => opcode === OP.SAVE)).toHaveLength(1);
    expect(commands.filter(({ status }) => status !== 0)).toEqual([]);
  });

  test('a stream that was cut or changed leaves a function that a reset makes as new', async () => {
    const { open } = await machine({ connectx: { vfMemory: 8 * PAGE } });
    const [source, target] = [await open(0), await open(1)];
    source.start();
    await source.store(1, 1);
    const saving = await stream(source, STATE.PRE_COPY);
    const parts = [await drain(saving)];
    await source.store(2, 2);
    await source.set(STATE.STOP_COPY);
    parts.push(await drain(saving));
    const state = new Uint8Array(Buffer.concat(parts));
    const edges: number[] = [0];
    const view = new DataView(state.buffer);
    for (let at = 0; at < state.length; at += 16 + Number(view.getBigUint64(at, true))) edges.push(at, at + 16);
    const beside = edges.flatMap((edge) => [edge - 1, edge, edge + 1]);
    const others = Array.from({ length: 40 }, (_, i) => Math.imul(i, 7919) % state.length);
    for (const at of new Set([...beside, ...others])) {
      if (at <= 0 || at >= state.length) continue;
      const changed = state.slice();
      changed[at] = (changed[at] ?? 0) ^ 0x20;
      for (const harmed of [state.subarray(0, at), changed]) {
        const resuming = await stream(target, STATE.RESUMING);
        const written = await feed(resuming, harmed, 10_000).catch(({ errno }: { errno: string }) => errno);
        const left = Promise.resolve(target.set(STATE.STOP));
        await expect(left, `byte ${at}: ${written}`).rejects.toMatchObject({ errno: expect.stringMatching(/^E/) });
        expect(await target.state()).toBe(STATE.ERROR);
        await target.device.reset();
      }
    }
    await moved(source, target, state);
    await target.set(STATE.RUNNING);
    expect([1, 2].map((page) => target.model.memory.page(page)[0])).toEqual([1, 2]);
  });
});

describe('precopy info', () => {
  test('calls the first image initial, and what follows dirty', async () => {
    const { open } = await machine();
    const source = await open(0);
    source.start();
    await source.store(1, 1);
    const saving = await stream(source, STATE.PRE_COPY);
    const before = await saving.precopyInfo();
    expect(before).toMatchObject({ flags: 0, dirtyBytes: 0n });
    const part = new Uint8Array(100);
    await saving.read(part);
    expect((await saving.precopyInfo()).initialBytes).toBe(before.initialBytes - 100n);
    const rest = await drain(saving);
    expect(BigInt(rest.length) + 100n).toBe(before.initialBytes);
    await expect(Promise.resolve().then(() => saving.read(part))).rejects.toMatchObject({ errno: 'ENOMSG' });
  });

  test('begins anew where the firmware does, and only for a user who understands it', async () => {
    for (const understands of [true, false]) {
      const { open } = await machine();
      const source = await open(0);
      source.start();
      await source.store(1, 1);
      if (understands)
        await source.device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 });
      const saving = await stream(source, STATE.PRE_COPY);
      await drain(saving);
      source.model.migration.startAnew();
      const info = await saving.precopyInfo();
      expect(info.flags).toBe(understands ? 1 : 0);
      expect(info[understands ? 'initialBytes' : 'dirtyBytes']).toBeGreaterThan(BigInt(PAGE));
      expect(info[understands ? 'dirtyBytes' : 'initialBytes']).toBe(0n);
      expect(BigInt((await drain(saving)).length)).toBe(info.initialBytes + info.dirtyBytes);
    }
  });
});

describe('when the firmware', () => {
  test('loses track in pre-copy, there is nothing to read, and the last image is a whole one', async () => {
    const { open, connectx } = await machine();
    const [source, target] = [await open(0), await open(1)];
    source.start();
    await source.store(1, 1);
    const saving = await stream(source, STATE.PRE_COPY);
    const first = await drain(saving);
    await source.store(2, 2);
    connectx.firmware.inject(OP.SAVE, 0x9);
    await saving.precopyInfo();
    await expect(drain(saving)).resolves.toHaveLength(0);
    expect(await saving.precopyInfo()).toMatchObject({ initialBytes: 0n, dirtyBytes: 0n });
    await source.set(STATE.STOP_COPY);
    const last = await drain(saving);
    await moved(source, target, new Uint8Array([...first, ...last]));
    expect([1, 2].map((page) => target.model.memory.page(page)[0])).toEqual([1, 2]);
  });

  test('refuses an arc, the function is where it was', async () => {
    const { open, connectx } = await machine();
    const vf = await open(0);
    connectx.firmware.inject(OP.SUSPEND, 0x6);
    await expect(vf.set(STATE.RUNNING_P2P)).rejects.toMatchObject({ errno: 'EBUSY' });
    expect(await vf.state()).toBe(STATE.RUNNING);
    await vf.set(STATE.RUNNING_P2P);
    connectx.firmware.inject(OP.SUSPEND, 0x1);
    await expect(vf.set(STATE.STOP)).rejects.toMatchObject({ errno: 'EIO' });
    expect(await vf.state()).toBe(STATE.RUNNING_P2P);
  });

  test('does not answer, nobody knows where the function is: an error that only a reset leaves', async () => {
    const { open, connectx } = await machine({ core: { commandTimeoutMs: 50 } });
    const vf = await open(0);
    connectx.firmware.stall(OP.SUSPEND);
    await expect(vf.set(STATE.RUNNING_P2P)).rejects.toMatchObject({ errno: 'ETIMEDOUT' });
    expect(await vf.state()).toBe(STATE.ERROR);
    await expect(vf.set(STATE.RUNNING)).rejects.toMatchObject({ errno: 'EINVAL' });
    await vf.device.reset();
    expect(await vf.state()).toBe(STATE.RUNNING);
  });

  test('fails to save a stopped function, the reader is told and the function goes on', async () => {
    const { open, connectx } = await machine();
    const vf = await open(0);
    connectx.firmware.inject(OP.SAVE, 0x1);
    const saving = await stream(vf, STATE.STOP_COPY);
    await expect(drain(saving)).rejects.toMatchObject({ errno: 'ENODEV' });
    await vf.set(STATE.RUNNING);
    expect(await vf.state()).toBe(STATE.RUNNING);
  });

  test('cannot finish a pre-copy, the function is back where it was', async () => {
    const { open, connectx } = await machine();
    const vf = await open(0);
    await stream(vf, STATE.PRE_COPY);
    await vf.set(STATE.PRE_COPY_P2P);
    connectx.firmware.inject(OP.QUERY, 0x1);
    await expect(vf.set(STATE.STOP_COPY)).rejects.toMatchObject({ errno: 'EIO' });
    expect(await vf.state()).toBe(STATE.PRE_COPY_P2P);
    // Another try succeeds: the firmware has stopped tracking meanwhile, so all of it is sent.
    await vf.set(STATE.STOP_COPY);
    await vf.set(STATE.RUNNING);
  });

  test('can neither finish a pre-copy nor undo what it began, nobody knows where the function is', async () => {
    const { open, connectx } = await machine();
    const vf = await open(0);
    await stream(vf, STATE.PRE_COPY);
    await vf.set(STATE.PRE_COPY_P2P);
    connectx.firmware.inject(OP.QUERY, 0x1);
    connectx.firmware.inject(OP.RESUME, 0x1);
    await expect(vf.set(STATE.STOP_COPY)).rejects.toMatchObject({ errno: 'EIO' });
    expect(await vf.state()).toBe(STATE.ERROR);
    await vf.device.reset();
    expect(await vf.state()).toBe(STATE.RUNNING);
  });

  test('names a state that no memory can hold, the function is where it was', async () => {
    const { open, connectx } = await machine();
    const vf = await open(0);
    connectx.firmware.fault(OP.QUERY, {
      output: (output) => new DataView(output.buffer, output.byteOffset).setUint32(0x10, 0xffffffff),
    });
    await expect(vf.set(STATE.PRE_COPY)).rejects.toMatchObject({ errno: 'ENOMEM' });
    expect(await vf.state()).toBe(STATE.RUNNING);
    await vf.set(STATE.PRE_COPY);
  });

  test.each<[string, number, number]>([
    ['more than there was room for', 0x10000000, 0],
    ['nothing, and that more follows', 0, 0x1000],
  ])('says that it saved %s, the reader is told and the function goes on', async (_name, size, next) => {
    const made = await machine();
    const vf = await made.open(0);
    made.connectx.firmware.fault(OP.SAVE, {
      output: (output) => {
        const view = new DataView(output.buffer, output.byteOffset);
        view.setUint32(8, size);
        view.setUint32(12, next);
      },
    });
    const saving = await stream(vf, STATE.STOP_COPY);
    await expect(drain(saving)).rejects.toMatchObject({ errno: 'ENODEV' });
    await vf.set(STATE.RUNNING);
    await nothingHeld(made);
  });

  test('cannot finish a pre-copy, the user may give up too', async () => {
    const { open, connectx } = await machine();
    const vf = await open(0);
    await stream(vf, STATE.PRE_COPY);
    await vf.set(STATE.PRE_COPY_P2P);
    connectx.firmware.inject(OP.QUERY, 0x1);
    await expect(vf.set(STATE.STOP_COPY)).rejects.toMatchObject({ errno: 'EIO' });
    await vf.set(STATE.RUNNING);
    expect(await vf.state()).toBe(STATE.RUNNING);
  });

  test('refuses an image, the stream is dead and the function in error', async () => {
    const { open, connectx } = await machine();
    const [source, target] = [await open(0), await open(1)];
    const state = await drain(await stream(source, STATE.STOP_COPY));
    const data = await stream(target, STATE.RESUMING);
    connectx.firmware.inject(OP.LOAD, 0x3);
    await expect(feed(data, state)).rejects.toMatchObject({ errno: 'EINVAL' });
    await expect(data.write(state)).rejects.toMatchObject({ errno: 'ENODEV' });
    await expect(target.set(STATE.STOP)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(await target.state()).toBe(STATE.ERROR);
    await target.device.reset();
    expect(await target.state()).toBe(STATE.RUNNING);
  });
});

describe('the physical function', () => {
  test('that goes takes migration with it, and leaves nothing behind', async () => {
    const { open, bus, pf, connectx } = await machine();
    const vf = await open(0);
    const saving = await stream(vf, STATE.PRE_COPY);
    const gone = bus.unbind(pf);
    await expect(Promise.resolve().then(() => vf.set(STATE.RUNNING))).rejects.toMatchObject({ errno: 'ENOTCONN' });
    await expect(Promise.resolve().then(() => saving.read(new Uint8Array(8)))).rejects.toMatchObject({
      errno: 'ENODEV',
    });
    // As in the kernel: it goes when the last user of its virtual functions does.
    await vf.device.close();
    await gone;
    expect([connectx.hca.memoryKeys.size, connectx.hca.pages.count]).toEqual([0, 0]);
    expect(connectx.virtualFunctions.size).toBe(0);
  });

  test('has one owner', async () => {
    const { host, pf, open } = await machine();
    const { OpsRegistry, PciBus } = await import('@vfio/core');
    const { mlx5CoreDriver } = await import('../src/hca/index.js');
    const other = new PciBus(host, { ops: new OpsRegistry() });
    await other.register(mlx5CoreDriver());
    await expect(other.bindOverride(pf, 'mlx5_core')).rejects.toMatchObject({
      errno: 'EBUSY',
      message: expect.stringContaining('mlx5_core on another bus of this process has the function'),
    });
    await other.close();
    // The first is none the worse for it.
    const vf = await open(0);
    await vf.set(STATE.STOP);
  });

  test('is taken only by whom it is given to: no driver of ours looks for one', async () => {
    const { bus, pf, vf } = await machine({ boot: false });
    await bus.probe(pf);
    expect(bus.driverOf(pf)).toBeUndefined();
    await bus.probe(vf(0));
    expect(bus.driverOf(vf(0))).toBeUndefined();
  });
});
