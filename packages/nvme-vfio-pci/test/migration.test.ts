import { deviceOf, OpsRegistry, PciBus } from '@vfio/core';
import type { NvmeController } from '@vfio/emulated';
import {
  VFIO_DEVICE_STATE_ERROR as ERROR,
  VFIO_DEVICE_STATE_RESUMING as RESUMING,
  VFIO_DEVICE_STATE_RUNNING as RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P as RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP as STOP,
  VFIO_DEVICE_STATE_STOP_COPY as STOP_COPY,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIGRATION,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { nvmeDriver } from '../src/index.js';
import { BLOCK, Guest } from './helpers/guest.js';
import { machine, type Vf } from './helpers/machine.js';

const flagsOf = (vf: Vf) => vf.device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET });

async function refusal(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'no refusal',
    (error: Error) => error.message,
  );
}

describe('a function can be migrated', () => {
  test('where its parent manages it: STOP_COPY and P2P', async () => {
    const { open, warnings } = await machine();
    expect(await flagsOf(await open(0))).toEqual({ flags: 3 });
    expect(warnings).toEqual([]);
  });

  test('not where the physical function is not ours: it is passed through, and says why', async () => {
    const { open, warnings } = await machine({ isOwned: false });
    const vf = await open(0);
    const why = 'its physical function 0000:01:00.0 is not bound to nvme on this bus';
    expect(warnings).toEqual([`no migration: ${why}`]);
    expect(await refusal(Promise.resolve().then(() => flagsOf(vf)))).toContain(why);
    const guest = new Guest(vf.device);
    await guest.start();
    await guest.run({ kind: 'flush' });
  });

  test.each([
    ['does not manage migration', 1, 256, [0x02, 0x00], 'does not manage migration (HMLMS)'],
    ['lists no controller for it', 0x15, 0, [0], 'lists none for virtual function 1'],
    ['lists more controllers than there can be', 0x15, 0, [255], 'does not say what it can'],
    ['knows no version of the queues', 0x20, 0, [0], 'version 0 of the queues’ state is not supported'],
    ['knows another version of the queues', 0x20, 2, [7], 'version 0 of the queues’ state is not supported'],
    ['has no format for the rest', 0x20, 1, [0], 'the state beyond the I/O queues has no format'],
    ['lists more formats than have room', 0x20, 0, [255, 255], 'does not say what it can'],
  ])('not where its parent %s', async (_what, cns, at, bytes, why) => {
    const { bus, pf, vf, warnings } = await machine({ isOwned: false, hasVfs: false });
    pf.model.adminFault = (opcode, dword10) =>
      opcode === 0x06 && (dword10 & 0xff) === cns ? { output: (data) => data.set(bytes, at) } : undefined;
    await bus.bindOverride(pf, 'nvme');
    await bus.sriovConfigure(pf, 1);
    await bus.bindOverride(vf(0), 'nvme_vfio_pci');
    expect(warnings).toEqual([expect.stringContaining(why)]);
    expect(deviceOf(bus, vf(0)).migrationOps).toBeUndefined();
  });

  test('not where it is no virtual function, and nobody is told: most drives are not', async () => {
    const { bus, pf, warnings } = await machine({ isOwned: false, hasVfs: false });
    await bus.bindOverride(pf, 'nvme_vfio_pci');
    expect(deviceOf(bus, pf).whyNotMigratable).toBe('it is not a virtual function');
    expect(warnings).toEqual([]);
  });

  test('a physical function has one owner at a time', async () => {
    const { host, bus, pf } = await machine();
    const other = new PciBus(host, { ops: new OpsRegistry() });
    await other.register(nvmeDriver());
    await expect(other.bindOverride(pf, 'nvme')).rejects.toMatchObject({
      errno: 'EBUSY',
      message: expect.stringContaining('nvme on another bus'),
    });
    await bus.unbind(pf);
    await other.bindOverride(pf, 'nvme');
    await other.close();
  });
});

