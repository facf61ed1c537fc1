import type { MigrationData } from '@vfio/core';
import { EDU } from '@vfio/emulated';
import {
  VFIO_DEVICE_FEATURE_GET as GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE as MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE as MIG_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION as MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE as PROBE,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT as REPORT,
  VFIO_DEVICE_FEATURE_SET as SET,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START as START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP as STOP,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { VfioUserClient, VfioUserServerOptions } from '../src/index.js';
import { makeEdu } from './helpers/devices.js';
import { dma, enable, le, read32 } from './helpers/edu-program.js';
import { deferred } from './helpers/fake-device.js';
import { played, replyTo } from './helpers/played-server.js';
import { bytes, turn, u32 } from './helpers/raw-client.js';
import { serve } from './helpers/serve.js';
import { migratable, STATE } from './helpers/toy-migration.js';

async function toyServer(options: VfioUserServerOptions = {}) {
  const { toy, device } = await migratable(VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY);
  return { toy, ...(await serve(device, options)) };
}

/** Sets the migration state; the stream, where one was opened. */
async function go(client: VfioUserClient, state: number): Promise<MigrationData | undefined> {
  const result = await client.deviceFeature({ flags: SET | MIG_STATE, value: { state } });
  expect(result).toMatchObject({ state });
  return (result as { data?: MigrationData }).data;
}

/** Everything that a stream has, in reads of so many bytes. */
async function drain(stream: MigrationData, size: number): Promise<{ all: Uint8Array; reads: number[] }> {
  const all: number[] = [];
  const reads: number[] = [];
  for (;;) {
    const into = new Uint8Array(size);
    const done = await stream.read(into);
    reads.push(done);
    if (done === 0) return { all: Uint8Array.from(all), reads };
    for (const byte of into.subarray(0, done)) all.push(byte);
  }
}

const pattern = (length: number) => Uint8Array.from({ length }, (_, at) => (at * 31 + (at >> 8)) & 0xff);

describe('device state', () => {
  test.each([
    ['in reads above the largest message', 10_000, 4096, Number.POSITIVE_INFINITY],
    ['in reads below it', 100, 4096, Number.POSITIVE_INFINITY],
    ['from and to a device that moves 7 bytes at a time', 1000, 4096, 7],
    ['in messages of any size', 5000, 1000, 333],
  ])('[vfio-user 7.27] goes whole from one server to another, %s', async (_name, size, maxDataXferSize, piece) => {
    const source = await toyServer();
    const target = await toyServer();
    source.toy.state = pattern(12_345);
    source.toy.piece = piece;
    target.toy.piece = piece;
    const from = await source.connect({ maxDataXferSize });
    const to = await target.connect({ maxDataXferSize });
    const saving = (await go(from, STATE.STOP_COPY))!;
    const { all, reads } = await drain(saving, size);
    // Only the last read that has something is short.
    expect(reads.slice(0, -2).every((done) => done === size)).toBe(true);
    expect(all).toEqual(source.toy.state);
    const loading = (await go(to, STATE.RESUMING))!;
    expect(await loading.write(all)).toBe(all.length);
    expect(await go(to, STATE.RUNNING)).toBeUndefined();
    expect(target.toy.state).toEqual(source.toy.state);
    expect([source.toy.streams, target.toy.streams]).toEqual([1, 0]);
  });

  test('[vfio-user 7.27] a change of state is answered when the whole way is gone', async () => {
    const { toy, connect } = await toyServer();
    const client = await connect();
    const gate = deferred();
    toy.slow = gate.promise;
    let isDone = false;
    const call = go(client, STATE.STOP_COPY).then((stream) => {
      isDone = true;
      return stream;
    });
    for (let n = 0; n < 20; n++) await turn();
    expect(isDone).toBe(false);
    gate.resolve();
    expect(await call).toBeDefined();
    expect(toy.arcs).toEqual(['2>1', '1>3']);
    expect(await client.deviceFeature({ flags: GET | MIG_STATE })).toMatchObject({ state: STATE.STOP_COPY });
  });

  test('the stream of PRE_COPY goes on in STOP_COPY; nothing for now is no bytes', async () => {
    const { toy, connect } = await toyServer();
    toy.state = pattern(100);
    toy.precopyBytes = 60;
    const client = await connect();
    const stream = (await go(client, STATE.PRE_COPY))!;
    const first = new Uint8Array(80);
    expect(await stream.read(first)).toBe(60);
    expect(await stream.read(first.subarray(60))).toBe(0);
    expect(await go(client, STATE.STOP_COPY)).toBeUndefined();
    const { all } = await drain(stream, 16);
    expect([...first.subarray(0, 60), ...all]).toEqual([...toy.state]);
    await expect(stream.precopyInfo()).rejects.toMatchObject({ errno: 'ENOTTY' });
  });

  test('a stream ends with its states and with a reset, and is for one direction', async () => {
    const { toy, connect } = await toyServer();
    toy.state = pattern(10);
    const client = await connect();
    const saving = (await go(client, STATE.STOP_COPY))!;
    await expect(saving.write(new Uint8Array(1))).rejects.toMatchObject({ errno: 'EINVAL' });
    await go(client, STATE.STOP);
    await expect(saving.read(new Uint8Array(1))).rejects.toMatchObject({ errno: 'ENODEV' });
    const loading = (await go(client, STATE.RESUMING))!;
    await expect(loading.read(new Uint8Array(1))).rejects.toMatchObject({ errno: 'EINVAL' });
    await client.reset();
    await expect(loading.write(new Uint8Array(1))).rejects.toMatchObject({ errno: 'ENODEV' });
    expect(toy.current).toBe(STATE.RUNNING);
    const closed = (await go(client, STATE.STOP_COPY))!;
    closed.close();
    closed.close();
    await expect(closed.read(new Uint8Array(1))).rejects.toMatchObject({ errno: 'ENODEV' });
  });

  test('[vfio-user 7.27] registers are not written while the state is copied: not by a call, nor by a posted write', async () => {
    const { connect, warnings } = await toyServer();
    const client = await connect();
    await enable(client);
    await client.write(0, EDU.LIVENESS, le(1, 4));
    await go(client, STATE.STOP_COPY);
    await expect(client.write(0, EDU.LIVENESS, le(2, 4))).rejects.toMatchObject({ errno: 'EINVAL' });
    client.post({ region: 0, offset: EDU.LIVENESS, data: le(3, 4) });
    client.postAll([{ region: 0, offset: EDU.LIVENESS, data: le(4, 4) }]);
    expect(await read32(client, 0, EDU.LIVENESS)).toBe(~1 >>> 0);
    expect(warnings).toHaveLength(2);
    await go(client, STATE.RUNNING);
    await client.write(0, EDU.LIVENESS, le(5, 4));
    expect(await read32(client, 0, EDU.LIVENESS)).toBe(~5 >>> 0);
  });

  test('a server that dies in the middle of it fails the read; its device has no stream any more', async () => {
    const { toy, connect, server } = await toyServer();
    toy.state = pattern(100_000);
    const client = await connect({ maxDataXferSize: 64 });
    const stream = (await go(client, STATE.STOP_COPY))!;
    const read = stream.read(new Uint8Array(100_000));
    await server.close();
    await expect(read).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
    expect(toy.streams).toBe(0);
  });

  test('a server that sends more than was asked for is not believed', async () => {
    const { client, server } = await played();
    const call = client.deviceFeature({ flags: SET | MIG_STATE, value: { state: STATE.STOP_COPY } });
    const request = await server.receive();
    await server.send(replyTo(request, request.payload));
    const { data } = (await call) as { data: MigrationData };
    const read = data.read(new Uint8Array(4));
    await server.send(replyTo(await server.receive(), bytes(u32(16, 8), new Uint8Array(8))));
    await expect(read).rejects.toMatchObject({ code: 'ERR_VFIO_PROTOCOL' });
  });
});

test('migration is offered where the device has it, with its flags and size', async () => {
  const { toy, connect } = await toyServer();
  toy.state = pattern(77);
  const client = await connect();
  expect(client.limits.migration).toBe(true);
  expect(await client.deviceFeature({ flags: GET | MIGRATION })).toEqual({
    flags: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
  });
  expect(await client.deviceFeature({ flags: GET | MIG_DATA_SIZE })).toEqual({ stopCopyLength: 77n });
  expect(await client.deviceFeature({ flags: PROBE | GET | SET | MIG_STATE })).toBeUndefined();
  const plain = await (await serve((await makeEdu()).device)).connect();
  expect(plain.limits.migration).toBe(false);
  await expect(plain.deviceFeature({ flags: GET | MIGRATION })).rejects.toMatchObject({ errno: 'ENOTTY' });
});

test('a feature whose value is missing, or that the protocol cannot carry, is refused here', async () => {
  const { client, server } = await played();
  for (const value of [undefined, 7, {}, { pageSize: 4096n }]) {
    await expect(client.deviceFeature({ flags: SET | START, value })).rejects.toMatchObject({ errno: 'EINVAL' });
  }
  await expect(client.deviceFeature({ flags: SET | MIG_STATE, value: {} })).rejects.toMatchObject({ errno: 'EINVAL' });
  await expect(client.deviceFeature({ flags: SET | 999 })).rejects.toMatchObject({ errno: 'ENOTTY' });
  expect(await server.isSilent()).toBe(true);
});

describe('the dirty log', () => {
  async function logged(messagesOnly: boolean) {
    const { connect } = await toyServer();
    const client = await connect();
    await enable(client);
    await client.dmaAlloc({ iova: 0x100000n, size: 0x10000, messagesOnly });
    return client;
  }

  /** Pages that a report says are dirty, by number from the start of the range. */
  async function report(client: VfioUserClient, iova: bigint, length: bigint, pageSize: bigint): Promise<number[]> {
    const pages = Number(length / pageSize);
    const bitmap = new Uint8Array(Math.ceil(pages / 64) * 8);
    await client.deviceFeature({ flags: GET | REPORT, value: { iova, length, pageSize, bitmap } });
    return Array.from({ length: pages }, (_, page) => page).filter((page) => bitmap[page >> 3]! & (1 << (page & 7)));
  }

  test.each([
    ['mapped', false],
    ['reached by messages', true],
  ])('of memory that is %s says which pages the device wrote, once', async (_name, messagesOnly) => {
    const client = await logged(messagesOnly);
    const ranges = [{ iova: 0x100000n, length: 0x10000n }];
    expect(await client.deviceFeature({ flags: SET | START, value: { pageSize: 4096n, ranges } })).toEqual({
      pageSize: 4096n,
    });
    await dma(client, BigInt(EDU.BUFFER), 0x102ff8n, 16, EDU.DMA_TO_MEMORY);
    await dma(client, 0x107000n, BigInt(EDU.BUFFER), 16, 0);
    expect(await report(client, 0x100000n, 0x10000n, 4096n)).toEqual([2, 3]);
    expect(await report(client, 0x100000n, 0x10000n, 4096n)).toEqual([]);
    await dma(client, BigInt(EDU.BUFFER), 0x10f000n, 4, EDU.DMA_TO_MEMORY);
    expect(await report(client, 0x108000n, 0x8000n, 8192n)).toEqual([3]);
    await client.deviceFeature({ flags: SET | STOP });
    await expect(report(client, 0x100000n, 0x10000n, 4096n)).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('is reported in as many messages as its bitmap takes', async () => {
    const { connect } = await toyServer();
    const client = await connect({ maxDataXferSize: 4096 });
    await enable(client);
    const length = 1n << 30n;
    // The last page of the first message, and the first of the second.
    const page = (4096 - 24) * 8 - 1;
    await client.dmaAlloc({ iova: BigInt(page) * 4096n, size: 8192 });
    await client.deviceFeature({ flags: SET | START, value: { pageSize: 4096n, ranges: [{ iova: 0n, length }] } });
    await dma(client, BigInt(EDU.BUFFER), BigInt(page + 1) * 4096n - 2n, 4, EDU.DMA_TO_MEMORY);
    expect(await report(client, 0n, length, 4096n)).toEqual([page, page + 1]);
    expect(await report(client, 0n, length, 4096n)).toEqual([]);
  });

  test('sets bits and clears none: what a program found before stays', async () => {
    const client = await logged(false);
    const ranges = [{ iova: 0x100000n, length: 0x10000n }];
    await client.deviceFeature({ flags: SET | START, value: { pageSize: 4096n, ranges } });
    await dma(client, BigInt(EDU.BUFFER), 0x101000n, 4, EDU.DMA_TO_MEMORY);
    const bitmap = Uint8Array.of(0x80, 0, 0, 0, 0, 0, 0, 0);
    const value = { iova: 0x100000n, length: 0x10000n, pageSize: 4096n, bitmap };
    await client.deviceFeature({ flags: GET | REPORT, value });
    expect([...bitmap]).toEqual([0x82, 0, 0, 0, 0, 0, 0, 0]);
  });
});
