/** Cloud Hypervisor's client, which does not read errors: nothing that it does may make it wait for what never comes. */
import { EDU } from '@vfio/emulated';
import { closeFd, eventfdRead, mmap } from '@vfio/native';
import { describe, expect, test } from 'vitest';
import { u16, u32, u64, until } from './helpers/raw-client.js';
import { cleanup, eventfd, guestMemory, openFds, serve } from './helpers/serve.js';
import { type PeerDeviceOptions, peerDevice } from './peers/device.js';
import { RustClient } from './peers/rust.js';
import { PeerDied } from './peers/stream.js';

const CONFIG = 7;
const PAGE = 4096;

async function attach(options: PeerDeviceOptions = {}, server: Parameters<typeof serve>[1] = {}) {
  const made = await peerDevice(options);
  const peers: string[] = [];
  const served = await serve(made.device, { onAttach: ({ peer }) => peers.push(peer), ...server });
  const client = await RustClient.connect(served.path);
  cleanup(() => {
    for (const { fd } of client.regions) if (fd !== undefined) closeFd(fd);
  });
  return { client, ...made, ...served, peers };
}

test('it is known by its VERSION, and asks for every region', async () => {
  const { client, peers, warnings } = await attach();
  expect(peers).toEqual(['rust']);
  expect(client.regions.map(({ size }) => size)).toEqual([0x100000, 0, 0x4000, 0, 0x2000, 0, 2048, PAGE, 0]);
  expect(client.numIrqs).toBe(5);
  expect(client.regions[2]).toMatchObject({ flags: 0xf, areas: [{ offset: 0, size: 0x4000 }] });
  expect(warnings).toEqual([]);
});

test('a session of Cloud Hypervisor: config space, memory, DMA, interrupts, reset, leaving', async () => {
  const { client, model, rom, idle, warnings } = await attach();
  const before = openFds();
  // Config space in pieces of every width, BAR sizing forwarded.
  expect(await client.regionRead(CONFIG, 0, 4)).toEqual(u16(0x1234, 0x11e8));
  expect(await client.regionRead(CONFIG, 0x3d, 1)).toEqual(Buffer.of(1));
  await client.regionWrite(CONFIG, 0x10, u32(0xffffffff));
  expect((await client.regionRead(CONFIG, 0x10, 4)).readUInt32LE()).toBe(0xfff00000);
  await client.regionWrite(CONFIG, 0x10, u32(0xe0000000));
  await client.regionWrite(CONFIG, 4, u16(6));
  expect((await client.regionRead(6, 0, rom.length)).equals(rom)).toBe(true);
  // A mapped BAR, at the region's offset in the descriptor.
  const { fd, offset } = client.regions[2]!;
  const area = mmap(fd!, offset, 0x4000);
  cleanup(() => area.unmap());
  area.bytes.set([1, 2, 3, 4], 0x1000);
  expect(await client.regionRead(2, 0x1000, 4)).toEqual(Buffer.of(1, 2, 3, 4));
  // Guest memory, always with a descriptor.
  const { fd: ram, bytes: memory } = guestMemory(0x10000);
  await client.dmaMap(0, 0, 0x8000, ram);
  await client.dmaMap(0x8000, 0x100000, 0x8000, ram);
  memory.set([5, 6, 7, 8], 0x8010);
  await client.regionWrite(0, EDU.DMA_SOURCE, u64(0x100010));
  await client.regionWrite(0, EDU.DMA_DESTINATION, u64(EDU.BUFFER));
  await client.regionWrite(0, EDU.DMA_COUNT, u64(4));
  await client.regionWrite(0, EDU.DMA_COMMAND, u64(EDU.DMA_START));
  while (((await client.regionRead(0, EDU.DMA_COMMAND, 4)).readUInt32LE() & 1) !== 0);
  await client.regionWrite(0, EDU.DMA_SOURCE, u64(EDU.BUFFER));
  await client.regionWrite(0, EDU.DMA_DESTINATION, u64(0x20));
  await client.regionWrite(0, EDU.DMA_COMMAND, u64(EDU.DMA_START | EDU.DMA_TO_MEMORY));
  while (((await client.regionRead(0, EDU.DMA_COMMAND, 4)).readUInt32LE() & 1) !== 0);
  expect([...memory.subarray(0x20, 0x24)]).toEqual([5, 6, 7, 8]);
  // INTx: its end is guessed from accesses to BARs, and told by UNMASK.
  const line = eventfd();
  await client.setIrqs(0, 0x24, 0, 1, [line]);
  await client.regionWrite(0, EDU.INTERRUPT_RAISE, u32(1));
  await until(() => eventfdRead(line) === 1);
  await client.setIrqs(0, 0x11, 0, 1);
  await until(() => eventfdRead(line) === 1);
  await client.regionWrite(0, EDU.INTERRUPT_ACKNOWLEDGE, u32(1));
  await client.setIrqs(0, 0x11, 0, 1);
  await client.setIrqs(0, 0x21, 0, 0);
  // MSI-X: 16 descriptors at once, whatever the server's limit is.
  expect(await client.irqInfo(2)).toMatchObject({ count: 20 });
  const vectors = Array.from({ length: 16 }, () => eventfd());
  await client.setIrqs(2, 0x24, 0, 16, vectors);
  for (const [vector, fd] of vectors.entries()) {
    model.send(vector);
    expect(eventfdRead(fd)).toBe(1);
  }
  await client.setIrqs(2, 0x21, 0, 0);
  await client.dmaUnmap(0x100000, 0x8000);
  await client.dmaUnmap(0, 0x8000);
  expect(warnings).toEqual([]);
  client.close();
  await idle();
  // Eventfds and memory are the test's; the connection's two ends are gone.
  expect(openFds()).toBe(before - 2 + 17 + 1);
});

