/** SPDK's client: no JSON, 4 KiB at a time. */
import { EDU } from '@vfio/emulated';
import { closeFd, eventfdRead, mmap } from '@vfio/native';
import { expect, test } from 'vitest';
import { u16, u32, u64, until } from './helpers/raw-client.js';
import { cleanup, eventfd, guestMemory, openFds, serve } from './helpers/serve.js';
import { type PeerDeviceOptions, peerDevice } from './peers/device.js';
import { SpdkClient, SpdkError } from './peers/spdk.js';

const CONFIG = 7;

async function attach(options: PeerDeviceOptions = {}) {
  const made = await peerDevice(options);
  const peers: string[] = [];
  const served = await serve(made.device, { onAttach: ({ peer }) => peers.push(peer) });
  const client = await SpdkClient.connect(served.path);
  return { client, ...made, ...served, peers };
}

test('a session: regions on demand, mapped memory, DMA, an interrupt, reset, leaving', async () => {
  const { client, peers, idle, warnings, model } = await attach();
  expect(peers).toEqual(['spdk']);
  expect([client.flags & 3, client.numRegions, client.numIrqs]).toEqual([3, 9, 5]);
  expect(await client.regionInfo(0)).toMatchObject({ size: EDU.BAR_SIZE, areas: [], fds: [] });
  const memory = await client.regionInfo(2);
  expect(memory).toMatchObject({ size: 0x4000, flags: 0xf, areas: [{ offset: 0, size: 0x4000 }] });
  expect(memory.fds).toHaveLength(1);
  const config = await client.regionInfo(CONFIG);
  expect(config.size).toBe(4096);
  // Its payload holds 4080 bytes of data.
  const space = await client.read(CONFIG, 0, 4080);
  expect(space.subarray(0, 4)).toEqual(u16(0x1234, 0x11e8));
  await client.write(CONFIG, 4, u16(6));
  const area = mmap(memory.fds[0]!, memory.offset, 0x4000);
  cleanup(() => area.unmap());
  closeFd(memory.fds[0]!);
  await client.write(2, 0x3ff8, u64(0x1122334455667788n));
  expect([...area.bytes.subarray(-8)]).toEqual([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
  const { fd, bytes: ram } = guestMemory(0x4000);
  await client.dmaMap(0x2000, 0x200000, 0x2000, fd);
  ram.set([9, 8, 7, 6], 0x2000);
  await client.write(0, EDU.DMA_SOURCE, u64(0x200000));
  await client.write(0, EDU.DMA_DESTINATION, u64(EDU.BUFFER));
  await client.write(0, EDU.DMA_COUNT, u64(4));
  await client.write(0, EDU.DMA_COMMAND, u64(EDU.DMA_START));
  while (((await client.read(0, EDU.DMA_COMMAND, 4)).readUInt32LE() & 1) !== 0);
  await client.write(0, EDU.DMA_SOURCE, u64(EDU.BUFFER));
  await client.write(0, EDU.DMA_DESTINATION, u64(0x200ffc));
  await client.write(0, EDU.DMA_COMMAND, u64(EDU.DMA_START | EDU.DMA_TO_MEMORY));
  while (((await client.read(0, EDU.DMA_COMMAND, 4)).readUInt32LE() & 1) !== 0);
  expect([...ram.subarray(0x2ffc, 0x3000)]).toEqual([9, 8, 7, 6]);
  const line = eventfd();
  expect(await client.irqInfo(0)).toMatchObject({ count: 1 });
  await client.setIrqs(2, 0x24, 0, 1, [line]);
  model.send(0);
  await until(() => eventfdRead(line) === 1);
  await client.setIrqs(2, 0x21, 0, 0);
  await client.write(0, EDU.LIVENESS, u32(1));
  await client.reset();
  await client.write(CONFIG, 4, u16(6));
  expect(await client.read(0, EDU.LIVENESS, 4)).toEqual(u32(0));
  await client.dmaUnmap(0x200000, 0x2000);
  expect(warnings).toEqual([]);
  const before = openFds();
  client.close();
  await idle();
  expect(openFds()).toBe(before - 2);
});

test('it sees the server’s errors, and goes on', async () => {
  const { client } = await attach({ express: false });
  const errno = (call: Promise<unknown>) =>
    call.then(
      () => 0,
      (error: unknown) => (error instanceof SpdkError ? error.errno : -1),
    );
  await client.write(CONFIG, 4, u16(0));
  expect(await errno(client.read(0, 0, 4))).toBe(5);
  expect(await errno(client.regionInfo(9))).toBe(22);
  expect(await errno(client.dmaUnmap(0, 4096))).toBe(2);
  expect(await errno(client.reset())).toBe(22);
  expect(await errno(client.irqInfo(5))).toBe(22);
  expect(await client.read(CONFIG, 0, 2)).toEqual(u16(0x1234));
});

test('memory is never asked for by messages that it would not serve: a map without descriptor reaches nothing', async () => {
  const { client, warnings } = await attach();
  await client.write(CONFIG, 4, u16(6));
  await client.write(0, EDU.DMA_SOURCE, u64(0x300000));
  await client.write(0, EDU.DMA_DESTINATION, u64(EDU.BUFFER));
  await client.write(0, EDU.DMA_COUNT, u64(4));
  await client.write(0, EDU.DMA_COMMAND, u64(EDU.DMA_START));
  while (((await client.read(0, EDU.DMA_COMMAND, 4)).readUInt32LE() & 1) !== 0);
  expect(warnings).toEqual([]);
});
