/** Interrupts of a device behind the server: what a client that is QEMU does with them. */
import type { BarHandler, DeviceModel, FunctionContext } from '@vfio/emulated';
import { EDU } from '@vfio/emulated';
import { eventfdRead, eventfdWrite } from '@vfio/native';
import { expect, test } from 'vitest';
import { makeDevice, makeEdu } from './helpers/devices.js';
import { bytes, type RawClient, turn, u16, u32, u64, until } from './helpers/raw-client.js';
import { eventfd, serve } from './helpers/serve.js';

const INTX = 0;
const MSIX = 2;
const write = (region: number, offset: number, data: Uint8Array) => bytes(u64(offset), u32(region, data.length), data);
const set = (flags: number, index: number, start: number, count: number) => u32(20, flags, index, start, count);

/** Writing a number to BAR 0 signals that vector. */
class Signaller implements DeviceModel, BarHandler {
  readonly #ctx: FunctionContext;
  #last = 0;

  constructor(ctx: FunctionContext) {
    this.#ctx = ctx;
    ctx.identity({ vendor: 0x1234, device: 0x5678, subvendor: 0, subdevice: 0, class: 0xff0000, revision: 0 });
    ctx.bar(0, { size: 0x4000, handler: this });
    ctx.msix({ vectors: 8, table: { bar: 0, offset: 0x2000 }, pba: { bar: 0, offset: 0x3000 } });
  }

  reset(): void {
    this.#last = 0;
  }

  read(): number {
    return this.#last;
  }

  write(_offset: number, _width: number, value: number): void {
    this.#last = value;
    this.#ctx.irq.send(value);
  }
}

async function signaller() {
  const { device } = await makeDevice((ctx) => new Signaller(ctx));
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(10, write(7, 4, u16(6)));
  return { client, raise: (vector: number) => client.ok(10, write(0, 0, u32(vector))) };
}

async function edu(): Promise<{
  client: RawClient;
  raise: (bits: number) => unknown;
  acknowledge: (bits: number) => unknown;
}> {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  await client.ok(10, write(7, 4, u16(6)));
  return {
    client,
    raise: (bits) => client.ok(10, write(0, EDU.INTERRUPT_RAISE, u32(bits))),
    acknowledge: (bits) => client.ok(10, write(0, EDU.INTERRUPT_ACKNOWLEDGE, u32(bits))),
  };
}

test('[vfio-user 7.17] INTx can be masked, and masks itself when it fires: its info says so', async () => {
  const { client } = await edu();
  const reply = await client.ok(7, u32(16, 0, INTX, 0));
  expect([reply.readUInt32LE(4), reply.readUInt32LE(12)]).toEqual([1 | 2 | 4, 1]);
});

test('[vfio-user 7.17] a line that stays high fires once; UNMASK by message fires it again while it is high', async () => {
  const { client, raise, acknowledge } = await edu();
  const fd = eventfd();
  await client.ok(8, set(0x24, INTX, 0, 1), [fd]);
  await raise(1);
  await raise(2);
  expect(eventfdRead(fd)).toBe(1);
  await client.ok(8, set(0x11, INTX, 0, 1));
  expect(eventfdRead(fd)).toBe(1);
  await acknowledge(3);
  await client.ok(8, set(0x11, INTX, 0, 1));
  expect(eventfdRead(fd)).toBe(0);
  await raise(4);
  expect(eventfdRead(fd)).toBe(1);
});

test('[vfio-user 7.17] the resample eventfd of KVM unmasks: it fires again while the line is high', async () => {
  const { client, raise, acknowledge } = await edu();
  const [fd, resample] = [eventfd(), eventfd()];
  await client.ok(8, set(0x24, INTX, 0, 1), [fd]);
  await client.ok(8, set(0x14, INTX, 0, 1), [resample]);
  await raise(1);
  expect(eventfdRead(fd)).toBe(1);
  eventfdWrite(resample);
  await until(() => eventfdRead(fd) === 1);
  await acknowledge(1);
  eventfdWrite(resample);
  for (let step = 0; step < 5; step++) await turn();
  expect(eventfdRead(fd)).toBe(0);
  await raise(1);
  expect(eventfdRead(fd)).toBe(1);
});

