/** DEVICE_SET_IRQS. */
import { closeFd, dupFd, eventfdRead, eventfdWrite, memfdCreate } from '@vfio/native';
import { errnoError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { FakeDevice } from './helpers/fake-device.js';
import { bytes, u32 } from './helpers/raw-client.js';
import { cleanup, eventfd, openFds, serve } from './helpers/serve.js';

const NONE = 1;
const BOOL = 2;
const EVENTFD = 4;
const MASK = 8;
const UNMASK = 0x10;
const TRIGGER = 0x20;

const set = (flags: number, index: number, start: number, count: number, data: number[] = []) =>
  bytes(u32(20 + data.length, flags, index, start, count), data);

test.each([
  ['a short payload', u32(20, NONE | TRIGGER, 0, 0)],
  ['argsz below 20', u32(19, NONE | TRIGGER, 0, 0, 0)],
  ['an index that is not there', set(NONE | TRIGGER, 5, 0, 1)],
  ['MASK and UNMASK', set(NONE | MASK | UNMASK, 0, 0, 1)],
  ['no action', set(NONE, 0, 0, 1)],
  ['two kinds of data', set(NONE | BOOL | TRIGGER, 0, 0, 1)],
  ['no kind of data', set(TRIGGER, 0, 0, 1)],
  ['an unknown flag', set(NONE | TRIGGER | 0x40, 0, 0, 1)],
  ['a start at the end', set(NONE | TRIGGER, 2, 8, 1)],
  ['a range over the end', set(NONE | TRIGGER, 2, 7, 2)],
  ['a range that wraps', set(NONE | TRIGGER, 2, 1, 0xffffffff)],
  ['a huge count', set(EVENTFD | TRIGGER, 2, 0, 0x10000000)],
  ['bools that are too few', set(BOOL | TRIGGER, 2, 0, 2, [1])],
  ['bools that are too many', set(BOOL | TRIGGER, 2, 0, 2, [1, 0, 1])],
])('%s is EINVAL, and the device does not hear of it', async (_name, payload) => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  expect(await (await attached()).fails(8, payload)).toBe(22);
  expect(device.calls).toEqual([]);
});

test.each([
  ['NONE with a descriptor', NONE | TRIGGER, 1, 1],
  ['BOOL with a descriptor', BOOL | TRIGGER, 1, 1],
  ['fewer descriptors than vectors', EVENTFD | TRIGGER, 2, 1],
  ['more descriptors than vectors', EVENTFD | TRIGGER, 1, 2],
])('%s is EINVAL, and the descriptors are closed', async (_name, flags, count, fds) => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const fd = eventfd();
  const before = openFds();
  const data = (flags & BOOL) !== 0 ? [1] : [];
  expect(await client.fails(8, set(flags, 2, 0, count, data), new Array(fds).fill(fd))).toBe(22);
  expect(openFds()).toBe(before);
  expect(device.calls).toEqual([]);
});

test('a descriptor that is no eventfd is EINVAL: writing to it could block or change something', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const file = memfdCreate('no-eventfd', { size: 8 });
  cleanup(() => closeFd(file));
  const before = openFds();
  expect(await client.fails(8, set(EVENTFD | TRIGGER, 2, 0, 2), [eventfd(), file])).toBe(22);
  expect(openFds()).toBe(before + 1);
  expect(device.calls).toEqual([]);
});

test('every kind reaches the device as it was sent', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const fd = eventfd();
  await client.ok(8, set(NONE | TRIGGER, 2, 0, 0));
  await client.ok(8, set(NONE | TRIGGER, 2, 3, 2));
  await client.ok(8, set(BOOL | TRIGGER, 2, 1, 3, [1, 0, 1]));
  await client.ok(8, set(EVENTFD | TRIGGER, 2, 1, 2), [fd, fd]);
  await client.ok(8, set(EVENTFD | TRIGGER, 2, 1, 2));
  await client.ok(8, set(NONE | MASK, 0, 0, 1));
  await client.ok(8, set(NONE | UNMASK, 0, 0, 1));
  await client.ok(8, set(EVENTFD | UNMASK, 0, 0, 1), [fd]);
  await client.ok(8, set(BOOL | UNMASK, 0, 0, 1, [1]));
  expect(device.calls).toEqual([
    'irqs 0x21 2 0+0',
    'irqs 0x21 2 3+2',
    'irqs 0x22 2 1+3 [1,0,1]',
    'irqs 0x24 2 1+2 (fd,fd)',
    'irqs 0x24 2 1+2 (-,-)',
    'irqs 0x9 0 0+1',
    'irqs 0x11 0 0+1',
    'irqs 0x14 0 0+1 (fd)',
    'irqs 0x12 0 0+1 [1]',
  ]);
});

