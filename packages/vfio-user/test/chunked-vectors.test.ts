/** MSI for a client that cannot send all its descriptors in one message, on a device that takes them only at once. */
import { errnoError, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_NORESIZE } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { FakeDevice } from './helpers/fake-device.js';
import { u32 } from './helpers/raw-client.js';
import { eventfd, openFds, serve } from './helpers/serve.js';

const MSI = 1;

/** A device of 8 vectors that allocates at enabling, and can be had at most `most` of. */
class FixedDevice extends FakeDevice {
  most = 8;
  shortBy: number | undefined;
  allocated = 0;

  constructor() {
    super();
    this.ops = {
      setIrqs: ({ flags, start, count, triggers }) => {
        const all = triggers ?? [];
        const refuse = (error: Error) => {
          for (const trigger of all) trigger?.release();
          return error;
        };
        if (flags === 0x21 && count === 0) {
          for (const trigger of this.triggers.values()) trigger.release();
          this.triggers.clear();
          this.allocated = 0;
          return 0;
        }
        if (this.allocated === 0) {
          if (this.shortBy !== undefined && start + count > this.shortBy) {
            refuse(new Error());
            return this.shortBy;
          }
          if (start + count > this.most) throw refuse(errnoError('ENOMEM', 'no vectors'));
          this.allocated = start + count;
        }
        if (start + count > this.allocated) throw refuse(errnoError('EINVAL', 'not allocated'));
        for (const [at, trigger] of all.entries()) {
          const key = String(start + at);
          this.triggers.get(key)?.release();
          this.triggers.delete(key);
          if (trigger !== null) this.triggers.set(key, trigger);
        }
        return 0;
      },
    };
  }

  override getIrqInfo(index: number) {
    const flags = VFIO_IRQ_INFO_EVENTFD | (index === MSI ? VFIO_IRQ_INFO_NORESIZE : 0);
    return { index, flags, count: index === MSI ? 8 : 1 };
  }
}

const set = (start: number, count: number) => u32(20, 0x24, MSI, start, count);

async function attached() {
  const device = new FixedDevice();
  const served = await serve(device, { maxMsgFds: 4 });
  const client = await served.attached({ max_msg_fds: 4 });
  const fds = Array.from({ length: 8 }, () => eventfd());
  return { device, client, fds, ...served, before: openFds() };
}

test('the vectors of full messages are enabled at once', async () => {
  const { device, client, fds, before } = await attached();
  await client.ok(8, set(0, 4), fds.slice(0, 4));
  await client.ok(8, set(4, 3), fds.slice(4, 7));
  expect(device.allocated).toBe(7);
  expect([...device.triggers.keys()]).toEqual(['0', '1', '2', '3', '4', '5', '6']);
  expect(openFds()).toBe(before + 7);
  await client.ok(8, set(0, 7));
  expect(device.triggers.size).toBe(0);
  expect(openFds()).toBe(before);
});

test('a gap, which is a message without descriptors, goes on, and what follows it too', async () => {
  const { device, client, fds, before } = await attached();
  await client.ok(8, set(0, 2), fds.slice(0, 2));
  await client.ok(8, set(2, 2));
  await client.ok(8, set(4, 1), fds.slice(4, 5));
  expect(device.allocated).toBe(5);
  expect([...device.triggers.keys()]).toEqual(['0', '1', '4']);
  expect(openFds()).toBe(before + 3);
});

test('vectors that do not go on from a full message are the device’s to refuse', async () => {
  const { device, client, fds } = await attached();
  await client.ok(8, set(0, 3), fds.slice(0, 3));
  expect(await client.fails(8, set(3, 1), fds.slice(3, 4))).toBe(22);
  await client.ok(8, u32(20, 0x21, MSI, 0, 0));
  await client.ok(8, set(0, 4), fds.slice(0, 4));
  expect(await client.fails(8, set(6, 1), fds.slice(6, 7))).toBe(22);
  await client.ok(8, set(1, 1), fds.slice(1, 2));
  expect(await client.fails(8, set(4, 1), fds.slice(4, 5))).toBe(22);
  expect([...device.triggers.keys()]).toEqual(['0', '2', '3', '1']);
  expect(device.allocated).toBe(4);
});

test.each([
  ['refuses', 12, { most: 4 }],
  ['has fewer of', 28, { shortBy: 4 }],
])('vectors that the device %s leave those before as they were', async (_name, errno, limit) => {
  const { device, client, fds, before } = await attached();
  Object.assign(device, limit);
  await client.ok(8, set(0, 4), fds.slice(0, 4));
  expect(await client.fails(8, set(4, 4), fds.slice(4))).toBe(errno);
  expect(device.allocated).toBe(4);
  expect([...device.triggers.keys()]).toEqual(['0', '1', '2', '3']);
  expect(openFds()).toBe(before + 4);
  await client.ok(8, u32(20, 0x21, MSI, 0, 0));
  expect(openFds()).toBe(before);
});

test('a first message that fails leaves nothing', async () => {
  const { device, client, fds, before } = await attached();
  device.most = 2;
  expect(await client.fails(8, set(0, 4), fds.slice(0, 4))).toBe(12);
  expect(openFds()).toBe(before);
  device.most = 8;
  await client.ok(8, set(0, 4), fds.slice(0, 4));
});

test('a client that goes leaves none of its eventfds', async () => {
  const { client, fds, idle, before } = await attached();
  await client.ok(8, set(0, 4), fds.slice(0, 4));
  await client.ok(8, set(4, 4), fds.slice(4));
  client.close();
  await idle();
  expect(openFds()).toBe(before - 2);
});
