import {
  VFIO_IRQ_SET_DATA_BOOL as BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD as EVENTFD,
  errnoRows,
  VFIO_DEVICE_FEATURE_GET as GET,
  VFIO_IRQ_SET_ACTION_MASK as MASK,
  VFIO_IRQ_SET_DATA_NONE as NONE,
  VFIO_DEVICE_FEATURE_PROBE as PROBE,
  VFIO_DEVICE_FEATURE_SET as SET,
  VFIO_IRQ_SET_ACTION_TRIGGER as TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK as UNMASK,
  VFIO_DEVICE_FEATURE_DMA_BUF,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { MigrationData, RawResetScope, VfioDevice } from '../../src/index.js';
import { type FakeFunction, ioBar, memoryBar, memoryOf } from './fake-function.js';
import { CountingTrigger, enableMemory, errnoOfAsync, opened } from './helpers.js';
import { STATE, ToyMigration } from './toy-migration.js';

const fd = () => new CountingTrigger();
const set = (device: VfioDevice, index: number, flags: number, start: number, count: number, rest = {}) =>
  device.setIrqs({ index, flags, start, count, ...rest });
const triggers = (count: number) => ({ triggers: Array.from({ length: count }, fd) });
const IRQS = { msiVectors: 4, msixVectors: 4 };

const LOG = { iova: 0n, length: 4096n };
const start = (device: VfioDevice) =>
  device.deviceFeature({
    flags: VFIO_DEVICE_FEATURE_DMA_LOGGING_START | SET,
    value: { pageSize: 4096n, ranges: [LOG] },
  });
const setState = (device: VfioDevice, state: number) =>
  device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | SET, value: { state } }) as {
    data: MigrationData;
  };
const toy = async (flags = 7) => {
  const migration = new ToyMigration(flags);
  return { migration, ...(await opened({}, migration.factory)) };
};
const scopeOf = (...members: FakeFunction[]): RawResetScope => ({
  kind: 'bus',
  functions: () => members,
  tryReset() {},
});
const dmaBuf = (region: number, offset: number, length: number) => ({
  flags: VFIO_DEVICE_FEATURE_DMA_BUF | GET,
  value: { region, openFlags: 0, ranges: [{ offset, length }] },
});
const withDmaBuf = async (options = {}) => {
  const rig = await opened(options);
  rig.fn.exportDmaBuf = () => ({ fd: 3, setRevoked() {} });
  return rig;
};
const ioeventfd = (device: VfioDevice, rest = {}) =>
  device.ioeventfd({ region: 0, offset: 0, width: 4, data: 1n, trigger: fd(), ...rest });
const read = (device: VfioDevice, region: number, offset: number, length = 4) =>
  device.read(region, offset, new Uint8Array(length));
const off = (device: VfioDevice) => device.write(7, 4, Uint8Array.of(0, 0));

