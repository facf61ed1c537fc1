/** QEMU's client as it behaves: attaching, a guest at work, DMA by messages, leaving. */
import { type DeviceModel, EDU, Edu } from '@vfio/emulated';
import { closeFd, eventfdRead, eventfdWrite } from '@vfio/native';
import { VFIO_MIGRATION_STOP_COPY } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { VfioUserServerOptions } from '../src/index.js';
import { makeDevice, makeEdu } from './helpers/devices.js';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { generic } from './helpers/generic.js';
import { turn, u16, u32, u64, until } from './helpers/raw-client.js';
import { cleanup, eventfd, guestMemory, openFds, serve } from './helpers/serve.js';
import { migratable } from './helpers/toy-migration.js';
import { type PeerDeviceOptions, peerDevice } from './peers/device.js';
import { type GuestRange, Qemu, type QemuOptions } from './peers/qemu.js';
import { PeerDied } from './peers/stream.js';

const RAM = 0x200000;
const CONFIG = 7;

/** RAM in three pieces around a ROM that has no descriptor, as on a PC. */
function pcRanges(fd: number | undefined, bytes: Uint8Array): GuestRange[] {
  const piece = (iova: number, size: number) => ({
    iova,
    size,
    flags: 3,
    offset: fd === undefined ? 0 : iova,
    bytes: fd === undefined ? bytes.subarray(iova) : bytes,
    ...(fd === undefined ? {} : { fd }),
  });
  return [
    piece(0, 0xa0000),
    { iova: 0xc0000, size: 0x20000, flags: 1 },
    piece(0xe0000, 0x20000),
    piece(0x100000, RAM - 0x100000),
  ];
}

/** A QEMU whose eventfds and region descriptors go with the test. */
function qemu(path: string, options?: QemuOptions): Qemu {
  const peer = new Qemu(path, options);
  cleanup(() => {
    for (const { fd } of peer.regions) if (fd !== undefined) closeFd(fd);
  });
  return peer;
}

async function attached(
  device: PeerDeviceOptions = {},
  options: QemuOptions & { shared?: boolean; server?: VfioUserServerOptions } = {},
) {
  const made = await peerDevice(device);
  const served = await serve(made.device, options.server);
  const peer = qemu(served.path, options);
  const { fd, bytes: memory } = guestMemory(RAM);
  const found = await peer.attach(pcRanges(options.shared === false ? undefined : fd, memory));
  cleanup(() => closeFd(found.intxFd));
  cleanup(() => closeFd(found.errFd));
  return { ...made, ...served, peer, memory, found };
}

/** Programs edu's DMA engine; the guest sees its end by reading. */
async function startDma(peer: Qemu, from: number, to: number, count: number, command: number): Promise<void> {
  await peer.write(0, EDU.DMA_SOURCE, u64(from));
  await peer.write(0, EDU.DMA_DESTINATION, u64(to));
  await peer.write(0, EDU.DMA_COUNT, u64(count));
  await peer.write(0, EDU.DMA_COMMAND, u64(EDU.DMA_START | command));
}

/** The guest looks again and again; between its looks QEMU serves. */
async function finishDma(peer: Qemu): Promise<void> {
  while (((await peer.read(0, EDU.DMA_COMMAND, 4)).readUInt32LE() & EDU.DMA_START) !== 0) await peer.idle();
}

