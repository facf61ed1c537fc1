import { eventfdCreate } from '@vfio/native';
import { bytes, message, u16, u32, u64 } from '../helpers/raw-client.js';
import { PeerDied, PeerStream, type Read } from './stream.js';

/** What QEMU 11.1.3 proposes, byte for byte: 193 characters and a NUL. */
export const QEMU_JSON =
  '{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, ' +
  '"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}';

/** The payload of its VERSION: with the header 214 bytes, which is also its room for the reply. */
export const VERSION_PAYLOAD = bytes(u16(0, 0), QEMU_JSON, [0]);

const MAX_XFER = 1048576;
const CONFIG = 7;
const ENODEV = 19;
const E2BIG = 7;
const EINVAL = 22;
const NOT_FOUND = 0xffffffff;

/** A piece of its address space: RAM of the guest, or nothing that it can read itself. */
export interface GuestRange {
  readonly iova: number;
  readonly size: number;
  /** DMA_MAP flags: 3 for RAM, 1 for a ROM. */
  readonly flags: number;
  readonly fd?: number;
  readonly offset?: number;
  /** What the guest has there, for DMA by messages. */
  readonly bytes?: Uint8Array;
}

/** How this QEMU is run. */
export interface QemuOptions {
  /** x-msg-timeout. @default 5000 */
  readonly timeoutMs?: number;
  /** 10.1 to 10.2.2: DMA messages have a 32-bit count, their data 4 bytes earlier, and a write is answered by the header. */
  readonly legacy?: boolean;
  /** Something between it and the server drops descriptors, as socat does in QEMU's own test. */
  readonly isStripped?: boolean;
}

interface Received {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly errno: number;
  readonly size: number;
  readonly payload: Buffer;
  readonly fds: readonly number[];
}

/** What it knows of a region. */
export interface QemuRegion {
  readonly flags: number;
  readonly size: number;
  readonly offset: number;
  readonly caps: Buffer;
  readonly fd: number | undefined;
}

/**
 * The client of QEMU 11.1.3 (hw/vfio-user). What it is known for:
 * - VERSION 0.0; the answer must be a JSON object with NUL, not longer than the request (214 bytes), say 0.0, and have
 *   limits that it accepts, else there is no device;
 * - the room for a reply is that of its request or of what it asked for; a longer one, one with descriptors that were not
 *   asked for, one with an unknown id, and a header that does not come whole in one read end the connection;
 * - ids come from one counter for all devices, so they have gaps; the command of a reply is not looked at;
 * - one awaited message at a time, with the big lock held, for 5 s; then the access reads as all ones, and a late reply ends
 *   the connection. An error does neither: it is printed;
 * - DMA_MAPs go back to back, and only the last is awaited; their errors are only printed;
 * - memory BARs are written by posted messages, unless any region can be mapped: then every write is awaited. Config space
 *   is always awaited. Above 1024 queued posted writes it gathers up to 200 in one REGION_WRITE_MULTI;
 * - DMA_READ and DMA_WRITE are served from the main loop, never while an awaited message is open, and only with bus
 *   mastering; a target in the device's own BAR comes back as REGION_READ or REGION_WRITE;
 * - SET_IRQS has at most the server's max_msg_fds descriptors; a message has one for each vector or none at all;
 * - mapped BARs are DMA_MAPs without descriptor while memory decode is on.
 */
export class Qemu {
  readonly #stream: PeerStream;
  readonly #options: QemuOptions;
  readonly #queue: Received[] = [];
  #id = 0x1234;
  #isAwaiting = false;
  #maxMsgFds = 0;
  #writeMultiple = false;
  #busMaster = false;
  #memory = false;
  /** Address space, for DMA messages. */
  ranges: readonly GuestRange[] = [];
  /** The BARs that it has asked for. */
  regions: QemuRegion[] = [];
  /** Where the guest has put its BARs, by index. */
  readonly bars = new Map<number, number>();
  /** Lines that it prints. */
  readonly stderr: string[] = [];
  /** DMA messages that were served. */
  served = 0;

  constructor(path: string, options: QemuOptions = {}) {
    this.#stream = new PeerStream(path, options.timeoutMs ?? 5000);
    this.#options = options;
  }

  close(): void {
    this.#stream.close();
  }

