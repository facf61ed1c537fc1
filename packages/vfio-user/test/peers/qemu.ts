import { eventfdCreate } from '@vfio/native';
import { bytes, message, type RawClient, type RawMessage, u16, u32, u64 } from '../helpers/raw-client.js';

/** What QEMU 11.1.3 proposes, byte for byte: 193 characters and a NUL. */
export const QEMU_JSON =
  '{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, ' +
  '"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}';

export const VERSION_PAYLOAD = bytes(u16(0, 0), QEMU_JSON, [0]);

/**
 * The way QEMU sends: one awaited message at a time, its buffer as large as said, and everything that it takes for a
 * broken connection checked. Ids have gaps: one counter serves all its devices.
 */
export class QemuPeer {
  readonly client: RawClient;
  #id = 0x1234;
  /** Command and bytes of each reply, in order. */
  readonly replies: [number, number][] = [];

  constructor(client: RawClient) {
    this.client = client;
  }

  nextId(): number {
    this.#id = (this.#id + 3) & 0xffff;
    return this.#id;
  }

  /** Sends and waits. `room` is the buffer for the whole reply; descriptors only where they are made room for. */
  async call(command: number, payload: Uint8Array, room: number, options: { fds?: number[]; maxFds?: number } = {}) {
    const id = this.nextId();
    await this.client.send(message(id, command, payload), options.fds);
    return this.await(id, room, options.maxFds ?? 0);
  }

  async await(id: number, room: number, maxFds = 0): Promise<RawMessage> {
    const reply = await this.client.receive();
    if ((reply.flags & 0xf) !== 1 || reply.id !== id) throw new Error(`unexpected reply 0x${reply.id.toString(16)}`);
    if (reply.size > room) throw new Error(`reply larger than recv buffer: ${reply.size} > ${room}`);
    if (reply.fds.length > maxFds) throw new Error(`unexpected FDs: ${reply.fds.length}`);
    if ((reply.flags & 0x20) !== 0) throw new Error(`command ${reply.command}: errno ${reply.errno}`);
    this.replies.push([reply.command, reply.size]);
    return reply;
  }

  version(): Promise<RawMessage> {
    return this.call(1, VERSION_PAYLOAD, 16 + VERSION_PAYLOAD.length);
  }

  /** Maps sent back to back; only the last is waited for, the others' replies come before it. */
  async mapAll(maps: readonly { iova: number; size: number; flags: number; fd?: number; offset?: number }[]) {
    const ids: number[] = [];
    for (const { iova, size, flags, fd, offset } of maps) {
      ids.push(this.nextId());
      const payload = bytes(u32(32, flags), u64(offset ?? 0, iova, size));
      await this.client.send(message(ids.at(-1)!, 2, payload), fd === undefined ? [] : [fd]);
    }
    // The header alone is the answer to a map; QEMU's buffer is its request.
    for (const id of ids) await this.await(id, 16 + 32);
  }

  async unmap(iova: number, size: number): Promise<void> {
    const reply = await this.call(3, bytes(u32(24, 0), u64(iova, size)), 16 + 24);
    if (reply.payload.length !== 24) throw new Error(`unmap reply of ${reply.payload.length} bytes`);
  }

  async regionInfo(index: number): Promise<{ flags: number; size: number; offset: number; caps: Buffer; fd?: number }> {
    let reply = await this.call(5, bytes(u32(32, 0, index, 0), u64(0, 0)), 16 + 32);
    const argsz = reply.payload.readUInt32LE(0);
    if (argsz > 32) {
      reply = await this.call(5, bytes(u32(argsz, 0, index, 0), u64(0, 0)), 16 + argsz, { maxFds: 1 });
    }
    const { payload } = reply;
    return {
      flags: payload.readUInt32LE(4),
      size: Number(payload.readBigUInt64LE(16)),
      offset: Number(payload.readBigUInt64LE(24)),
      caps: payload.subarray(32),
      ...(reply.fds[0] === undefined ? {} : { fd: reply.fds[0] }),
    };
  }

  async irqInfo(index: number): Promise<{ flags: number; count: number }> {
    const { payload } = await this.call(7, u32(16, 0, index, 0), 16 + 16);
    return { flags: payload.readUInt32LE(4), count: payload.readUInt32LE(12) };
  }

  /** SET_IRQS; the reply is a header. */
  async setIrqs(flags: number, index: number, start: number, count: number, fds: number[] = []): Promise<void> {
    await this.call(8, u32(20, flags, index, start, count), 16 + 20, { fds });
  }

  async read(region: number, offset: number, count: number): Promise<Buffer> {
    const { payload } = await this.call(9, bytes(u64(offset), u32(region, count)), 32 + count);
    if (payload.readUInt32LE(12) !== count || payload.length !== 16 + count) throw new Error('short read');
    return payload.subarray(16);
  }

  async write(region: number, offset: number, data: Uint8Array): Promise<void> {
    await this.call(10, bytes(u64(offset), u32(region, data.length), data), 32);
  }

  /** A posted write, as QEMU does to memory BARs of a device without mappable regions. */
  async post(region: number, offset: number, data: Uint8Array): Promise<void> {
    const payload = bytes(u64(offset), u32(region, data.length), data);
    await this.client.send(message(this.nextId(), 10, payload, 0x10));
  }
}

/**
 * The attach of QEMU 11.1.3 on a q35 machine and the machine reset that follows, in its order.
 * @returns the eventfds that it armed, and what it found
 */
export async function attachAsQemu(
  peer: QemuPeer,
  maps: readonly { iova: number; size: number; flags: number; fd?: number; offset?: number }[],
) {
  const version = await peer.version();
  await peer.mapAll(maps);
  const info = (await peer.call(4, u32(16, 0, 0, 0), 16 + 16)).payload;
  const flags = info.readUInt32LE(4);
  const regions = [];
  for (const index of [0, 1, 2, 3, 4, 5, 7]) regions.push(await peer.regionInfo(index));
  const configSize = regions[6]!.size;
  const err = await peer.irqInfo(3);
  const config = await peer.read(7, 0, configSize);
  // ROM BAR sizing
  const rom = await peer.read(7, 0x30, 4);
  await peer.write(7, 0x30, u32(0xfffff800));
  const romMask = await peer.read(7, 0x30, 4);
  await peer.write(7, 0x30, rom);
  const bars = [];
  for (let at = 0x10; at < 0x28; at += 4) bars.push((await peer.read(7, at, 4)).readUInt32LE());
  const msix = await peer.irqInfo(2);
  const intxFd = eventfdCreate();
  const errFd = eventfdCreate();
  const hasIntx = config[0x3d] !== 0;
  if (hasIntx) await peer.setIrqs(0x24, 0, 0, 1, [intxFd]);
  if (err.count === 1) await peer.setIrqs(0x24, 3, 0, 1, [errFd]);
  // Machine reset
  if (hasIntx) await peer.setIrqs(0x21, 0, 0, 0);
  await peer.write(7, 4, u16(0));
  if ((flags & 1) !== 0) await peer.call(13, new Uint8Array(0), 16);
  if (hasIntx) await peer.setIrqs(0x24, 0, 0, 1, [intxFd]);
  for (let at = 0x10; at < 0x28; at += 4) await peer.write(7, at, u32(0));
  return {
    version,
    flags,
    numRegions: info.readUInt32LE(8),
    numIrqs: info.readUInt32LE(12),
    regions,
    err,
    msix,
    config,
    bars,
    romMask,
    intxFd,
    errFd,
  };
}