describe('attaching', () => {
  test('in QEMU’s order, every reply fits the room that QEMU has for it', async () => {
    const { path, warnings } = await serve((await makeEdu()).device);
    const peer = qemu(path);
    const { fd, bytes } = guestMemory(RAM);
    const found = await peer.attach(pcRanges(fd, bytes));
    cleanup(() => closeFd(found.intxFd));
    cleanup(() => closeFd(found.errFd));
    expect(JSON.parse(found.version.payload.subarray(4, -1).toString())).toEqual({
      capabilities: {
        pgsizes: 4096,
        max_msg_fds: 16,
        max_dma_maps: 65535,
        max_data_xfer_size: 1048576,
        write_multiple: true,
      },
    });
    expect([found.flags & 2, found.numRegions, found.numIrqs]).toEqual([2, 9, 5]);
    expect(found.config.subarray(0, 4)).toEqual(u16(0x1234, 0x11e8));
    expect(found.config).toHaveLength(256);
    expect(peer.regions[0]).toMatchObject({ size: EDU.BAR_SIZE, flags: 3, fd: undefined });
    expect(found.msix.count).toBe(0);
    expect(peer.stderr).toEqual([]);
    expect(warnings).toEqual([]);
  });

  test('[vfio-user 7.8] with all that can be said, VERSION is answered in 214 bytes and only with offered keys', async () => {
    const { device } = await migratable(VFIO_MIGRATION_STOP_COPY);
    const { path } = await serve(device);
    const peer = qemu(path);
    const { size, payload } = await peer.version();
    expect(size).toBeLessThanOrEqual(214);
    expect(JSON.parse(payload.subarray(4, -1).toString())).toMatchObject({
      capabilities: { migration: { pgsize: 4096 } },
    });
    expect(peer.stderr).toEqual([]);
  });

  test('[vfio-user 7.16] an express device with memory, MSI-X and a ROM: its ROM is sized, and read in one message', async () => {
    const { peer, found, rom } = await attached();
    expect(found.config).toHaveLength(4096);
    expect(found.romMask.readUInt32LE()).toBe(0xfffff800);
    expect(peer.regions[2]).toMatchObject({ flags: 0xf, size: 0x4000 });
    expect(found.msix.count).toBe(20);
    await peer.boot({ 0: 0xe0000000 });
    const region = await peer.regionInfo(6);
    expect((await peer.read(6, 0, region.size)).equals(Buffer.from(rom))).toBe(true);
    expect(peer.stderr).toEqual([]);
  });

  test('QEMU unplugs: interrupts off, every map taken back, and the next one attaches', async () => {
    const { device } = await peerDevice({ memory: false });
    const { path, server } = await serve(device);
    const { fd, bytes } = guestMemory(RAM);
    const fds = openFds();
    for (let round = 0; round < 3; round++) {
      const peer = qemu(path);
      const { intxFd, errFd } = await peer.attach(pcRanges(fd, bytes));
      await peer.unplug();
      expect(peer.stderr).toEqual([]);
      closeFd(intxFd);
      closeFd(errFd);
      await until(() => !server.isBusy);
    }
    expect(server.stats().clients).toBe(3);
    expect(openFds()).toBe(fds);
  });

  test('a second function on the loop is another device', async () => {
    const one = await serve((await makeEdu()).device);
    const two = await serve((await makeDevice((ctx) => new Edu(ctx))).device);
    const first = qemu(one.path);
    const second = qemu(two.path);
    await first.version();
    await second.version();
    for (const peer of [first, second]) await peer.write(CONFIG, 4, u16(2));
    await first.write(0, EDU.LIVENESS, u32(1));
    expect(await second.read(0, EDU.LIVENESS, 4)).toEqual(u32(0));
    expect(await first.read(0, EDU.LIVENESS, 4)).toEqual(u32(~1));
  });
});

