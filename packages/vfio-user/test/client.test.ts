import { callbackTrigger } from '@vfio/core';
import { EDU, Edu } from '@vfio/emulated';
import { eventfdRead } from '@vfio/native';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';
import { expect, test } from 'vitest';
import { EventfdTrigger } from '../src/eventfd-trigger.js';
import { MemfdMemory, makeDevice, makeEdu } from './helpers/devices.js';
import { dma, enable, le, read32 } from './helpers/edu-program.js';
import { until } from './helpers/raw-client.js';
import { cleanup, eventfd, guestMemory, openFds, serve } from './helpers/serve.js';

const CONFIG = VFIO_PCI_CONFIG_REGION_INDEX;

test('device, region and interrupt info are those of the device', async () => {
  const { device } = await makeEdu();
  const local = await device.open();
  cleanup(() => local.close());
  const { connect } = await serve(device);
  const client = await connect();
  expect(await client.getInfo()).toEqual(local.getInfo());
  for (const index of [0, 1, 6, 7]) {
    expect({ ...(await client.getRegionInfo(index)), offset: 0 }).toEqual({ ...local.getRegionInfo(index), offset: 0 });
  }
  for (const index of [0, 1, 2, 3, 4]) expect(await client.getIrqInfo(index)).toEqual(local.getIrqInfo(index));
  await expect(client.getRegionInfo(99)).rejects.toMatchObject({ code: 'ERR_VFIO_REMOTE', errno: 'EINVAL' });
});

test('registers are read and written, by awaited and by posted writes, in order', async () => {
  const { connect } = await serve((await makeEdu()).device);
  const client = await connect();
  await enable(client);
  expect(await read32(client, 0, EDU.IDENTIFICATION)).toBe(EDU.ID_VALUE);
  expect(await client.write(0, EDU.LIVENESS, le(1, 4))).toBe(4);
  for (let value = 0; value < 100; value++) client.post({ region: 0, offset: EDU.LIVENESS, data: le(value, 4) });
  expect(await read32(client, 0, EDU.LIVENESS)).toBe(~99 >>> 0);
  client.postAll([1, 2, 3].map((value) => ({ region: 0, offset: EDU.LIVENESS, data: le(value, 4) })));
  expect(await read32(client, 0, EDU.LIVENESS)).toBe(~3 >>> 0);
});

test('a transfer above the agreed size goes in several messages and arrives whole', async () => {
  const { connect } = await serve((await makeEdu()).device, { maxDataXferSize: 4096 });
  const client = await connect();
  expect(client.limits.maxDataXferSize).toBe(4096);
  const lines: string[] = [];
  const small = await (async () => {
    await client.close();
    return connect({ trace: (line) => lines.push(line), maxDataXferSize: 64 });
  })();
  const whole = new Uint8Array(256);
  expect(await small.read(CONFIG, 0, whole)).toBe(256);
  expect([...whole.subarray(0, 4)]).toEqual([0x34, 0x12, 0xe8, 0x11]);
  expect(lines.filter((line) => line.includes('> ') && line.includes('REGION_READ'))).toHaveLength(4);
});

