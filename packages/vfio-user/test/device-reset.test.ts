/** DEVICE_RESET. */
import { eventfdRead } from '@vfio/native';
import { ERRNO, errnoError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { makeEdu } from './helpers/devices.js';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { bytes, message, u16, u32, u64, until } from './helpers/raw-client.js';
import { eventfd, serve } from './helpers/serve.js';

test('the reply is the header alone, and comes when the reset is over', async () => {
  const over = deferred();
  const device = new FakeDevice({ reset: () => over.promise });
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(message(1, 13));
  expect(await client.isSilent()).toBe(true);
  over.resolve();
  expect(await client.receive()).toMatchObject({ id: 1, command: 13, flags: 1, size: 16 });
  expect(device.calls).toEqual(['reset']);
});

test('what is written behind a reset that goes on is written after it', async () => {
  const over = deferred();
  const device = new FakeDevice({ reset: () => over.promise.then(() => void device.memory.fill(0)) });
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(bytes(message(1, 13), message(2, 10, bytes(u64(0), u32(0, 1), [7]), 0x10)));
  expect(await client.isSilent(20)).toBe(true);
  over.resolve();
  await client.receive();
  expect((await client.ok(9, bytes(u64(0), u32(0, 1))))[16]).toBe(7);
});

test('[vfio-user 7.20] a reset is carried out although the device does not offer it: clients exist that take the flag for its opposite', async () => {
  const device = new FakeDevice({ flags: 2 });
  const { attached } = await serve(device);
  const client = await attached();
  expect((await client.ok(4, u32(16, 0, 0, 0))).readUInt32LE(4)).toBe(2);
  expect(await client.ok(13)).toHaveLength(0);
  expect(device.calls).toEqual(['reset']);
});

test('[vfio-user 7.20] eventfds stay armed over a reset: QEMU sends only INTx again', async () => {
  const { device } = await makeEdu({}, { express: true });
  const { attached } = await serve(device);
  const client = await attached();
  const fd = eventfd();
  await client.ok(8, u32(20, 0x24, 1, 0, 1), [fd]);
  await client.ok(13);
  await client.ok(10, bytes(u64(4), u32(7, 2), u16(6)));
  // edu raises its message by a register: 0x60.
  await client.ok(10, bytes(u64(0x60), u32(0, 4), u32(1)));
  expect(eventfdRead(fd)).toBe(1);
});

test('a device that cannot be reset says so', async () => {
  const device = new FakeDevice({
    reset: () => {
      throw errnoError('EINVAL', 'no reset');
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  expect(await client.fails(13)).toBe(ERRNO.EINVAL);
  await client.ok(4, u32(16, 0, 0, 0));
});

test('a reset that fails later is answered with its error', async () => {
  const over = deferred();
  const device = new FakeDevice({ reset: () => over.promise });
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(message(1, 13));
  await until(() => device.calls.length === 1);
  over.reject(errnoError('EIO', 'stuck'));
  expect(await client.receive()).toMatchObject({ flags: 0x21, errno: ERRNO.EIO });
});