/** Each row of the layer `device`, by its number: what is done, and what a call that succeeds must give. */
const ROWS: Record<string, () => unknown> = {
  'GET_REGION_INFO.6': async () =>
    expect((await opened()).device.getRegionInfo(1)).toMatchObject({ size: 0, flags: 0 }),
  'GET_REGION_INFO.7': async () =>
    expect((await opened({ rom: new Uint8Array(2048) })).device.getRegionInfo(6)).toMatchObject({ size: 0 }),
  'GET_REGION_INFO.8': async () => (await opened()).device.getRegionInfo(8),
  'GET_IRQ_INFO.4': async () => expect((await opened()).device.getIrqInfo(3).count).toBe(1),
  'SET_IRQS.13': async () => {
    const { device } = await opened(IRQS);
    set(device, 1, EVENTFD | TRIGGER, 0, 1, triggers(1));
    set(device, 2, EVENTFD | TRIGGER, 0, 1, triggers(1));
  },
  'SET_IRQS.14': async () => set((await opened(IRQS)).device, 1, NONE | TRIGGER, 0, 0),
  'SET_IRQS.15': async () => set((await opened()).device, 0, EVENTFD | TRIGGER, 0, 0, triggers(0)),
  'SET_IRQS.16': async () => set((await opened()).device, 0, NONE | UNMASK, 0, 1),
  'SET_IRQS.17': async () => {
    const { device } = await opened();
    set(device, 0, EVENTFD | TRIGGER, 0, 1, triggers(1));
    set(device, 0, EVENTFD | MASK, 0, 1, triggers(1));
  },
  'SET_IRQS.18': async () => {
    const { device } = await opened();
    set(device, 0, EVENTFD | TRIGGER, 0, 1, triggers(1));
    set(device, 0, EVENTFD | UNMASK, 0, 1, triggers(1));
    set(device, 0, EVENTFD | UNMASK, 0, 1, triggers(1));
  },
  'SET_IRQS.19': async () => {
    const { device, fn } = await opened();
    fn.interrupts.intxLine = undefined;
    set(device, 0, EVENTFD | TRIGGER, 0, 1, triggers(1));
  },
  'SET_IRQS.20': async () => set((await opened(IRQS)).device, 2, EVENTFD | TRIGGER, 0, 0, triggers(0)),
  'SET_IRQS.21': async () => {
    const { device } = await opened(IRQS);
    set(device, 1, EVENTFD | TRIGGER, 0, 1, triggers(1));
    set(device, 1, EVENTFD | TRIGGER, 1, 1, triggers(1));
  },
  'SET_IRQS.22': async () => set((await opened()).device, 0, NONE | TRIGGER, 0, 1),
  'SET_IRQS.23': async () => set((await opened()).device, 4, NONE | TRIGGER, 1, 0),
  'SET_IRQS.24': async () => set((await opened()).device, 3, NONE | TRIGGER, 0, 1),
  'SET_IRQS.25': async () => set((await opened()).device, 3, BOOL | TRIGGER, 0, 0, { bools: new Uint8Array(0) }),
  'RESET.1': async () => (await opened({ resetMethods: [] })).device.reset(),
  'RESET.2': async () => {
    const { device, fn } = await opened();
    fn.resetError = 'EAGAIN';
    return device.reset();
  },
  'GET_PCI_HOT_RESET_INFO.4': async () => (await opened()).device.getHotResetInfo(),
  'GET_PCI_HOT_RESET_INFO.5': async () => {
    const { device, fn } = await opened({ group: null });
    fn.resetScope = scopeOf(fn);
    device.getHotResetInfo();
  },
  'PCI_HOT_RESET.6': async () => (await opened()).device.hotReset({ flags: 0, owned: ['0000:01:00.0'] }),
  'PCI_HOT_RESET.11': async () => {
    const one = await opened();
    const other = await opened({ address: '0000:01:00.1' });
    one.fn.resetScope = scopeOf(one.fn, other.fn);
    return one.device.hotReset({ flags: 0, owned: ['0000:01:00.0', '0000:01:00.1'] });
  },
  'PCI_HOT_RESET.12': async () => {
    const { device, fn, dev } = await opened();
    fn.resetScope = scopeOf(fn);
    dev.memoryLocks++;
    return device.hotReset({ flags: 0, owned: ['0000:01:00.0'] });
  },
  'IOEVENTFD.7': async () => ioeventfd((await opened()).device, { offset: 0x3ffe }),
  'IOEVENTFD.8': async () => ioeventfd((await opened(IRQS)).device, { offset: 0x2000 }),
  'IOEVENTFD.9': async () => {
    const { device, dev } = await opened();
    ioeventfd(device, { width: 8 });
    expect(dev.ioeventfds.count).toBe(1);
  },
  'IOEVENTFD.10': async () => ioeventfd((await opened({ nonMappableBars: true })).device),
  'IOEVENTFD.11': async () => ioeventfd((await opened({ bars: { 0: memoryBar(4096, { error: 'EBUSY' }) } })).device),
  'IOEVENTFD.12': async () => {
    const { device } = await opened();
    ioeventfd(device);
    ioeventfd(device);
  },
  'IOEVENTFD.13': async () => ioeventfd((await opened()).device, { trigger: null }),
  'IOEVENTFD.14': async () => {
    const { device } = await opened();
    for (let i = 0; i <= 1000; i++) ioeventfd(device, { data: BigInt(i) });
  },
  'IOEVENTFD.15': async () => ioeventfd((await opened({ bars: { 0: memoryBar(4096, { error: 'ENOMEM' }) } })).device),
  'FEATURE.5': async () => (await opened()).device.deviceFeature({ flags: 99 | GET }),
  'FEATURE.6': async () => (await opened()).device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIGRATION | GET }),
  'FEATURE.7': async () => (await opened()).device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | SET }),
  'FEATURE.13': async () =>
    (await opened()).device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | SET | PROBE }),
  'FEATURE.15': async () => {
    const { device } = await opened();
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET });
    return device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET });
  },
  'DMA_BUF.1': async () => (await opened()).device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_DMA_BUF | GET | PROBE }),
  'DMA_BUF.8': async () => (await withDmaBuf()).device.deviceFeature(dmaBuf(0, 0x3000, 0x2000)),
  'DMA_BUF.9': async () => (await withDmaBuf({ nonMappableBars: true })).device.deviceFeature(dmaBuf(0, 0, 4096)),
  'LOGGING_START.7': async () => {
    const { device } = await toy();
    start(device);
    return start(device);
  },
  'LOGGING_REPORT.5': async () =>
    (await toy()).device.deviceFeature({
      flags: VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | GET,
      value: { ...LOG, pageSize: 4096n, bitmap: new Uint8Array(8) },
    }),
  'MIG_DEVICE_STATE.1': async () => setState((await toy(1)).device, STATE.RUNNING_P2P),
  'MIG_DEVICE_STATE.2': async () => {
    const { device, migration } = await toy();
    migration.state = STATE.ERROR;
    return setState(device, STATE.STOP);
  },
  'MIG_DEVICE_STATE.3': async () => {
    const { device } = await toy();
    setState(device, STATE.STOP_COPY);
    return setState(device, STATE.PRE_COPY);
  },
  'MIG_GET_PRECOPY_INFO.4': async () => setState((await toy()).device, STATE.STOP_COPY).data.precopyInfo(),
  'BIND_IOMMUFD.13': async () => (await opened()).dev.open({ vfToken: new Uint8Array(16) }),
  'BIND_IOMMUFD.14': async () => {
    const { dev } = await opened();
    dev.vf.token = new Uint8Array(16);
    dev.vf.users = 1;
    return dev.open();
  },
  'read/write.1': async () => read((await opened()).device, 9, 0),
  'read/write.2': async () => expect(read((await opened()).device, 0, 0, 0)).toBe(0),
  'read/write.3': async () => (await opened({ rom: new Uint8Array(2048) })).device.write(6, 0, new Uint8Array(1)),
  'read/write.4': async () => read((await opened()).device, 0, 0x4000),
  'read/write.5': async () => {
    const { device } = await opened();
    await enableMemory(device);
    expect(read(device, 0, 0x3ffe)).toBe(2);
  },
  'read/write.6': async () => read((await opened()).device, 1, 0),
  'read/write.7': async () => read((await opened({ bars: { 0: memoryBar(4096, { error: 'EBUSY' }) } })).device, 0, 0),
  'read/write.8': async () => {
    const { device } = await opened();
    await off(device);
    read(device, 0, 0);
  },
  'read/write.9': async () => {
    const { device } = await opened({ bars: { 1: ioBar(64) }, vga: true, class: 0x030000 });
    await off(device);
    expect([read(device, 1, 0), read(device, 8, 0xa0000)]).toEqual([4, 4]);
  },
  'read/write.10': async () => {
    const { device, fn } = await opened();
    const { writes } = fn.config;
    const errno = await errnoOfAsync(() => device.write(7, 254, new Uint8Array(4)));
    expect(fn.config.writes).toBe(writes);
    read(device, 7, 254);
    return errno;
  },
  'read/write.11': async () => {
    const { device, fn, dev } = await opened({ pm: true });
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET });
    fn.setPowerState = () => {
      throw dev.error('ENODEV', 'power', 'gone');
    };
    read(device, 0, 0);
  },
  'read/write.12': async () => read((await opened({ bars: { 0: memoryBar(4096, { error: 'ENOMEM' }) } })).device, 0, 0),
  'read/write.13': async () => {
    const { device } = await opened({ rom: new Uint8Array(2048) });
    await enableMemory(device);
    read(device, 6, 0);
  },
  'read/write.14': async () => read((await opened({ vga: true, class: 0x030000 })).device, 8, 0x3bc),
  'mmap.2': async () => (await opened()).device.mmapArea(7, 0, 256),
  'mmap.3': async () => (await opened({ bars: { 0: memoryBar(4096, { mmap: false }) } })).device.mmapArea(0, 0, 4096),
  'mmap.4': async () => (await opened()).device.mmapArea(0, 0x4000, 4096),
  'mmap.5': async () => {
    const { device, dev } = await opened();
    const ops = {
      read: () => 0,
      write: () => 0,
      mmap: () => ({ offset: 0, size: 4096, memory: memoryOf(new Uint8Array(4096)) }),
    };
    dev.registerDevRegion({ type: 1, subtype: 1, size: 4096, flags: 1, ops });
    device.mmapArea(9, 0, 4096);
  },
  'mmap.6': async () =>
    (await opened({ bars: { 0: memoryBar(4096, { error: 'EBUSY' }) } })).device.mmapArea(0, 0, 4096),
  'mmap.7': async () => {
    const { device } = await opened();
    await enableMemory(device);
    const { memory } = device.mmapArea(0, 0, 4096);
    await off(device);
    expect(memory.bytes).toHaveLength(0);
    await enableMemory(device);
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | SET });
    expect(memory.bytes).toHaveLength(0);
  },
};