  get canMap(): boolean {
    return this.regions.some(({ flags }) => (flags & 4) !== 0);
  }

  #nextId(): number {
    this.#id = (this.#id + 3) & 0xffff;
    return this.#id;
  }

  #send(data: Uint8Array, fds: readonly number[] = []): Promise<void> {
    return this.#stream.send(data, this.#options.isStripped ? [] : fds);
  }

  /** The next message: a reply, or a command of the server. */
  async #receive(): Promise<Received> {
    return this.#finish(await this.#stream.read(16));
  }

  /** The message that begins with a header. */
  async #finish({ data, fds, first }: Read): Promise<Received> {
    if (first < 16) throw new PeerDied('short read of header');
    const size = data.readUInt32LE(4);
    if (size < 16 || size > MAX_XFER + 64) throw new PeerDied(`bad header size ${size}`);
    const body = size > 16 ? await this.#stream.read(size - 16) : { data: Buffer.alloc(0), fds: [] };
    return {
      id: data.readUInt16LE(0),
      command: data.readUInt16LE(2),
      size,
      flags: data.readUInt32LE(8),
      errno: data.readUInt32LE(12),
      payload: body.data,
      fds: [...fds, ...body.fds],
    };
  }

  /** The reply to an id; the server's commands wait for the main loop. */
  async #await(id: number, room: number, maxFds: number): Promise<Received> {
    for (;;) {
      const received = await this.#receive();
      if ((received.flags & 0xf) === 0) {
        this.#queue.push(received);
        continue;
      }
      if (received.id !== id) throw new PeerDied(`unexpected reply 0x${received.id.toString(16)}`);
      if (received.size > room) throw new PeerDied(`reply larger than recv buffer: ${received.size} > ${room}`);
      if (received.fds.length > maxFds) throw new PeerDied(`unexpected FDs: ${received.fds.length}`);
      return received;
    }
  }

  /** Sends and waits; undefined for an error, which is printed. */
  async call(
    command: number,
    payload: Uint8Array,
    room: number,
    options: { fds?: readonly number[]; maxFds?: number } = {},
  ) {
    if (this.#isAwaiting) throw new Error('the big lock is held: one awaited message at a time');
    this.#isAwaiting = true;
    try {
      const id = this.#nextId();
      await this.#send(message(id, command, payload), options.fds);
      const reply = await this.#await(id, room, options.maxFds ?? 0);
      if ((reply.flags & 0x20) === 0) return reply;
      this.stderr.push(`command ${command}: errno ${reply.errno}`);
      return undefined;
    } finally {
      this.#isAwaiting = false;
    }
  }

  /** {@link call} whose failure refuses the device. */
  async #need(
    command: number,
    payload: Uint8Array,
    room: number,
    options: { maxFds?: number } = {},
  ): Promise<Received> {
    const reply = await this.call(command, payload, room, options);
    if (reply === undefined) throw new PeerDied(`no device: ${this.stderr.at(-1)}`);
    return reply;
  }

  async version(): Promise<Received> {
    const reply = await this.#need(1, VERSION_PAYLOAD, 16 + VERSION_PAYLOAD.length);
    const { payload } = reply;
    if (payload.at(-1) !== 0) throw new PeerDied('malformed');
    const answer = JSON.parse(payload.subarray(4, -1).toString()) as { capabilities?: Record<string, unknown> };
    if (payload.readUInt16LE(0) !== 0 || payload.readUInt16LE(2) !== 0) throw new PeerDied('bad version');
    const { capabilities: caps = {} } = answer;
    const offered = Object.keys((JSON.parse(QEMU_JSON) as { capabilities: object }).capabilities);
    for (const key of Object.keys(caps)) if (!offered.includes(key)) this.stderr.push(`spurious capabilities: ${key}`);
    this.#maxMsgFds = Number(caps['max_msg_fds'] ?? 8);
    if (this.#maxMsgFds > 16) throw new PeerDied('malformed max_msg_fds');
    const pgsizes = Number(caps['pgsizes'] ?? 4096);
    if (pgsizes === 0 || pgsizes % 4096 !== 0) throw new PeerDied('malformed pgsizes');
    if (Number(caps['max_data_xfer_size'] ?? MAX_XFER) > 64 << 20) throw new PeerDied('malformed max_data_xfer_size');
    if (Number(caps['max_dma_maps'] ?? 65535) > 65535) throw new PeerDied('malformed max_dma_maps');
    this.#writeMultiple = caps['write_multiple'] === true;
    return reply;
  }

  /** Maps sent back to back; only the last is waited for, and the replies come in their order. */
  async mapAll(ranges: readonly GuestRange[]): Promise<void> {
    this.ranges = [...this.ranges, ...ranges];
    const ids: number[] = [];
    for (const { iova, size, flags, fd, offset } of ranges) {
      ids.push(this.#nextId());
      const payload = bytes(u32(32, flags), u64(offset ?? 0, iova, size));
      await this.#send(message(ids.at(-1)!, 2, payload), fd === undefined ? [] : [fd]);
    }
    for (const id of ids) {
      const reply = await this.#await(id, 16 + 32, 0);
      if ((reply.flags & 0x20) !== 0) this.stderr.push(`dma_map: errno ${reply.errno}`);
    }
  }

  async unmap(iova: number, size: number): Promise<void> {
    this.ranges = this.ranges.filter((range) => range.iova !== iova);
    const reply = await this.call(3, bytes(u32(24, 0), u64(iova, size)), 16 + 24);
    if (reply !== undefined && reply.payload.length !== 24) throw new PeerDied('unmap reply');
  }

  async regionInfo(index: number): Promise<QemuRegion> {
    const ask = (argsz: number, maxFds: number) =>
      this.#need(5, bytes(u32(argsz, 0, index, 0), u64(0, 0)), 16 + argsz, { maxFds });
    let { payload, fds } = await ask(32, 0);
    const argsz = payload.readUInt32LE(0);
    if (argsz > 32) ({ payload, fds } = await ask(argsz, 1));
    const region: QemuRegion = {
      flags: payload.readUInt32LE(4),
      size: Number(payload.readBigUInt64LE(16)),
      offset: Number(payload.readBigUInt64LE(24)),
      caps: payload.subarray(32),
      fd: fds[0],
    };
    if (index < 6) this.regions[index] = region;
    return region;
  }

  async irqInfo(index: number): Promise<{ flags: number; count: number }> {
    const { payload } = await this.#need(7, u32(16, 0, index, 0), 16 + 16);
    return { flags: payload.readUInt32LE(4), count: payload.readUInt32LE(12) };
  }

  /** SET_IRQS, cut into what the server takes. */
  async setIrqs(
    flags: number,
    index: number,
    start: number,
    count: number,
    fds: readonly number[] = [],
  ): Promise<void> {
    if (fds.length <= this.#maxMsgFds) {
      await this.call(8, u32(20, flags, index, start, count), 16 + 20, { fds });
      return;
    }
    for (let at = 0; at < count; at += this.#maxMsgFds) {
      const part = fds.slice(at, at + this.#maxMsgFds);
      await this.call(8, u32(20, flags, index, start + at, part.length), 16 + 20, { fds: part });
    }
  }

  /** All ones where it fails, as the guest sees it. */
  async read(region: number, offset: number, count: number): Promise<Buffer> {
    const reply = await this.call(9, bytes(u64(offset), u32(region, count)), 32 + count);
    if (reply?.payload.length === 16 + count) return reply.payload.subarray(16);
    this.stderr.push(`region ${region} read failed`);
    return Buffer.alloc(count, 0xff);
  }

  async #writeAwaited(region: number, offset: number, data: Uint8Array): Promise<void> {
    await this.call(10, bytes(u64(offset), u32(region, data.length), data), 32);
  }

  /** A guest's write: posted to a memory BAR of a device without mappable regions. */
  async write(region: number, offset: number, data: Uint8Array): Promise<void> {
    if (region < 6 && !this.canMap) {
      const payload = bytes(u64(offset), u32(region, data.length), data);
      await this.#send(message(this.#nextId(), 10, payload, 0x10));
      return;
    }
    await this.#writeAwaited(region, offset, data);
    if (region === CONFIG && offset === 4) await this.#command(data[0]!);
  }

  /** More writes than its queue holds: after 1024 they are gathered, until 128 are left. */
  async flood(writes: readonly { region: number; offset: number; data: Uint8Array }[]): Promise<void> {
    let at = 0;
    for (; at < Math.min(1024, writes.length); at++) {
      const { region, offset, data } = writes[at]!;
      await this.write(region, offset, data);
    }
    while (this.#writeMultiple && writes.length - at > 128) {
      const part = writes.slice(at, at + 200);
      const payload = part.map(({ region, offset, data }) =>
        bytes(u64(offset), u32(region, data.length), data, new Uint8Array(8 - data.length)),
      );
      await this.#send(message(this.#nextId(), 15, bytes(u64(part.length), ...payload), 0x10));
      at += part.length;
    }
    for (; at < writes.length; at++) await this.write(writes[at]!.region, writes[at]!.offset, writes[at]!.data);
  }

  /** COMMAND was written: mapped BARs are there for other devices while memory decode is on. */
  async #command(value: number): Promise<void> {
    this.#busMaster = (value & 4) !== 0;
    const memory = (value & 2) !== 0;
    if (memory === this.#memory) return;
    this.#memory = memory;
    for (const [index, region] of this.regions.entries()) {
      const iova = this.bars.get(index);
      if (index > 5 || (region.flags & 4) === 0 || iova === undefined) continue;
      if (memory) await this.mapAll([{ iova, size: region.size, flags: 3 }]);
      else await this.unmap(iova, region.size);
    }
  }

  // The main loop

  /** One round of it: serves the server's commands that are there; nothing awaited is open meanwhile. */
  async idle(): Promise<void> {
    for (;;) {
      const next = this.#queue.shift() ?? (await this.#receiveSoon());
      if (next === undefined) return;
      await this.#serve(next);
    }
  }

  async #receiveSoon(): Promise<Received | undefined> {
    const header = await this.#stream.tryRead(16);
    if (header === undefined) return undefined;
    const received = await this.#finish(header);
    if ((received.flags & 0xf) !== 0) throw new PeerDied(`unexpected reply 0x${received.id.toString(16)}`);
    return received;
  }

  async #serve({ id, command, flags, payload, fds }: Received): Promise<void> {
    this.served++;
    const isWrite = command === 12;
    const { legacy = false } = this.#options;
    const iova = Number(payload.readBigUInt64LE(0));
    const count = legacy ? payload.readUInt32LE(8) : Number(payload.readBigUInt64LE(8));
    const dataAt = legacy ? 12 : 16;
    const answer = async (errno: number, reply: Uint8Array = Buffer.alloc(0)) => {
      if ((flags & 0x10) !== 0) return;
      const header = message(id, command, errno === 0 ? reply : Buffer.alloc(0), errno === 0 ? 1 : 0x21);
      header.writeUInt32LE(errno, 12);
      await this.#send(header);
    };
    if (fds.length > 0) return answer(EINVAL);
    if (payload.length < 16 || (isWrite && count > payload.length - dataAt)) return answer(isWrite ? E2BIG : EINVAL);
    if (count > MAX_XFER) return answer(E2BIG);
    if (!this.#busMaster) return answer(ENODEV);
    const data = isWrite ? payload.subarray(dataAt, dataAt + count) : Buffer.alloc(count);
    if (!(await this.#access(iova, data, isWrite))) return answer(ENODEV);
    if (isWrite) return answer(0, legacy ? Buffer.alloc(0) : u64(iova, count));
    // The reply of old versions has its data where their struct has it, and as many bytes as the new one.
    return answer(0, legacy ? bytes(u64(iova), u32(count), data, u32(0)) : bytes(u64(iova, count), data));
  }

  /** Reads or writes its address space; a BAR of the device is reached through the device. */
  async #access(iova: number, data: Buffer, isWrite: boolean): Promise<boolean> {
    for (const [index, at] of this.bars) {
      const { size } = this.regions[index]!;
      if (!this.#memory || iova < at || iova + data.length > at + size) continue;
      if (isWrite) await this.write(index, iova - at, data);
      else data.set(await this.read(index, iova - at, data.length));
      return true;
    }
    const range = this.ranges.find(
      (r) => r.bytes !== undefined && iova >= r.iova && iova + data.length <= r.iova + r.size,
    );
    if (range?.bytes === undefined) return false;
    const start = iova - range.iova + (range.offset ?? 0);
    if (isWrite) range.bytes.set(data, start);
    else data.set(range.bytes.subarray(start, start + data.length));
    return true;
  }

  // Attaching

  /** The attach on a q35 machine and the machine reset that follows, in QEMU's order. */
  async attach(ranges: readonly GuestRange[]) {
    const version = await this.version();
    await this.mapAll(ranges);
    const info = (await this.#need(4, u32(16, 0, 0, 0), 16 + 16)).payload;
    const [flags, numRegions, numIrqs] = [4, 8, 12].map((at) => info.readUInt32LE(at)) as [number, number, number];
    if ((flags & 2) === 0 || numRegions < 8 || numRegions > 100 || numIrqs < 3 || numIrqs > 50) {
      throw new PeerDied('no device: bad info');
    }
    for (const index of [0, 1, 2, 3, 4, 5]) await this.regionInfo(index);
    const configSize = (await this.regionInfo(CONFIG)).size;
    if (configSize !== 256 && configSize !== 4096) throw new PeerDied(`config space of ${configSize} bytes`);
    const err = await this.irqInfo(3);
    if (err.count !== 1) this.stderr.push('ERR is off');
    const config = await this.read(CONFIG, 0, configSize);
    const pin = config[0x3d]!;
    if (pin > 4) throw new PeerDied('invalid INTERRUPT_PIN');
    const rom = await this.read(CONFIG, 0x30, 4);
    await this.write(CONFIG, 0x30, u32(0xfffff800));
    const romMask = await this.read(CONFIG, 0x30, 4);
    await this.write(CONFIG, 0x30, rom);
    for (let at = 0x10; at < 0x28; at += 4) await this.read(CONFIG, at, 4);
    const msix = await this.irqInfo(2);
    const intxFd = eventfdCreate();
    const errFd = eventfdCreate();
    if (pin !== 0) await this.setIrqs(0x24, 0, 0, 1, [intxFd]);
    if (err.count === 1) await this.setIrqs(0x24, 3, 0, 1, [errFd]);
    await this.reset(flags, pin, intxFd);
    return { version, flags, numRegions, numIrqs, err, msix, config, romMask, intxFd, errFd };
  }

  /** A reset of the machine. */
  async reset(flags: number, pin: number, intxFd: number): Promise<void> {
    if (pin !== 0) await this.setIrqs(0x21, 0, 0, 0);
    await this.write(CONFIG, 4, u16(0));
    if ((flags & 1) !== 0) await this.call(13, new Uint8Array(0), 16);
    if (pin !== 0) await this.setIrqs(0x24, 0, 0, 1, [intxFd]);
    for (let at = 0x10; at < 0x28; at += 4) await this.write(CONFIG, at, u32(0));
  }

  /** The guest's firmware: an address for each BAR, decode and bus mastering on. */
  async boot(bars: Readonly<Record<number, number>>): Promise<void> {
    for (const [index, address] of Object.entries(bars)) {
      const at = 0x10 + 4 * Number(index);
      await this.write(CONFIG, at, u32(NOT_FOUND));
      await this.read(CONFIG, at, 4);
      await this.write(CONFIG, at, u32(address));
      this.bars.set(Number(index), address);
    }
    await this.write(CONFIG, 4, u16(6));
  }

  /** A guest driver turns MSI-X on and unmasks vectors one after the other, as the server's NORESIZE flag has it. */
  async enableMsix(fds: readonly number[]): Promise<void> {
    const { flags } = await this.irqInfo(2);
    await this.setIrqs(0x21, 0, 0, 0);
    if ((flags & 8) === 0) {
      await this.setIrqs(0x24, 2, 0, 1);
      for (const [vector, fd] of fds.entries()) await this.setIrqs(0x24, 2, vector, 1, [fd]);
      return;
    }
    for (let count = 1; count <= fds.length; count++) {
      if (count > 1) await this.setIrqs(0x21, 2, 0, 0);
      await this.setIrqs(0x24, 2, 0, count, fds.slice(0, count));
    }
  }

  /** device_del. */
  async unplug(): Promise<void> {
    await this.setIrqs(0x24, 3, 0, 1);
    await this.setIrqs(0x21, 0, 0, 0);
    for (const { iova, size } of this.ranges) await this.unmap(iova, size);
    this.close();
  }
}