test.each([
  ['through a descriptor', false, true],
  ['by messages on the second socket', true, true],
  ['by messages on the one socket', true, false],
])('DMA reaches the memory that the client gave, %s', async (_name, messagesOnly, twinSocket) => {
  const { connect } = await serve((await makeEdu()).device);
  const client = await connect({ twinSocket });
  await enable(client);
  const memory = await client.dmaAlloc({ iova: 0x10000n, size: 0x2000, messagesOnly });
  expect(memory.fd === undefined).toBe(messagesOnly);
  memory.bytes.set([1, 2, 3, 4, 5, 6, 7, 8], 0x100);
  await dma(client, 0x10100n, BigInt(EDU.BUFFER), 8, 0);
  await dma(client, BigInt(EDU.BUFFER), 0x11000n, 8, EDU.DMA_TO_MEMORY);
  expect([...memory.bytes.subarray(0x1000, 0x1008)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  await memory.free();
  expect(memory.bytes.length).toBe(messagesOnly ? 0x2000 : 0);
  await expect(memory.free()).rejects.toMatchObject({ errno: 'ENOENT' });
});

test('a DMA map that the server refuses is released, and the one that stood stands', async () => {
  const { connect } = await serve((await makeEdu()).device);
  const client = await connect();
  const memory = await client.dmaAlloc({ iova: 0x10000n, size: 0x2000 });
  const released: string[] = [];
  const { bytes } = guestMemory(0x2000);
  const request = {
    iova: 0x11000n,
    size: 0x2000n,
    readable: true,
    writable: true,
    memory: { bytes, fd: undefined, fdOffset: 0 },
    release: () => released.push('second'),
  };
  await expect(client.dmaMap(request)).rejects.toMatchObject({ errno: 'EEXIST' });
  expect(released).toEqual(['second']);
  await memory.free();
});

test('an interrupt reaches an eventfd and a trigger of this process', async () => {
  const { connect } = await serve((await makeEdu()).device);
  const client = await connect();
  await enable(client);
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  let fired = 0;
  const trigger = callbackTrigger(() => fired++);
  expect(await client.setIrqs({ flags, index: 1, start: 0, count: 1, triggers: [trigger] })).toBe(0);
  await client.write(0, EDU.INTERRUPT_RAISE, le(4, 4));
  await until(() => fired === 1);
  const fd = eventfd();
  const released: number[] = [];
  const byFd = { fd, signal() {}, watch: () => () => {}, release: () => released.push(fd) };
  await client.setIrqs({ flags, index: 1, start: 0, count: 1, triggers: [byFd] });
  await client.write(0, EDU.INTERRUPT_RAISE, le(8, 4));
  await until(() => eventfdRead(fd) === 1);
  expect(fired).toBe(1);
  expect(released).toEqual([]);
  const none = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
  await client.setIrqs({ flags: none, index: 1, start: 0, count: 0 });
  expect(released).toEqual([fd]);
});

test('a trigger is the device’s also where SET_IRQS fails, and is released once', async () => {
  const { connect } = await serve((await makeEdu()).device);
  const client = await connect();
  const released: number[] = [];
  const trigger = { fd: eventfd(), signal() {}, watch: () => () => {}, release: () => released.push(1) };
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  await expect(client.setIrqs({ flags, index: 1, start: 7, count: 1, triggers: [trigger] })).rejects.toMatchObject({
    errno: 'EINVAL',
  });
  expect(released).toEqual([1]);
});

test('MSI-X triggers beyond the server’s limit on descriptors go in several messages', async () => {
  const { device } = await makeDevice((ctx) => {
    ctx.identity({ vendor: 1, device: 2, subvendor: 0, subdevice: 0, class: 0, revision: 0 });
    ctx.bar(0, { size: 0x4000 });
    ctx.msix({ vectors: 40, table: { bar: 0, offset: 0 }, pba: { bar: 0, offset: 0x2000 } });
    return {};
  });
  const { connect } = await serve(device, { maxMsgFds: 16 });
  const lines: string[] = [];
  const client = await connect({ trace: (line) => lines.push(line) });
  const triggers = Array.from({ length: 40 }, (_, vector) => (vector === 5 ? null : callbackTrigger(() => {})));
  const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  await client.setIrqs({ flags, index: 2, start: 0, count: 40, triggers });
  const sent = lines.filter((line) => line.includes('> ') && line.includes('SET_IRQS'));
  expect(sent.map((line) => /start (\d+) count (\d+)(?: fds (\d+))?/.exec(line)?.slice(1).join(' '))).toEqual([
    // The whole range first, so that a server which allocates at that moment allocates for all.
    '0 40 ',
    '0 5 5',
    '6 16 16',
    '22 16 16',
    '38 2 2',
  ]);
});

test('memory of a region is mapped into this process and is the device’s own', async () => {
  const memory = new MemfdMemory();
  cleanup(() => memory.close());
  const { device } = await makeDevice(
    (ctx) => {
      ctx.identity({ vendor: 1, device: 2, subvendor: 0, subdevice: 0, class: 0, revision: 0 });
      ctx.bar(0, { size: 0x2000, memory: true });
      return {};
    },
    {},
    { memory },
  );
  const { connect } = await serve(device);
  const client = await connect();
  await enable(client);
  const area = await client.mmapArea(0, 0x1000, 0x1000);
  area.memory.bytes.set([9, 8, 7, 6], 4);
  const data = new Uint8Array(4);
  await client.read(0, 0x1004, data);
  expect([...data]).toEqual([9, 8, 7, 6]);
  await client.write(0, 0x1000, Uint8Array.of(1, 2));
  expect([...area.memory.bytes.subarray(0, 2)]).toEqual([1, 2]);
  await expect(client.mmapArea(0, 0x800, 0x800)).rejects.toMatchObject({ errno: 'EINVAL' });
  await expect(client.mmapArea(0, 0x1000, 0x2000)).rejects.toMatchObject({ errno: 'EINVAL' });
  await expect(client.mmapArea(CONFIG, 0, 0x1000)).rejects.toMatchObject({ errno: 'EINVAL' });
});

test('reset and features reach the device; what the protocol has no form for is ENOTTY', async () => {
  const { device } = await makeDevice((ctx) => {
    const model = new Edu(ctx);
    ctx.express({ flr: true });
    return model;
  });
  const { connect } = await serve(device);
  const client = await connect();
  await enable(client);
  await client.write(0, EDU.LIVENESS, le(5, 4));
  await client.reset();
  await enable(client);
  expect(await read32(client, 0, EDU.LIVENESS)).toBe(0);
  expect(
    await client.deviceFeature({
      flags: VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    }),
  ).toBeUndefined();
  await expect(
    client.deviceFeature({ flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION }),
  ).rejects.toMatchObject({ errno: 'ENOTTY' });
  await expect(client.getHotResetInfo()).rejects.toMatchObject({ errno: 'ENOTTY' });
  await expect(client.hotReset({ flags: 0, owned: [] })).rejects.toMatchObject({ errno: 'ENOTTY' });
  await expect(client.ioeventfd({ region: 0, offset: 0, width: 4, data: 0n, trigger: null })).rejects.toMatchObject({
    errno: 'ENOTTY',
  });
});

test('when the server goes, calls that wait fail and the reason is told', async () => {
  const { connect, server } = await serve((await makeEdu()).device);
  const client = await connect();
  const call = client.getInfo();
  await call;
  await server.close();
  expect(await client.closed).toBe('the server closed the connection');
  await expect(client.getInfo()).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
});

test('a client leaves nothing behind: descriptors, mappings, triggers', async () => {
  const { connect, idle } = await serve((await makeEdu()).device);
  const warm = await connect();
  await warm.close();
  await idle();
  const before = openFds();
  for (let round = 0; round < 5; round++) {
    const client = await connect();
    await enable(client);
    const { bytes } = await client.dmaAlloc({ iova: 0n, size: 0x1000 });
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    await client.setIrqs({ flags, index: 1, start: 0, count: 1, triggers: [callbackTrigger(() => {})] });
    await client.close();
    expect(bytes.length).toBe(0);
    await idle();
  }
  expect(openFds()).toBe(before);
});

test('nobody at the path, and a server that is busy, are told apart', async () => {
  const { connect, path } = await serve((await makeEdu()).device);
  await connect();
  await expect(connect({ timeoutMs: 100 })).rejects.toMatchObject({ code: 'ERR_VFIO_TIMEOUT' });
  const { VfioUserClient } = await import('../src/index.js');
  await expect(VfioUserClient.connect(`${path}x`)).rejects.toMatchObject({ errno: 'ENOENT' });
});

test('a trigger over an eventfd calls back when the other side signals, and stops', async () => {
  const { acquireSharedLoop, releaseSharedLoop } = await import('../src/service-loop.js');
  const { eventfdCreate, eventfdWrite, dupFd } = await import('@vfio/native');
  const loop = acquireSharedLoop();
  cleanup(releaseSharedLoop);
  loop.ref();
  cleanup(() => loop.unref());
  const fd = eventfdCreate(1);
  const other = dupFd(fd);
  cleanup(async () => (await import('@vfio/native')).closeFd(other));
  const trigger = new EventfdTrigger(loop, fd);
  let seen = 0;
  const stop = trigger.watch(() => seen++);
  await until(() => seen === 1);
  eventfdWrite(other);
  await until(() => seen === 2);
  stop();
  stop();
  eventfdWrite(other);
  expect(eventfdRead(other)).toBe(1);
  trigger.signal();
  expect(eventfdRead(other)).toBe(1);
  trigger.release();
  trigger.release();
  trigger.signal();
  expect(seen).toBe(2);
});