describe('a guest at work', () => {
  test('drives edu: posted registers, DMA into shared memory, INTx with unmask', async () => {
    const { peer, memory, found, warnings } = await attached({ memory: false });
    await peer.boot({ 0: 0xe0000000 });
    await peer.write(0, EDU.LIVENESS, u32(0x12345678));
    expect(await peer.read(0, EDU.LIVENESS, 4)).toEqual(u32(0xedcba987));
    memory.set([1, 2, 3, 4], 0x100000);
    await startDma(peer, 0x100000, EDU.BUFFER, 4, 0);
    await finishDma(peer);
    await startDma(peer, EDU.BUFFER, 0x180000, 4, EDU.DMA_TO_MEMORY | EDU.DMA_RAISE);
    await until(() => eventfdRead(found.intxFd) === 1);
    expect([...memory.subarray(0x180000, 0x180004)]).toEqual([1, 2, 3, 4]);
    expect(await peer.read(0, EDU.INTERRUPT_STATUS, 4)).toEqual(u32(EDU.IRQ_DMA));
    // The line is still high: unmasking raises it again, acknowledging first does not.
    await peer.setIrqs(0x11, 0, 0, 1);
    await until(() => eventfdRead(found.intxFd) === 1);
    await peer.write(0, EDU.INTERRUPT_ACKNOWLEDGE, u32(EDU.IRQ_DMA));
    await peer.setIrqs(0x11, 0, 0, 1);
    expect(await peer.read(0, EDU.INTERRUPT_STATUS, 4)).toEqual(u32(0));
    expect(eventfdRead(found.intxFd)).toBe(0);
    expect([peer.stderr, warnings]).toEqual([[], []]);
  });

  test('[vfio-user 7.17] under KVM: INTx is masked, handed a resample eventfd, and fires again as long as it is high', async () => {
    const { peer, found } = await attached({ memory: false });
    await peer.boot({ 0: 0xe0000000 });
    const resample = eventfd();
    await peer.setIrqs(0x09, 0, 0, 1);
    await peer.setIrqs(0x24, 0, 0, 1, [found.intxFd]);
    await peer.setIrqs(0x14, 0, 0, 1, [resample]);
    await peer.setIrqs(0x11, 0, 0, 1);
    await peer.write(0, EDU.INTERRUPT_RAISE, u32(1));
    for (let n = 0; n < 3; n++) {
      await until(() => eventfdRead(found.intxFd) === 1);
      eventfdWrite(resample);
    }
    await until(() => eventfdRead(found.intxFd) === 1);
    await peer.write(0, EDU.INTERRUPT_ACKNOWLEDGE, u32(1));
    await peer.read(0, EDU.INTERRUPT_STATUS, 4);
    eventfdWrite(resample);
    await turn();
    await peer.read(0, EDU.INTERRUPT_STATUS, 4);
    expect(eventfdRead(found.intxFd)).toBe(0);
    expect(peer.stderr).toEqual([]);
  });

  test('[vfio-user 7.18] MSI-X is enabled by a probe and armed vector by vector; an eventfd that is swapped loses nothing', async () => {
    const { peer, model } = await attached();
    await peer.boot({ 0: 0xe0000000, 2: 0xe1000000, 4: 0xe2000000 });
    const fds = Array.from({ length: 20 }, () => eventfd());
    await peer.enableMsix(fds);
    for (const [vector, fd] of fds.entries()) {
      model.send(vector);
      expect(eventfdRead(fd)).toBe(1);
    }
    const other = eventfd();
    for (const fd of [other, fds[3]!, other]) {
      await peer.setIrqs(0x24, 2, 3, 1, [fd]);
      model.send(3);
      expect(eventfdRead(fd)).toBe(1);
    }
    await peer.setIrqs(0x21, 2, 0, 0);
    expect(peer.stderr).toEqual([]);
  });

  test('[vfio-user 7.18] 32 MSI vectors come in two messages of 16, and each signals its own eventfd', async () => {
    const { device, model } = await generic((ctx) => {
      ctx.identity({ vendor: 1, device: 2, subvendor: 0, subdevice: 0, class: 0, revision: 0 });
      ctx.msi({ vectors: 32, is64Bit: true });
      const made: DeviceModel & { send(vector: number): void } = { send: (vector) => ctx.irq.send(vector) };
      return made;
    });
    const { path, idle } = await serve(device);
    const peer = qemu(path);
    const { intxFd, errFd } = await peer.attach([]);
    for (const fd of [intxFd, errFd]) closeFd(fd);
    await peer.write(CONFIG, 4, u16(6));
    const fds = Array.from({ length: 32 }, () => eventfd());
    const before = openFds();
    for (let round = 0; round < 2; round++) {
      await peer.setIrqs(0x24, 1, 0, 32, fds);
      for (const [vector, fd] of fds.entries()) {
        model.send(vector);
        expect(eventfdRead(fd)).toBe(1);
      }
      // Under KVM a vector's eventfd is swapped.
      const other = eventfd();
      await peer.setIrqs(0x24, 1, 5, 1, [other]);
      model.send(5);
      expect([eventfdRead(other), eventfdRead(fds[5]!)]).toEqual([1, 0]);
      expect(openFds()).toBe(before + 32 + round + 1);
      await peer.setIrqs(0x21, 1, 0, 0);
      expect(openFds()).toBe(before + round + 1);
    }
    await peer.setIrqs(0x24, 1, 0, 32, fds);
    expect(peer.stderr).toEqual([]);
    peer.close();
    await idle();
    // Two more eventfds here; both ends of the connection and the server's copy of the ERR eventfd are gone.
    expect(openFds()).toBe(before + 2 - 2 - 1);
  });

  test('[vfio-user 7.9] with memory that can be mapped every write is awaited, and the BAR is mapped for others without a descriptor', async () => {
    const { peer, server, warnings } = await attached();
    expect(peer.canMap).toBe(true);
    await peer.boot({ 0: 0xe0000000, 2: 0xe1000000 });
    const maps = server.stats().commands['DMA_MAP']!.messages;
    expect(peer.ranges.at(-1)).toEqual({ iova: 0xe1000000, size: 0x4000, flags: 3 });
    await peer.write(0, EDU.LIVENESS, u32(1));
    expect(await peer.read(0, EDU.LIVENESS, 4)).toEqual(u32(~1));
    await peer.write(CONFIG, 4, u16(0));
    await peer.write(CONFIG, 4, u16(6));
    expect(server.stats().commands['DMA_MAP']!.messages).toBe(maps + 1);
    expect([peer.stderr, warnings]).toEqual([[], []]);
  });

  test('[vfio-user 7.25] a flood of posted writes is gathered, and done in order', async () => {
    const { peer, server } = await attached({ memory: false });
    await peer.boot({ 0: 0xe0000000 });
    const writes = Array.from({ length: 3000 }, (_, n) => ({ region: 0, offset: EDU.LIVENESS, data: u32(n) }));
    await peer.flood(writes);
    expect(await peer.read(0, EDU.LIVENESS, 4)).toEqual(u32(~2999));
    expect(server.stats().commands['REGION_WRITE_MULTI']!.messages).toBe(10);
  });

  test('what it may not do reads as all ones, and the connection lives', async () => {
    const { peer } = await attached();
    expect(await peer.read(0, 0, 4)).toEqual(u32(0xffffffff));
    await peer.setIrqs(0x24, 2, 19, 2, [eventfd(), eventfd()]);
    await peer.unmap(0x7000, 0x1000);
    await peer.mapAll([{ iova: 0x1000, size: 0x1000, flags: 3 }]);
    expect(peer.stderr).toEqual([
      'command 9: errno 5',
      'region 0 read failed',
      'command 8: errno 22',
      'command 3: errno 2',
      'dma_map: errno 17',
    ]);
    await peer.boot({ 0: 0xe0000000 });
    expect(await peer.read(0, EDU.IDENTIFICATION, 4)).toEqual(u32(EDU.ID_VALUE));
  });

  test('without descriptors, as behind socat: registers and DMA work, interrupts are off', async () => {
    const { peer, memory, found } = await attached({ memory: false }, { isStripped: true });
    await peer.boot({ 0: 0xe0000000 });
    memory.set([4, 3, 2, 1], 0x100000);
    await startDma(peer, 0x100000, EDU.BUFFER, 4, 0);
    await finishDma(peer);
    await startDma(peer, EDU.BUFFER, 0x180000, 4, EDU.DMA_TO_MEMORY | EDU.DMA_RAISE);
    await finishDma(peer);
    expect([...memory.subarray(0x180000, 0x180004)]).toEqual([4, 3, 2, 1]);
    await peer.read(0, EDU.INTERRUPT_STATUS, 4);
    expect(eventfdRead(found.intxFd)).toBe(0);
    expect(peer.stderr).toEqual([]);
  });
});