describe('a migration', () => {
  test('takes a guest along in the middle of its work: data, completions, phases, event requests, features, interrupts', async () => {
    const { open, vf } = await machine();
    const [source, target] = [await open(0), await open(1)];
    const guest = new Guest(source.device, true);
    await guest.start();
    // More requests than entries: both queues have wrapped around.
    for (let lba = 0; lba < 40; lba++) await guest.run({ kind: 'write', lba, blocks: 1, fill: lba + 1, fua: false });
    await guest.setFeature(0x0b, 0x2);
    const event = await guest.requestEvent();
    await source.set(RUNNING_P2P);
    // Doorbells are noted while it stands still; nothing is done.
    for (let lba = 40; lba < 48; lba++)
      await guest.submit({ kind: 'write', lba, blocks: 1, fill: lba + 1, fua: false });
    const memory = guest.memory.slice();
    const stream = await source.save();
    expect(Buffer.compare(guest.memory, memory)).toBe(0);
    guest.moveTo(target.device);
    await guest.command(0x0406);
    await target.load(stream, 7);
    await target.set(STOP);
    expect(target.interrupts).toEqual([]);
    await target.set(RUNNING);
    await source.device.reset();
    await guest.finish(8);
    expect(target.interrupts).toContain(1);
    for (let lba = 0; lba < 48; lba++) {
      const data = guest.nextData;
      data.fill(0);
      await guest.run({ kind: 'read', lba, blocks: 1 });
      expect(data.subarray(0, BLOCK).every((byte) => byte === lba + 1)).toBe(true);
    }
    vf(1).model.setTemperature(400);
    expect(await guest.adminCompletion()).toEqual({ id: event, result: 0x020101 });
  });

  test('goes back where it came from, as often as somebody likes', async () => {
    const { open } = await machine();
    const vfs = [await open(0), await open(1)];
    const guest = new Guest(vfs[0]!.device);
    await guest.start();
    for (let round = 0; round < 6; round++) {
      const [from, to] = [vfs[round % 2]!, vfs[(round + 1) % 2]!];
      await guest.run({ kind: 'write', lba: round, blocks: 1, fill: 0x40 + round, fua: false });
      const stream = await from.save();
      await from.device.dmaUnmap(0x100000n, BigInt(guest.memory.length));
      guest.moveTo(to.device);
      await guest.command(0x0406);
      await to.load(stream);
      await to.set(RUNNING);
      await from.device.reset();
      await guest.run({ kind: 'read', lba: round, blocks: 1 });
    }
  });

  test('of a state larger than one command carries goes in pieces', async () => {
    const { open, vf, pf } = await machine({ drive: { mdts: 1, ioQueues: 254 } });
    const [source, target] = [await open(0), await open(1)];
    const guest = new Guest(source.device);
    await guest.start();
    for (let vector = 1; vector <= 254; vector++) await guest.setFeature(0x09, vector | 0x10000);
    const { model } = vf(0);
    for (let n = 0; n < 1000; n++) model.changedNamespaces.add(n);
    for (let n = 0; n < 64; n++) model.errors.add({ sqId: 1, cid: n, status: 2, at: 0xffff, lba: n, nsid: 1 });
    const commands: number[] = [];
    pf.model.adminFault = (opcode) => {
      commands.push(opcode);
      return undefined;
    };
    const stream = await source.save();
    expect(stream.length).toBeGreaterThan(8192);
    await target.load(stream);
    await target.set(STOP);
    // Suspended; the size and two pieces read; suspended, reset and suspended anew; two pieces written.
    expect(commands).toEqual([0x41, 0x42, 0x42, 0x42, 0x41, 0x41, 0x41, 0x41]);
    expect(vf(1).model.migratable.capture()).toEqual(model.migratable.capture());
  });

  test('that is given up leaves the source at work', async () => {
    const { open } = await machine();
    const vf = await open(0);
    const guest = new Guest(vf.device);
    await guest.start();
    await guest.run({ kind: 'write', lba: 1, blocks: 1, fill: 7, fua: false });
    const stream = await vf.set(STOP_COPY);
    await stream?.read(new Uint8Array(100));
    await vf.set(RUNNING);
    await expect((async () => stream?.read(new Uint8Array(1)))()).rejects.toMatchObject({ errno: 'ENODEV' });
    await guest.run({ kind: 'read', lba: 1, blocks: 1 });
  });

  test('says how many bytes its stream has, to the byte where nothing changes', async () => {
    const { open } = await machine();
    const vf = await open(0);
    await new Guest(vf.device).start();
    await vf.set(STOP);
    const flags = VFIO_DEVICE_FEATURE_MIG_DATA_SIZE | VFIO_DEVICE_FEATURE_GET;
    const { stopCopyLength } = (await vf.device.deviceFeature({ flags })) as { stopCopyLength: bigint };
    expect(BigInt((await vf.save()).length)).toBe(stopCopyLength);
  });

  test('what was written is durable before the stream is, whoever loads it', async () => {
    const { open, store } = await machine();
    const vf = await open(0);
    const guest = new Guest(vf.device);
    await guest.start();
    await guest.run({ kind: 'write', lba: 3, blocks: 1, fill: 0x77, fua: false });
    await vf.set(STOP);
    const block = new Uint8Array(BLOCK);
    store.read(3 * BLOCK, block);
    expect(block.every((byte) => byte === 0x77)).toBe(true);
  });

  test('to a drive of another vendor is refused by name', async () => {
    const source = await machine();
    const target = await machine({ drive: { vendor: 0x1234 } });
    const from = await source.open(0);
    const to = await target.open(0);
    const stream = await from.save();
    await expect(to.load(stream)).rejects.toMatchObject({
      errno: 'EINVAL',
      message: expect.stringContaining('a state of vendor 0x1b36, this controller is of 0x1234'),
    });
    await expect(to.set(STOP)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(await to.state()).toBe(ERROR);
    await to.device.reset();
    expect(await to.state()).toBe(RUNNING);
  });

  test('to a controller with fewer queues is refused by the controller itself', async () => {
    const source = await machine();
    const target = await machine({ drive: { queueEntries: 8 } });
    const from = await source.open(0);
    await new Guest(from.device).start();
    const stream = await from.save();
    const to = await target.open(0);
    await to.load(stream);
    await expect(to.set(STOP)).rejects.toMatchObject({
      errno: 'EINVAL',
      op: expect.stringContaining('set controller state'),
    });
    expect(await to.state()).toBe(ERROR);
  });
});

describe('an end in the middle', () => {
  test.each([
    ['STOP', STOP],
    ['RUNNING_P2P', RUNNING_P2P],
    ['STOP_COPY', STOP_COPY],
    ['RESUMING', RESUMING],
  ])('the user closes in %s: what was written is safe, and the next one finds it RUNNING', async (_name, state) => {
    const { open, vf, bus, store, warnings } = await machine();
    const first = await open(0);
    const guest = new Guest(first.device);
    await guest.start();
    await guest.run({ kind: 'write', lba: 0, blocks: 1, fill: 0x11, fua: false });
    await first.set(state);
    await first.device.close();
    const block = new Uint8Array(BLOCK);
    store.read(0, block);
    expect(block.every((byte) => byte === 0x11)).toBe(true);
    expect(warnings).toEqual([]);
    expect(vf(0).model.migratable.isSuspended).toBe(false);
    await using again = await deviceOf(bus, vf(0)).open();
    const next = new Guest(again);
    await next.start();
    await next.run({ kind: 'read', lba: 0, blocks: 1 });
  });

  test('the physical function goes: nobody can be asked any more, and a session ends', async () => {
    const { bus, pf, open } = await machine();
    const vf = await open(0);
    const stream = await vf.set(STOP_COPY);
    const gone = bus.unbind(pf);
    await new Promise((resolve) => setImmediate(resolve));
    await expect((async () => vf.set(RUNNING))()).rejects.toMatchObject({ errno: 'ENOTCONN' });
    await expect((async () => stream?.read(new Uint8Array(1)))()).rejects.toMatchObject({ errno: 'ENODEV' });
    await vf.device.close();
    await gone;
  });

  test('the parent is shut down in order when its driver lets go of it', async () => {
    const { bus, pf, warnings } = await machine();
    await bus.unbind(pf);
    expect((pf.model as NvmeController).abruptResets).toBe(0);
    expect(warnings).toEqual([]);
  });
});