/** Rows about descriptors and nodes of a kernel, which typed calls do not have. */
const ELSEWHERE: Record<string, string> = {
  'SET_IRQS.26': 'a trigger is an object or null: who turns descriptors into triggers refuses numbers below -1',
  'PCI_HOT_RESET.9': 'ownership is given by addresses; descriptors are resolved by whoever has them',
  'PCI_HOT_RESET.10': 'the same',
  'FEATURE.17': 'the feature belongs to zPCI, whose package adds it',
  'FEATURE.18': 'the same',
  'ioctl.3': 'a handle exists only once a device is open',
  'BIND_IOMMUFD.9': 'a node of the kernel; here several handles share a device',
  'BIND_IOMMUFD.10': 'a node of the kernel',
  'BIND_IOMMUFD.11': 'a descriptor of the kernel',
  'BIND_IOMMUFD.12': 'a descriptor of the kernel',
  'ATTACH_IOMMUFD_PT.5': 'page tables of the kernel',
  'ATTACH_IOMMUFD_PT.6': 'page tables of the kernel',
  'DETACH_IOMMUFD_PT.5': 'page tables of the kernel',
  'mmap.1': 'an area is always shared; the flag belongs to mmap(2)',
};

describe('errno rows of the device', () => {
  test.each(errnoRows('device').filter(({ id }) => ROWS[id] !== undefined))('$id: $call, $condition', async (row) => {
    expect(await errnoOfAsync(ROWS[row.id]!)).toBe(row.errno ?? 'none');
  });

  test('are all here, or say where they belong', () => {
    const rows = errnoRows('device').map(({ id }) => id);
    expect(rows.filter((id) => ROWS[id] === undefined && ELSEWHERE[id] === undefined)).toEqual([]);
    expect([...Object.keys(ROWS), ...Object.keys(ELSEWHERE)].filter((id) => !rows.includes(id))).toEqual([]);
  });
});
