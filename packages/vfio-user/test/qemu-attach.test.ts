import { EDU, Edu } from '@vfio/emulated';
import { closeFd, eventfdRead } from '@vfio/native';
import { expect, test } from 'vitest';
import { makeDevice, makeEdu } from './helpers/devices.js';
import { u16, u32, u64, until } from './helpers/raw-client.js';
import { cleanup, guestMemory, serve } from './helpers/serve.js';
import { attachAsQemu, QemuPeer } from './peers/qemu.js';

const RAM = 0x200000;

/** RAM in three pieces around a ROM that has no descriptor, as on a PC. */
function pcMaps(fd: number) {
  return [
    { iova: 0, size: 0xa0000, flags: 3, fd, offset: 0 },
    { iova: 0xc0000, size: 0x20000, flags: 1 },
    { iova: 0xe0000, size: 0x20000, flags: 3, fd, offset: 0xe0000 },
    { iova: 0x100000, size: RAM - 0x100000, flags: 3, fd, offset: 0x100000 },
  ];
}

test('QEMU attaches to edu in its own order, and every reply fits the buffer that QEMU has for it', async () => {
  const { device } = await makeEdu();
  const { raw, warnings } = await serve(device);
  const peer = new QemuPeer(raw());
  const { fd } = guestMemory(RAM);
  const found = await attachAsQemu(peer, pcMaps(fd));
  cleanup(() => closeFd(found.intxFd));
  cleanup(() => closeFd(found.errFd));
  expect(found.version.size).toBeLessThanOrEqual(214);
  expect(JSON.parse(found.version.payload.subarray(4, -1).toString())).toEqual({
    capabilities: {
      pgsizes: 4096,
      max_msg_fds: 16,
      max_dma_maps: 65535,
      max_data_xfer_size: 1048576,
      write_multiple: true,
    },
  });
  expect(found.version.payload.subarray(0, 4)).toEqual(u16(0, 0));
  expect([found.flags & 2, found.numRegions, found.numIrqs]).toEqual([2, 9, 5]);
  expect(found.config.subarray(0, 4)).toEqual(u16(0x1234, 0x11e8));
  expect(found.regions[0]).toMatchObject({ size: 0x100000, flags: 3 });
  expect(found.regions[0]!.fd).toBeUndefined();
  expect(found.regions[6]).toMatchObject({ size: 256 });
  expect(found.msix.count).toBe(0);
  expect(warnings).toEqual([]);
});

test('a guest behind QEMU drives edu: registers, DMA into shared memory, INTx with unmask', async () => {
  const { device } = await makeEdu();
  const { raw, warnings } = await serve(device);
  const peer = new QemuPeer(raw());
  const { fd, bytes: memory } = guestMemory(RAM);
  const { intxFd, errFd } = await attachAsQemu(peer, pcMaps(fd));
  cleanup(() => closeFd(intxFd));
  cleanup(() => closeFd(errFd));
  await peer.write(7, 4, u16(0x0006));
  await peer.post(0, EDU.LIVENESS, u32(0x12345678));
  expect(await peer.read(0, EDU.LIVENESS, 4)).toEqual(u32(0xedcba987));

  memory.set([1, 2, 3, 4], 0x100000);
  await peer.post(0, EDU.DMA_SOURCE, u64(0x100000));
  await peer.post(0, EDU.DMA_DESTINATION, u64(EDU.BUFFER));
  await peer.post(0, EDU.DMA_COUNT, u64(4));
  await peer.post(0, EDU.DMA_COMMAND, u64(EDU.DMA_START));
  while (((await peer.read(0, EDU.DMA_COMMAND, 4)).readUInt32LE() & 1) !== 0);
  await peer.post(0, EDU.DMA_SOURCE, u64(EDU.BUFFER));
  await peer.post(0, EDU.DMA_DESTINATION, u64(0x180000));
  await peer.post(0, EDU.DMA_COMMAND, u64(EDU.DMA_START | EDU.DMA_TO_MEMORY | EDU.DMA_RAISE));
  await until(() => eventfdRead(intxFd) === 1);
  expect([...memory.subarray(0x180000, 0x180004)]).toEqual([1, 2, 3, 4]);
  expect(await peer.read(0, EDU.INTERRUPT_STATUS, 4)).toEqual(u32(EDU.IRQ_DMA));
  // The line is still high: unmasking raises it again, acknowledging first does not.
  await peer.setIrqs(0x11, 0, 0, 1);
  await until(() => eventfdRead(intxFd) === 1);
  await peer.post(0, EDU.INTERRUPT_ACKNOWLEDGE, u32(EDU.IRQ_DMA));
  await peer.setIrqs(0x11, 0, 0, 1);
  expect(await peer.read(0, EDU.INTERRUPT_STATUS, 4)).toEqual(u32(0));
  expect(eventfdRead(intxFd)).toBe(0);
  expect(warnings).toEqual([]);
});

test('QEMU unplugs: interrupts off, every map taken back, and the next one attaches', async () => {
  const { device } = await makeEdu();
  const { raw, server } = await serve(device);
  const { fd } = guestMemory(RAM);
  for (let round = 0; round < 3; round++) {
    const client = raw();
    const peer = new QemuPeer(client);
    const { intxFd, errFd } = await attachAsQemu(peer, pcMaps(fd));
    await peer.setIrqs(0x24, 3, 0, 1);
    await peer.setIrqs(0x21, 0, 0, 0);
    for (const { iova, size } of pcMaps(fd)) await peer.unmap(iova, size);
    client.close();
    closeFd(intxFd);
    closeFd(errFd);
    await until(() => !server.isBusy);
  }
  expect(server.stats().clients).toBe(3);
});

test('the models are shared with no one: a second function on the loop is another device', async () => {
  const one = await serve((await makeEdu()).device);
  const two = await serve((await makeDevice((ctx) => new Edu(ctx))).device);
  const first = new QemuPeer(one.raw());
  const second = new QemuPeer(two.raw());
  await first.version();
  await second.version();
  for (const peer of [first, second]) await peer.write(7, 4, u16(2));
  await first.post(0, EDU.LIVENESS, u32(1));
  expect(await second.read(0, EDU.LIVENESS, 4)).toEqual(u32(0));
  expect(await first.read(0, EDU.LIVENESS, 4)).toEqual(u32(~1));
});