test('[vfio-user 7.17] a device without a pin has no INTx', async () => {
  const { client } = await signaller();
  expect((await client.ok(7, u32(16, 0, INTX, 0))).readUInt32LE(12)).toBe(0);
  expect(await client.fails(8, set(0x24, INTX, 0, 1), [eventfd()])).toBe(22);
});

test('[vfio-user 7.18] NORESIZE is not said of MSI-X: QEMU then arms vectors one by one', async () => {
  const { client } = await signaller();
  const reply = await client.ok(7, u32(16, 0, MSIX, 0));
  expect([reply.readUInt32LE(4) & 8, reply.readUInt32LE(12)]).toEqual([0, 8]);
});

test('[vfio-user 7.18] MSI-X as QEMU arms it: a probe without descriptors, then vector by vector, chunked, taken away in ranges', async () => {
  const { client, raise } = await signaller();
  const fds = Array.from({ length: 8 }, () => eventfd());
  const counts = () => fds.map((fd) => eventfdRead(fd));
  await client.ok(8, set(0x24, MSIX, 0, 1));
  await client.ok(8, set(0x24, MSIX, 3, 1), [fds[3]!]);
  await raise(3);
  expect(counts()).toEqual([0, 0, 0, 1, 0, 0, 0, 0]);
  await client.ok(8, set(0x24, MSIX, 4, 2), [fds[4]!, fds[5]!]);
  await client.ok(8, set(0x24, MSIX, 0, 3), [fds[0]!, fds[1]!, fds[2]!]);
  for (const vector of [0, 1, 2, 3, 4, 5]) await raise(vector);
  expect(counts()).toEqual([1, 1, 1, 1, 1, 1, 0, 0]);
  await client.ok(8, set(0x24, MSIX, 1, 4));
  for (const vector of [0, 1, 2, 3, 4, 5]) await raise(vector);
  expect(counts()).toEqual([1, 0, 0, 0, 0, 1, 0, 0]);
});

test('[vfio-user 7.18] an armed vector takes another eventfd, as KVM’s masking does, and no event gets lost in between', async () => {
  const { client, raise } = await signaller();
  const [one, two] = [eventfd(), eventfd()];
  await client.ok(8, set(0x24, MSIX, 2, 1), [one]);
  await client.ok(8, set(0x24, MSIX, 2, 1), [two]);
  await raise(2);
  expect([eventfdRead(one), eventfdRead(two)]).toEqual([0, 1]);
  // Without an eventfd it is latched, and fires when there is one again.
  await client.ok(8, set(0x24, MSIX, 2, 1));
  await raise(2);
  await raise(2);
  await client.ok(8, set(0x24, MSIX, 2, 1), [one]);
  expect([eventfdRead(one), eventfdRead(two)]).toEqual([1, 0]);
});

test('[vfio-user 7.18] what is raised between taking all vectors down and arming them again fires then', async () => {
  const { client, raise } = await signaller();
  const fds = Array.from({ length: 4 }, () => eventfd());
  await client.ok(8, set(0x24, MSIX, 0, 4), fds);
  await client.ok(8, set(0x21, MSIX, 0, 0));
  await raise(1);
  await client.ok(8, set(0x24, MSIX, 0, 4), fds);
  expect(fds.map((fd) => eventfdRead(fd))).toEqual([0, 1, 0, 0]);
});

test('the client asks the server to fire: NONE and BOOL', async () => {
  const { client } = await signaller();
  const fds = Array.from({ length: 3 }, () => eventfd());
  await client.ok(8, set(0x24, MSIX, 0, 3), fds);
  await client.ok(8, set(0x21, MSIX, 1, 2));
  await client.ok(8, bytes(u32(23, 0x22, MSIX, 0, 3), [1, 0, 1]));
  expect(fds.map((fd) => eventfdRead(fd))).toEqual([1, 1, 2]);
});