describe('DMA by messages', () => {
  test.each([
    ['11 and later', false],
    ['10.1 to 10.2.2, with its other layout', true],
  ])('[vfio-user 7.24] is asked for after the reply, and served from the main loop: QEMU %s', async (_name, legacy) => {
    const { peer, memory, warnings } = await attached({}, { shared: false, legacy });
    await peer.boot({ 0: 0xe0000000 });
    memory.set([1, 2, 3, 4, 5, 6, 7, 8], 0x100004);
    await startDma(peer, 0x100004, EDU.BUFFER, 8, 0);
    // The write that started it was awaited and is answered: the device did not wait inside.
    expect(peer.served).toBe(0);
    await finishDma(peer);
    await startDma(peer, EDU.BUFFER, 0x180001, 8, EDU.DMA_TO_MEMORY);
    await finishDma(peer);
    expect([...memory.subarray(0x180001, 0x180009)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect([peer.stderr, warnings]).toEqual([[], []]);
  });

  test('is refused without bus mastering, and the device goes on', async () => {
    const { peer } = await attached({ memory: false }, { shared: false });
    await peer.boot({ 0: 0xe0000000 });
    await peer.write(CONFIG, 4, u16(2));
    await startDma(peer, 0x100000, EDU.BUFFER, 4, 0);
    await finishDma(peer);
    expect(await peer.read(0, EDU.IDENTIFICATION, 4)).toEqual(u32(EDU.ID_VALUE));
  });

  test('[vfio-user 7.24] to the device’s own BAR comes back as a command, and is carried out while the DMA is open', async () => {
    const { peer } = await attached({}, { shared: false });
    await peer.boot({ 0: 0xe0000000, 2: 0x1000000 });
    await peer.write(2, 0x100, u32(0xcafe));
    await startDma(peer, 0x1000100, EDU.BUFFER, 4, 0);
    await finishDma(peer);
    await startDma(peer, EDU.BUFFER, 0x1000200, 4, EDU.DMA_TO_MEMORY);
    await finishDma(peer);
    expect(await peer.read(2, 0x200, 4)).toEqual(u32(0xcafe));
    expect(peer.stderr).toEqual([]);
  });
});

describe('[vfio-user 7.23] a device that takes too long', () => {
  test('is answered EBUSY before QEMU gives up, and its late result is not sent', async () => {
    const gate = deferred<number>();
    const device = new FakeDevice({ write: () => gate.promise });
    const { path, warnings } = await serve(device, { deadlineMs: 50 });
    const peer = qemu(path, { timeoutMs: 2000 });
    await peer.version();
    peer.regions = [{ flags: 7, size: 4096, offset: 0, caps: Buffer.alloc(0), fd: undefined }];
    await peer.write(0, 0, u32(1));
    expect(peer.stderr).toEqual(['command 10: errno 16']);
    gate.resolve(4);
    for (let n = 0; n < 20; n++) await turn();
    expect(await peer.read(0, 0, 4)).toEqual(u32(0));
    expect(warnings.some((line) => line.includes('EBUSY'))).toBe(true);
  });

  test('and is answered after QEMU has given up, ends the connection: what the deadline is for', async () => {
    const gate = deferred<number>();
    const { path } = await serve(new FakeDevice({ write: () => gate.promise }), { deadlineMs: 60_000 });
    const peer = qemu(path, { timeoutMs: 300 });
    await peer.version();
    peer.regions = [{ flags: 7, size: 4096, offset: 0, caps: Buffer.alloc(0), fd: undefined }];
    await expect(peer.write(0, 0, u32(1))).rejects.toBeInstanceOf(PeerDied);
    gate.resolve(4);
    await expect(peer.read(0, 0, 4)).rejects.toThrow(/unexpected reply/);
  });
});