test('descriptors taken away that were never given were lost on the way: the log says once that interrupts are off', async () => {
  const { attached, warnings } = await serve(new FakeDevice());
  const client = await attached();
  await client.ok(8, set(NONE | TRIGGER, 0, 0, 0));
  await client.ok(8, set(EVENTFD | TRIGGER, 2, 0, 1));
  await client.ok(8, set(EVENTFD | TRIGGER, 3, 0, 1), [eventfd()]);
  await client.ok(8, set(EVENTFD | TRIGGER, 3, 0, 1));
  expect(warnings).toEqual([]);
  for (let time = 0; time < 3; time++) await client.ok(8, set(EVENTFD | TRIGGER, 0, 0, 1));
  expect(warnings).toEqual([
    expect.stringMatching(/^DEVICE_SET_IRQS for interrupt index 0 came without a descriptor: its interrupts are off/),
  ]);
});

test('what the device refuses comes back as its errno, and nothing leaks', async () => {
  const device = new FakeDevice({
    setIrqs: ({ triggers }) => {
      for (const trigger of triggers ?? []) trigger?.release();
      throw errnoError('ENOSPC', 'no vectors');
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  const fd = eventfd();
  const before = openFds();
  expect(await client.fails(8, set(EVENTFD | TRIGGER, 2, 0, 1), [fd])).toBe(28);
  expect(openFds()).toBe(before);
});

test('fewer vectors than asked for is ENOSPC: a reply has no place for their number', async () => {
  const device = new FakeDevice({ setIrqs: () => 3 });
  const { attached } = await serve(device);
  expect(await (await attached()).fails(8, set(NONE | TRIGGER, 2, 0, 8))).toBe(28);
});

test('a signal of the device arrives at the client’s eventfd; re-arming gives it another', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const [one, two] = [eventfd(), eventfd()];
  await client.ok(8, set(EVENTFD | TRIGGER, 2, 4, 1), [one]);
  device.triggers.get('36 2 4')?.signal();
  expect(eventfdRead(one)).toBe(1);
  await client.ok(8, set(EVENTFD | TRIGGER, 2, 4, 1), [two]);
  device.triggers.get('36 2 4')?.signal();
  expect([eventfdRead(one), eventfdRead(two)]).toEqual([0, 1]);
});

test('[vfio-user 7.19] a counter that the client has filled up does not hang the server', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const full = eventfd();
  eventfdWrite(full, 2 ** 53 - 1);
  const { nativeBinding } = await import('@vfio/native');
  for (let step = 0; step < 3000 && nativeBinding().eventfdWrite(full, 2 ** 53 - 1) >= 0; step++);
  await client.ok(8, set(EVENTFD | TRIGGER, 2, 0, 1), [full]);
  for (let step = 0; step < 10; step++) device.triggers.get('36 2 0')?.signal();
  await client.ok(8, set(NONE | TRIGGER, 2, 0, 0));
});

test('as many vectors as Linux passes descriptors for arrive in one message', async () => {
  const device = new FakeDevice({ irqs: [1, 1, 2048, 1, 1] });
  const { attached } = await serve(device);
  const client = await attached();
  const fd = eventfd();
  const before = openFds();
  await client.ok(8, set(EVENTFD | TRIGGER, 2, 100, 253), new Array(253).fill(fd));
  expect(device.calls[0]).toMatch(/^irqs 0x24 2 100\+253/);
  expect(openFds()).toBe(before + 253);
  client.close();
});

test('an eventfd in blocking mode is made non-blocking; the client’s other descriptors are not touched', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { setNonBlocking } = await import('@vfio/native');
  const fd = eventfd();
  setNonBlocking(fd, false);
  const copy = dupFd(fd);
  cleanup(() => closeFd(copy));
  await client.ok(8, set(EVENTFD | TRIGGER, 2, 0, 1), [copy]);
  expect(eventfdRead(fd)).toBe(0);
});