test.each([
  ['can be reset is reset', true],
  ['cannot be reset is not asked to', false],
])('the inverted reset: a device that %s', async (_name, express) => {
  const { client } = await attach({ express, memory: false });
  await client.regionWrite(CONFIG, 4, u16(2));
  await client.regionWrite(0, EDU.LIVENESS, u32(1));
  expect(await client.reset()).toBe(express);
  await client.regionWrite(CONFIG, 4, u16(2));
  expect(await client.regionRead(0, EDU.LIVENESS, 4)).toEqual(u32(express ? 0 : ~1));
});

describe('what fails is answered in full size', () => {
  test('[vfio-user 7.20] a reset that cannot be done is answered, though it was not advertised', async () => {
    const { client } = await attach({ express: false }, { compat: 'rust' });
    client.resettable = false;
    expect(await client.reset()).toBe(true);
    expect(await client.regionRead(CONFIG, 0, 2)).toEqual(u16(0x1234));
  });

  test('reads get all ones where there is nothing, writes and unmaps are dropped', async () => {
    const { client } = await attach();
    // Memory decode off.
    await client.regionWrite(CONFIG, 4, u16(0));
    expect(await client.regionRead(0, 0, 4)).toEqual(u32(0xffffffff));
    await client.regionWrite(0, 0, u32(1));
    await client.regionWrite(CONFIG, 4, u16(2));
    expect(await client.regionRead(0, EDU.BAR_SIZE, 8)).toEqual(Buffer.alloc(8, 0xff));
    expect(await client.regionRead(0, EDU.BAR_SIZE - 4, 8)).toEqual(Buffer.alloc(8, 0xff));
    expect(await client.regionRead(1, 0, 4)).toEqual(u32(0xffffffff));
    expect(await client.regionRead(8, 0x3c0, 2)).toEqual(u16(0xffff));
    expect(await client.regionRead(77, 0, 1)).toEqual(Buffer.of(0xff));
    await client.regionWrite(0, EDU.BAR_SIZE, u32(1));
    await client.regionWrite(77, 0, u32(1));
    await client.regionWrite(6, 0, u32(1));
    await client.dmaUnmap(0x123000, 0x1000);
    expect(await client.irqInfo(77)).toMatchObject({ count: 0 });
    await client.setIrqs(0, 0x21, 0, 0);
    await client.setIrqs(2, 0x24, 0, 200);
    const { fd } = guestMemory(PAGE);
    await client.dmaMap(1, 0, PAGE, fd);
    await client.dmaMap(0, 0, 64 * PAGE, fd);
    expect(await client.regionRead(0, EDU.IDENTIFICATION, 4)).toEqual(u32(EDU.ID_VALUE));
  });

  test('with `strict` it hangs while it attaches: it asks for a VGA region that is not there', async () => {
    const { path } = await serve((await peerDevice()).device, { compat: 'strict' });
    await expect(RustClient.connect(path, 100)).rejects.toBeInstanceOf(PeerDied);
  });

  test('a device that was forced to its mode serves another client the same way', async () => {
    const { attached } = await serve((await peerDevice()).device, { compat: 'rust' });
    const client = await attached();
    expect(await client.ok(9, Buffer.concat([u64(0), u32(77, 4)]))).toEqual(
      Buffer.concat([u64(0), u32(77, 4), u32(0xffffffff)]),
    );
  });
});
