/** Regions of real device models through the server: ROM, and memory that a client maps. */
import { ftruncateSync } from 'node:fs';
import type { DeviceModel, FunctionContext } from '@vfio/emulated';
import { closeFd, F_SEAL_GROW, F_SEAL_SHRINK, getSeals, isSameFile, mmap, statFd } from '@vfio/native';
import { expect, test } from 'vitest';
import { MemfdMemory, makeDevice } from './helpers/devices.js';
import { bytes, u16, u32, u64 } from './helpers/raw-client.js';
import { cleanup, serve } from './helpers/serve.js';
import { Qemu } from './peers/qemu.js';

/** An expansion ROM of one image, as the PCI Firmware Specification has it: signature, PCI data structure, 6 x 512 bytes. */
const ROM = Uint8Array.from({ length: 3072 }, (_, at) => at * 13);
ROM.set([0x55, 0xaa]);
ROM.set([0x1c, 0], 0x18);
ROM.set(
  [...Buffer.from('PCIR'), 0x34, 0x12, 0x78, 0x56, 0, 0, 0x18, 0, 0, 0, 0, 0xff, 6, 0, 0, 0, 0, 0x80, 0, 0],
  0x1c,
);

class Memories implements DeviceModel {
  resets = 0;

  constructor(ctx: FunctionContext) {
    ctx.identity({ vendor: 0x1234, device: 0x5678, subvendor: 0, subdevice: 0, class: 0xff0000, revision: 0 });
    ctx.bar(0, { size: 0x4000, memory: true });
    ctx.bar(2, { size: 0x2000, memory: true });
    ctx.rom(ROM);
  }

  reset(): void {
    this.resets++;
  }
}

async function memories() {
  const memory = new MemfdMemory();
  cleanup(() => memory.close());
  const { device } = await makeDevice((ctx) => new Memories(ctx), {}, { memory });
  const served = await serve(device);
  const peer = new Qemu(served.path);
  cleanup(() => peer.close());
  await peer.version();
  await peer.write(7, 4, u16(2));
  return { ...served, peer };
}

test('[vfio-user 7.16] the ROM BAR is sized as QEMU does it at attach, and its old value comes back', async () => {
  const { peer, warnings } = await memories();
  const before = await peer.read(7, 0x30, 4);
  await peer.write(7, 0x30, u32(0xfffff800));
  // 3072 bytes need 4 KiB; the enable bit was not written.
  expect(await peer.read(7, 0x30, 4)).toEqual(u32(0xfffff000));
  await peer.write(7, 0x30, before);
  expect(await peer.read(7, 0x30, 4)).toEqual(before);
  expect(warnings).toEqual([]);
});

test('[vfio-user 7.16] the ROM is read whole in one message', async () => {
  const { peer } = await memories();
  const info = await peer.regionInfo(6);
  expect(info.size).toBe(4096);
  const rom = await peer.read(6, 0, info.size);
  expect(Buffer.compare(rom.subarray(0, ROM.length), ROM)).toBe(0);
});

test('[vfio-user 7.29] each BAR that a client maps has a file of its own, no larger than the BAR and sealed', async () => {
  const { peer } = await memories();
  const [first, second] = [await peer.regionInfo(0), await peer.regionInfo(2)];
  const fds = [first.fd!, second.fd!];
  for (const fd of fds) cleanup(() => closeFd(fd));
  expect(isSameFile(fds[0]!, fds[1]!)).toBe(false);
  expect(fds.map((fd) => statFd(fd).size)).toEqual([0x4000n, 0x2000n]);
  for (const fd of fds) {
    expect(getSeals(fd) & (F_SEAL_GROW | F_SEAL_SHRINK)).toBe(F_SEAL_GROW | F_SEAL_SHRINK);
    expect(() => ftruncateSync(fd, 0)).toThrow(/EPERM/);
    expect(() => ftruncateSync(fd, 1 << 20)).toThrow(/EPERM/);
  }
});

test('[vfio-user 7.26] a BAR that is mapped and the same BAR by messages are one memory, in both directions', async () => {
  const { peer } = await memories();
  const { fd, offset } = await peer.regionInfo(0);
  cleanup(() => closeFd(fd!));
  const mapping = mmap(fd!, offset, 0x4000);
  cleanup(() => mapping.unmap());
  await peer.write(0, 0x3ffc, u32(0x11223344));
  // It may have been posted: a read comes after it.
  expect(await peer.read(0, 0x3ffc, 4)).toEqual(u32(0x11223344));
  expect(Buffer.from(mapping.bytes.subarray(0x3ffc))).toEqual(u32(0x11223344));
  mapping.bytes[8] = 42;
  expect(await peer.read(0, 8, 1)).toEqual(Buffer.of(42));
});

test('[vfio-user 7.7] QEMU’s first question has no room for areas: it gets their size, and no descriptor that it would drop', async () => {
  const { peer } = await memories();
  const short = await peer.call(5, bytes(u32(32, 0, 0, 0), u64(0, 0)), 16 + 32, { maxFds: 0 });
  expect(short?.payload.readUInt32LE(0)).toBeGreaterThan(32);
  expect(short?.fds).toEqual([]);
});

test('a client that takes no descriptors is not offered any: messages reach everything', async () => {
  const memory = new MemfdMemory();
  cleanup(() => memory.close());
  const { device } = await makeDevice((ctx) => new Memories(ctx), {}, { memory });
  const { raw } = await serve(device);
  const client = raw();
  expect(await client.negotiate({ max_msg_fds: 0, twin_socket: { supported: true }, padding: 'x'.repeat(60) })).toEqual(
    {
      max_msg_fds: 16,
    },
  );
  const reply = await client.call(5, bytes(u32(4096, 0, 0, 0), u64(0, 0)));
  expect(reply.fds).toEqual([]);
  expect(reply.payload.readUInt32LE(4)).toBe(3);
});
