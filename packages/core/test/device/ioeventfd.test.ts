import { VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, VFIO_DEVICE_FEATURE_SET } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { IoeventfdRequest } from '../../src/index.js';
import { ioBar, memoryBar } from './fake-function.js';
import { CountingTrigger, enableMemory, errnoOf, opened } from './helpers.js';

function request(rest: Partial<IoeventfdRequest> = {}): IoeventfdRequest {
  return { region: 0, offset: 0x10, width: 4, data: 0x11223344n, trigger: new CountingTrigger(), ...rest };
}

describe('ioeventfd', () => {
  test.each([
    [1, 0x44n, [0x44]],
    [2, 0x3344n, [0x44, 0x33]],
    [4, 0x11223344n, [0x44, 0x33, 0x22, 0x11]],
    [8, 0x1122334455667788n, [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]],
  ] as const)('of %i bytes stores its data whenever the trigger is signalled', async (width, data, bytes) => {
    const { device, fn } = await opened();
    await enableMemory(device);
    const trigger = new CountingTrigger();
    device.ioeventfd(request({ width, data, trigger }));
    const { space } = fn.bars[0]!;
    trigger.signal();
    expect([...space.bytes.subarray(0x10, 0x10 + width)]).toEqual(bytes);
    space.bytes.fill(0);
    trigger.signal();
    expect(space.bytes[0x10]).toBe(bytes[0]);
  });

  test.each([
    ['the ROM', { region: 6 }, 'EINVAL'],
    ['config space', { region: 7 }, 'EINVAL'],
    ['a device region', { region: 9 }, 'EINVAL'],
    ['a negative region', { region: -1 }, 'EINVAL'],
    ['past the end', { offset: 0x4000 }, 'EINVAL'],
    ['across the end', { offset: 0x3ffe }, 'EINVAL'],
    ['a negative offset', { offset: -4 }, 'EINVAL'],
    ['width 3', { width: 3 as 4 }, 'EINVAL'],
    ['a BAR that is not there', { region: 1 }, 'EINVAL'],
    ['the MSI-X table', { offset: 0x2000 }, 'EINVAL'],
    ['the end of the MSI-X table', { offset: 0x203f, width: 1 as const }, 'EINVAL'],
    ['into the MSI-X table', { offset: 0x1ffc, width: 8 as const }, 'EINVAL'],
    ['beside the MSI-X table', { offset: 0x1ffc }, 'none'],
    ['behind the MSI-X table', { offset: 0x2040 }, 'none'],
    ['a BAR that could not be reserved', { region: 2, offset: 0 }, 'EBUSY'],
    ['a BAR that could not be mapped', { region: 3, offset: 0 }, 'ENOMEM'],
  ])('over %s gives %s', async (_name, rest, errno) => {
    const bars = {
      0: memoryBar(0x4000),
      2: memoryBar(0x1000, { error: 'EBUSY' as const }),
      3: memoryBar(0x1000, { error: 'ENOMEM' as const }),
    };
    const { device, dev } = await opened({ bars, msixVectors: 4, msixOffset: 0x2000 });
    const trigger = new CountingTrigger();
    expect(errnoOf(() => device.ioeventfd(request({ ...rest, trigger })))).toBe(errno);
    expect(trigger.releases).toBe(errno === 'none' ? 0 : 1);
    expect(dev.ioeventfds.count).toBe(errno === 'none' ? 1 : 0);
  });

  test('of BARs that may not be mapped is ENODEV', async () => {
    const { device } = await opened({ nonMappableBars: true });
    expect(errnoOf(() => device.ioeventfd(request()))).toBe('ENODEV');
  });

  test('again is EEXIST; another offset, width or data is another one', async () => {
    const { device, dev } = await opened();
    const first = request();
    device.ioeventfd(first);
    const again = new CountingTrigger();
    expect(errnoOf(() => device.ioeventfd(request({ trigger: again })))).toBe('EEXIST');
    expect(again.releases).toBe(1);
    device.ioeventfd(request({ offset: 0x14 }));
    device.ioeventfd(request({ width: 2 }));
    device.ioeventfd(request({ data: 1n }));
    expect(dev.ioeventfds.count).toBe(4);
    expect(
      errnoOf(() => device.ioeventfd(request({ data: 2n ** 64n + 1n }))),
      'data has 64 bits',
    ).toBe('EEXIST');
  });

  test('of a trigger that was signalled before stores at once', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    const trigger = new CountingTrigger();
    trigger.pending = 1;
    device.ioeventfd(request({ trigger }));
    expect(fn.bars[0]!.space.bytes[0x10]).toBe(0x44);
  });

  test('stores nothing while the function sleeps, and wakes it not', async () => {
    const { device, fn } = await opened({ bars: { 0: memoryBar(0x1000), 1: ioBar(0x40) }, pm: true });
    await enableMemory(device);
    const trigger = new CountingTrigger();
    for (const region of [0, 1]) device.ioeventfd(request({ region, offset: 0, trigger }));
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | VFIO_DEVICE_FEATURE_SET });
    trigger.signal();
    expect([fn.bars[0]!.space.bytes[0], fn.bars[1]!.space.bytes[0], fn.power.at(-1)]).toEqual([0, 0, 3]);
  });

  test('is removed by null, once', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    const trigger = new CountingTrigger();
    device.ioeventfd(request({ trigger }));
    device.ioeventfd(request({ trigger: null }));
    expect([trigger.releases, trigger.watchers.size]).toEqual([1, 0]);
    trigger.signal();
    expect(fn.bars[0]!.space.bytes[0x10]).toBe(0);
    expect(errnoOf(() => device.ioeventfd(request({ trigger: null })))).toBe('ENODEV');
  });

  test('beyond 1000 is ENOSPC', async () => {
    const { device, dev } = await opened();
    for (let i = 0; i < 1000; i++) device.ioeventfd(request({ data: BigInt(i) }));
    expect(errnoOf(() => device.ioeventfd(request({ data: 1000n })))).toBe('ENOSPC');
    expect(dev.ioeventfds.count).toBe(1000);
    device.ioeventfd(request({ data: 5n, trigger: null }));
    device.ioeventfd(request({ data: 1000n }));
  });

  test('stores nothing while memory decode is off, except to I/O BARs', async () => {
    const { device, fn } = await opened({ bars: { 0: memoryBar(0x1000), 1: ioBar(0x40) } });
    await device.write(7, 4, Uint8Array.of(0, 0));
    const memory = new CountingTrigger();
    const io = new CountingTrigger();
    device.ioeventfd(request({ trigger: memory }));
    device.ioeventfd(request({ region: 1, offset: 0, trigger: io }));
    memory.signal();
    io.signal();
    expect(fn.bars[0]!.space.bytes[0x10]).toBe(0);
    expect(fn.bars[1]!.space.bytes[0]).toBe(0x44);
  });
});
