import {
  VFIO_DEVICE_FEATURE_DMA_BUF as DMA_BUF,
  VFIO_DEVICE_FEATURE_GET as GET,
  VFIO_DEVICE_FEATURE_PROBE as PROBE,
  VFIO_DEVICE_FEATURE_SET as SET,
  VFIO_DEVICE_FEATURE_BUS_MASTER,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_ZPCI_ERROR,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { vfioCheckFeature } from '../../src/index.js';
import { ioBar, memoryBar } from './fake-function.js';
import { CountingTrigger, enableMemory, errnoOf, opened } from './helpers.js';

describe('feature calls', () => {
  test.each([
    ['an unknown flag', 1 | (1 << 19) | GET, 'EINVAL'],
    ['GET and SET', 1 | GET | SET, 'EINVAL'],
    ['GET and SET of an unknown feature', 99 | GET | SET, 'EINVAL'],
    ['an unknown feature', 99 | GET, 'ENOTTY'],
    ['an unknown feature, probed', 99 | GET | SET | PROBE, 'ENOTTY'],
    ['an unknown feature without an operation', 99, 'ENOTTY'],
    ['a feature of another bus', VFIO_DEVICE_FEATURE_BUS_MASTER | SET, 'ENOTTY'],
    ['the zPCI error queue of no zPCI function', VFIO_DEVICE_FEATURE_ZPCI_ERROR | GET, 'ENOTTY'],
    ['the VF token of a function without VFs', 0 | SET, 'ENOTTY'],
    ['no number', Number.NaN, 'EINVAL'],
    ['half a number', 1.5, 'EINVAL'],
  ])('with %s are refused', async (_name, flags, errno) => {
    const { device } = await opened();
    expect(errnoOf(() => device.deviceFeature({ flags }))).toBe(errno);
  });

  test('reach a feature that a driver added, before its own would answer', async () => {
    const { device } = await opened({}, (core) => ({
      ...core,
      name: 'added',
      init(dev) {
        dev.features.set(VFIO_DEVICE_FEATURE_ZPCI_ERROR, (made, { flags }) =>
          vfioCheckFeature(made, flags, GET) ? Uint8Array.of(1, 2) : undefined,
        );
      },
    }));
    expect(device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_ZPCI_ERROR | GET })).toEqual(Uint8Array.of(1, 2));
    expect(device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_ZPCI_ERROR | GET | PROBE })).toBeUndefined();
    expect(errnoOf(() => device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_ZPCI_ERROR | SET }))).toBe('EINVAL');
    expect(errnoOf(() => device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_ZPCI_ERROR | GET | SET }))).toBe('EINVAL');
  });
});

describe('DMA buffers', () => {
  async function exporting(options = {}) {
    const rig = await opened(options);
    const revoked: boolean[] = [];
    const asked: unknown[] = [];
    rig.fn.exportDmaBuf = (region, ranges, openFlags) => {
      asked.push({ region, ranges, openFlags });
      return { fd: 42, setRevoked: (value) => revoked.push(value) };
    };
    const get = (value: unknown) => rig.device.deviceFeature({ flags: DMA_BUF | GET, value });
    return { ...rig, revoked, asked, get };
  }

  const WHOLE = { region: 0, openFlags: 2, ranges: [{ offset: 0, length: 0x4000 }] };

  test('give a descriptor of the ranges', async () => {
    const { device, get, asked, revoked } = await exporting();
    await enableMemory(device);
    expect(get(WHOLE)).toEqual({ fd: 42 });
    expect(asked).toEqual([WHOLE]);
    expect(revoked).toEqual([false]);
  });

  test('are born revoked while memory decode is off, follow it, and end with the close', async () => {
    const { device, get, revoked } = await exporting();
    await device.write(7, 4, Uint8Array.of(0, 0));
    get(WHOLE);
    expect(revoked).toEqual([true]);
    await enableMemory(device);
    expect(revoked.at(-1)).toBe(false);
    await device.reset();
    expect(revoked.slice(-2), 'over a reset').toEqual([true, false]);
    await device.write(7, 4, Uint8Array.of(0, 0));
    expect(revoked.at(-1)).toBe(true);
    await enableMemory(device);
    await device.close();
    expect(revoked.at(-1)).toBe(true);
    const before = revoked.length;
    const again = await (await exporting()).dev.open();
    await again.close();
    expect(revoked.length).toBe(before);
  });

  test('are revoked in low power and given back when it ends, by EXIT or by waking', async () => {
    const { device, get, revoked } = await exporting({ pm: true });
    await enableMemory(device);
    get(WHOLE);
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET });
    device.read(0, 0, new Uint8Array(4));
    expect(revoked.at(-1), 'an access does not end it').toBe(true);
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | SET });
    expect(revoked.at(-1)).toBe(false);
    const value = { trigger: new CountingTrigger() };
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP | SET, value });
    expect(revoked.at(-1)).toBe(true);
    device.read(0, 0, new Uint8Array(4));
    expect(revoked.at(-1)).toBe(false);
  });

  test.each([
    ['no value', undefined, 'EINVAL'],
    ['no range', { ...WHOLE, ranges: [] }, 'EINVAL'],
    ['flags', { ...WHOLE, flags: 1 }, 'EINVAL'],
    ['the ROM', { ...WHOLE, region: 6 }, 'ENODEV'],
    ['config space', { ...WHOLE, region: 7 }, 'ENODEV'],
    ['a BAR that is not there', { ...WHOLE, region: 3 }, 'ENODEV'],
    ['an I/O BAR', { ...WHOLE, region: 1 }, 'EINVAL'],
    ['a BAR that was not mapped', { ...WHOLE, region: 2 }, 'ENODEV'],
    ['a length of 0', { ...WHOLE, ranges: [{ offset: 0, length: 0 }] }, 'EINVAL'],
    ['a misaligned offset', { ...WHOLE, ranges: [{ offset: 0x800, length: 0x1000 }] }, 'EINVAL'],
    ['a misaligned length', { ...WHOLE, ranges: [{ offset: 0, length: 0x800 }] }, 'EINVAL'],
    ['past the end', { ...WHOLE, ranges: [{ offset: 0x3000, length: 0x2000 }] }, 'EINVAL'],
    [
      'a second range past the end',
      { ...WHOLE, ranges: [WHOLE.ranges[0], { offset: 0x4000, length: 0x1000 }] },
      'EINVAL',
    ],
    ['an overflow', { ...WHOLE, ranges: [{ offset: 2 ** 53 - 4096, length: 4096 * 2 }] }, 'EOVERFLOW'],
  ])('of %s are refused', async (_name, value, errno) => {
    const bars = { 0: memoryBar(0x4000), 1: ioBar(0x4000), 2: memoryBar(0x4000, { error: 'EBUSY' as const }) };
    const { get, asked } = await exporting({ bars });
    expect(errnoOf(() => get(value))).toBe(errno);
    expect(asked).toEqual([]);
  });

  test('of a host that cannot make them are EOPNOTSUPP, PROBE included', async () => {
    const { device } = await opened();
    expect(errnoOf(() => device.deviceFeature({ flags: DMA_BUF | GET, value: WHOLE }))).toBe('EOPNOTSUPP');
    expect(errnoOf(() => device.deviceFeature({ flags: DMA_BUF | GET | PROBE }))).toBe('EOPNOTSUPP');
    const able = await exporting();
    expect(able.device.deviceFeature({ flags: DMA_BUF | GET | PROBE })).toBeUndefined();
    expect(errnoOf(() => able.device.deviceFeature({ flags: DMA_BUF | SET }))).toBe('EINVAL');
  });
});
