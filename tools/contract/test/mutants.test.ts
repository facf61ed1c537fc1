import {
  type EventTrigger,
  type MigrationData,
  type PciDriver,
  type PrecopyInfo,
  pciDeviceId,
  type SetIrqsRequest,
  toClient,
  type VfioDeviceClient,
  type VfioDeviceOps,
  type VfioPciCoreDevice,
} from '@vfio/core';
import { contractCases } from '@vfio/testing';
import { errnoError, VFIO_REGION_INFO_CAP_SPARSE_MMAP } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { changesByte, dropsByte, losing, streams, through } from '../src/faulty-client.js';
import { bound, local } from '../src/subjects.js';
import { ALL_MIGRATION, ENGINE, wholeDma, wholeDriver, wholeFunction, wholeState } from '../src/whole-device.js';
import type { StreamVersion } from '../src/whole-migration.js';

const CONFIG = 7;
const ROM = 6;
const FIRST_OWN = 9;
/** SET_IRQS: data and action. */
const NONE_TRIGGER = 0x21;
const BOOL_TRIGGER = 0x22;
const EVENTFD_TRIGGER = 0x24;
/** DEVICE_FEATURE: direction, and the numbers that mutants get wrong. */
const GET = 1 << 16;
const SET = 1 << 17;
const PROBE = 1 << 18;
const FEATURE = {
  vfToken: 0,
  migration: 1,
  deviceState: 2,
  lowPowerEntry: 3,
  logStart: 6,
  logStop: 7,
  report: 8,
  dataSize: 9,
  precopyInfo: 12,
} as const;

type Change = (core: VfioDeviceOps) => Partial<VfioDeviceOps>;

/** A driver that is wrong in one way, and the rules that must catch it. */
interface Mutant {
  readonly breaks: readonly string[];
  readonly ops?: Change;
  /** VFIO_MIGRATION_* of the driver, all by default. */
  readonly flags?: number;
  /** What is wrong is not the driver but what stands between it and the suite. */
  readonly client?: (device: VfioDeviceClient) => VfioDeviceClient;
  readonly driver?: (driver: PciDriver) => PciDriver;
}

const errnoOf = (error: unknown): string | undefined => (error as { errno?: string }).errno;

/** The result of a call, or another where it fails with one of these errnos. */
function forgives<T>(errnos: readonly string[], call: () => T, instead: T): T {
  const caught = (error: unknown): T => {
    if (errnos.includes(errnoOf(error) ?? '')) return instead;
    throw error;
  };
  try {
    const result = call();
    return result instanceof Promise ? (result.catch(caught) as T) : result;
  } catch (error) {
    return caught(error);
  }
}

const read =
  (
    wrong: (core: VfioDeviceOps, dev: VfioPciCoreDevice, region: number, offset: number, data: Uint8Array) => number,
  ): Change =>
  (core) => ({ read: (dev, region, offset, data) => wrong(core, dev, region, offset, data) });

/** A byte of config space that reads as another. */
const configByte = (at: number, change: (value: number) => number): Change =>
  read((core, dev, region, offset, data) => {
    const done = core.read(dev, region, offset, data);
    if (region === CONFIG && at >= offset && at < offset + done) data[at - offset] = change(data[at - offset]!) & 0xff;
    return done;
  });

/** Writes to a part of config space that have no effect. */
const drops =
  (from: number, to: number): Change =>
  (core) => ({
    write: (dev, region, offset, data) =>
      region === CONFIG && offset >= from && offset < to ? data.length : core.write(dev, region, offset, data),
  });

/** Config space behind the header that reads as it was written, in accesses of one width. */
const remembers =
  (width: number): Change =>
  (core) => {
    const written = new Map<number, number>();
    return {
      write(dev, region, offset, data) {
        if (region !== CONFIG || offset < 0x40 || data.length !== width) return core.write(dev, region, offset, data);
        for (const [at, byte] of data.entries()) written.set(offset + at, byte);
        return data.length;
      },
      read(dev, region, offset, data) {
        const done = core.read(dev, region, offset, data);
        if (region === CONFIG) for (let at = 0; at < done; at++) data[at] = written.get(offset + at) ?? data[at]!;
        return done;
      },
    };
  };

const irqs =
  (
    wrong: (request: SetIrqsRequest, set: (request: SetIrqsRequest) => number, dev: VfioPciCoreDevice) => number,
  ): Change =>
  (core) => ({ setIrqs: (dev, request) => wrong(request, (other) => core.setIrqs(dev, other), dev) });

const feature =
  (wrong: (flags: number, go: (flags?: number) => unknown, value: unknown) => unknown): Change =>
  (core) => ({
    deviceFeature: (dev, request) =>
      wrong(request.flags, (flags = request.flags) => core.deviceFeature(dev, { ...request, flags }), request.value),
  });

const is = (flags: number, index: number): boolean => (flags & 0xffff) === index;

const afterReset =
  (then: (dev: VfioPciCoreDevice, core: VfioDeviceOps) => unknown): Change =>
  (core) => ({
    async reset(dev) {
      await core.reset(dev);
      await then(dev, core);
    },
  });

/** A trigger that is never let go of. */
const kept = (trigger: EventTrigger | null): EventTrigger | null =>
  trigger && {
    fd: undefined,
    signal: () => trigger.signal(),
    watch: (handler) => trigger.watch(handler),
    release() {},
  };

/** Writes the engine's pattern to memory that was mapped once, whatever holds now. */
const writesBehindTheBack: Change = (core) => {
  let bytes: Uint8Array | undefined;
  return {
    dmaMap(dev, request) {
      core.dmaMap(dev, request);
      bytes = request.memory?.bytes ?? bytes;
    },
    write(dev, region, offset, data) {
      if (region === 0 && offset === ENGINE.GO) bytes?.fill(1, 4096, 3 * 4096);
      return core.write(dev, region, offset, data);
    },
  };
};

/** The engine is told another length than the user's. */
const engineLength =
  (change: (length: number) => number): Change =>
  (core) => ({
    write(dev, region, offset, data) {
      if (region !== 0 || offset !== ENGINE.LENGTH) return core.write(dev, region, offset, data);
      const other = new Uint8Array(4);
      new DataView(other.buffer).setUint32(
        0,
        change(new DataView(data.buffer, data.byteOffset).getUint32(0, true)),
        true,
      );
      return core.write(dev, region, offset, other);
    },
  });

/** Something that the driver's log gets wrong. */
const log =
  (
    wrong: (ops: NonNullable<VfioPciCoreDevice['logOps']>) => Partial<NonNullable<VfioPciCoreDevice['logOps']>>,
  ): Change =>
  (core) => ({
    init(dev) {
      core.init(dev);
      dev.logOps = { ...dev.logOps!, ...wrong(dev.logOps!) };
    },
  });

/** Something that the driver's migration gets wrong. */
const migration =
  (wrong: (ops: Migration, dev: VfioPciCoreDevice, core: VfioDeviceOps) => Partial<Migration>): Change =>
  (core) => ({
    init(dev) {
      core.init(dev);
      const ops = dev.migrationOps;
      if (ops !== undefined) dev.migrationOps = { ...ops, ...wrong(ops, dev, core) };
    },
  });

type Migration = NonNullable<VfioPciCoreDevice['migrationOps']>;

/** What is wrong when a step is taken, with the stream that it opens. */
const step = (
  wrong: (from: number, to: number, go: () => MigrationData | undefined, dev: VfioPciCoreDevice) => unknown,
): Change =>
  migration((ops) => ({
    setState: (dev, next) =>
      wrong(ops.getState(dev), next, () => ops.setState(dev, next) as MigrationData | undefined, dev) as
        | MigrationData
        | undefined,
  }));

/** A stream that is wrong, under core's own checks. */
const stream = (wrong: (data: MigrationData) => Partial<MigrationData>): Change =>
  step((_from, _to, go) => {
    const data = go();
    return data === undefined ? undefined : { ...through(data), ...wrong(data) };
  });

const STATE = { STOP: 1, RUNNING: 2, STOP_COPY: 3, RESUMING: 4, PRE_COPY: 6, PRE_COPY_P2P: 7 } as const;
const SET_STATE = FEATURE.deviceState | SET;

const LOAD_RULE =
  'no page that the device writes under load is missed: the whole memory is compared with reports of each page size';
const MOVED_RULE = 'what one device saves another loads, in pieces of any size, and has the same state then';
const PRE_COPIED_RULE = 'a device is pre-copied until it has nothing new (ENOMSG), then on the same stream to the end';
const WAYS_RULE =
  'every state leads to every other, but STOP_COPY not back to PRE_COPY; a stream opens where one begins';
const PIECES_RULE = 'a stopped device gives its state in pieces of any size, and nothing for ever after the last byte';
const CUT_RULE = 'a stream that was cut is refused, and a reset makes the device as new';
const NEXT_USER_RULE = 'the next user finds it RUNNING, in whatever state the last left it';
const RESET_RULE = 'a reset in any state leads to RUNNING, and ends the stream with ENODEV';
const VERSIONS_RULE =
  'streams go to another version of the driver and come back, the state is the same: stopped, and pre-copied';
const INCOMPATIBLE_RULE =
  'a stream of a device that is not compatible is refused both ways, and a reset makes the device as new';
const WORKS_RULE = 'a device that was stopped, or loaded, works on: what it writes arrives, and its interrupts come';

const PAGES_RULE = 'the pages that the device writes are dirty, all of them and no other, until they are reported';

const MUTANTS: Readonly<Record<string, Mutant>> = {
  // identity
  'shows one region less than it has': {
    breaks: ['is a PCI device with at least the regions and interrupts that every one has'],
    ops: (core) => ({ getInfo: (dev) => ({ ...core.getInfo(dev), numRegions: 8 }) }),
  },
  'tells something else each time': {
    breaks: ['tells the same of itself each time'],
    ops: (core) => {
      let calls = 0;
      return { getRegionInfo: (dev, index) => ({ ...core.getRegionInfo(dev, index), offset: ++calls }) };
    },
  },
  'calls every interrupt INTx': {
    breaks: ['each region and interrupt says its own index'],
    ops: (core) => ({ getIrqInfo: (dev, index) => ({ ...core.getIrqInfo(dev, index), index: 0 }) }),
  },
  'tells a capability twice': {
    breaks: ['each capability of its infos has an id and a version, and comes once'],
    ops: (core) => ({
      getInfo: (dev) => {
        const info = core.getInfo(dev);
        return { ...info, caps: [...info.caps, ...info.caps] };
      },
    }),
  },
  'shows another class than its function has': {
    breaks: ['has the ids and the class of its function'],
    ops: configByte(0x0a, (value) => value ^ 1),
  },
  'is for another function': {
    breaks: ['its driver is for its function: a row of its table matches'],
    driver: (driver) => ({ ...driver, idTable: [pciDeviceId({ vendor: 1, device: 2, overrideOnly: 1 })] }),
  },
  'takes what it was not asked for': {
    breaks: ['its driver takes nothing that it was not asked for: every row is override_only'],
    driver: (driver) => ({ ...driver, idTable: driver.idTable.map((id) => ({ ...id, overrideOnly: 0 })) }),
  },
  'has a class mask that no alias can say': {
    breaks: ['its driver can be found: every row of its table has an alias'],
    driver: (driver) => ({
      ...driver,
      idTable: [pciDeviceId({ class: 0x010000, classMask: 0xf00000, overrideOnly: 1 })],
    }),
  },
  'has a name with a blank': {
    breaks: ['its driver has a name that fits an alias file and a path'],
    driver: (driver) => ({ ...driver, name: 'my driver' }),
  },

  // lifecycle
  'goes on after close': {
    breaks: ['a closed device answers every call with an error, and closing again does nothing'],
    client: (device) => ({ ...device, close: async () => {} }),
  },
  'keeps the COMMAND of its last user': {
    breaks: [
      'the next user finds nothing of the last: bus mastering off, COMMAND as at first',
      'bus mastering is off at open, and follows the COMMAND register',
    ],
    ops: (core) => {
      let last = Uint8Array.of(0x06, 0x00);
      return {
        async openDevice(dev) {
          await core.openDevice(dev);
          await core.write(dev, CONFIG, 4, last);
        },
        async closeDevice(dev) {
          last = new Uint8Array(2);
          core.read(dev, CONFIG, 4, last);
          await core.closeDevice(dev);
        },
      };
    },
  },
  'keeps the interrupt line of its last user': {
    breaks: ['the header is the same for the next user, whatever the last wrote over it'],
    ops: (core) => {
      const line = new Uint8Array(1);
      return {
        async openDevice(dev) {
          await core.openDevice(dev);
          await core.write(dev, CONFIG, 0x3c, line);
        },
        async closeDevice(dev) {
          core.read(dev, CONFIG, 0x3c, line);
          await core.closeDevice(dev);
        },
      };
    },
  },
  'leaks the triggers of its interrupts': {
    breaks: [
      'what was armed is off and let go of at close, and the next user may arm another type',
      'a trigger that is taken away or replaced is let go of and not signalled any more',
      'a type that is disabled lets go of its triggers and signals none',
      'ERR and REQ take a trigger, signal it and give it back, whatever type is active',
      'a trigger belongs to the device also where the call fails: it is let go of once',
    ],
    ops: irqs((request, set) =>
      set(request.triggers === undefined ? request : { ...request, triggers: request.triggers.map(kept) }),
    ),
  },
  'leaks the memory that was mapped': {
    breaks: [
      'memory is let go of at close, and the next user may map it',
      'memory is let go of once: when it is unmapped, and when its map is refused',
    ],
    ops: (core) => ({
      dmaMap: (dev, { release: _, ...request }) => core.dmaMap(dev, request),
    }),
  },

  // regions
  'reads regions that it does not have': {
    breaks: [
      'a region index past the last is refused with EINVAL',
      'a BAR that is not there cannot be read or written: EINVAL',
      'a region whose info is refused has nothing to read',
      'a read or write at or past the end of a BAR is refused, one that crosses it is cut',
    ],
    ops: read((core, dev, region, offset, data) =>
      forgives(['EINVAL'], () => core.read(dev, region, offset, data), data.length),
    ),
  },
  'lets config space be mapped': {
    breaks: ['config space is 256 or 4096 bytes, readable and writable, never mapped'],
    ops: (core) => ({
      getRegionInfo: (dev, index) => {
        const info = core.getRegionInfo(dev, index);
        return index === CONFIG ? { ...info, flags: info.flags | 4 } : info;
      },
    }),
  },
  'has a BAR of three pages': {
    breaks: [
      'a BAR is readable and writable, its size a power of two; one that is not there has neither size nor flags',
    ],
    ops: (core) => ({
      getRegionInfo: (dev, index) => {
        const info = core.getRegionInfo(dev, index);
        return index === 3 ? { ...info, size: 0x3000 } : info;
      },
    }),
  },
  'does not say what its own region is': {
    breaks: ['the ROM is only read, VGA has its legacy size, and each further region says its type'],
    ops: (core) => ({
      getRegionInfo: (dev, index) => {
        const info = core.getRegionInfo(dev, index);
        return index >= FIRST_OWN ? { ...info, caps: [] } : info;
      },
    }),
  },
  'offers half a page to be mapped': {
    breaks: ['areas that may be mapped are whole pages inside a region that says so, and do not overlap'],
    ops: (core) => ({
      getRegionInfo: (dev, index) => {
        const info = core.getRegionInfo(dev, index);
        if (index !== 3) return info;
        return {
          ...info,
          caps: [{ id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, version: 1, areas: [{ offset: 0, size: 2048 }] }],
        };
      },
    }),
  },
  'maps what may not be mapped': {
    breaks: ['what may not be mapped is refused with EINVAL'],
    ops: (core) => ({
      mmapArea: (dev, region, offset, length) =>
        forgives(['EINVAL'], () => core.mmapArea(dev, region, offset, length), {
          offset,
          size: length,
          memory: { bytes: new Uint8Array(length), fd: undefined, fdOffset: 0 },
        }),
    }),
  },
  'takes an access of no bytes for a mistake': {
    breaks: ['an access of no bytes does nothing, and works'],
    ops: read((core, dev, region, offset, data) => {
      if (data.length === 0) throw dev.error('EINVAL', 'read', 'no bytes');
      return core.read(dev, region, offset, data);
    }),
  },
  'answers a BAR while memory decode is off, and in D3': {
    breaks: [
      'a memory BAR cannot be reached while memory decode is off: EIO',
      'in D3 a memory BAR cannot be reached: EIO; in D0 it can again',
    ],
    ops: read((core, dev, region, offset, data) =>
      forgives(['EIO'], () => core.read(dev, region, offset, data), data.length),
    ),
  },
  'lets the ROM be written': {
    breaks: ['the ROM cannot be written: EINVAL'],
    ops: (core) => ({
      write: (dev, region, offset, data) => (region === ROM ? data.length : core.write(dev, region, offset, data)),
    }),
  },
  'lets a guest see the last byte of the MSI-X table': {
    breaks: ['the MSI-X table reads as all ones and takes no writes, to its last byte'],
    ops: read((core, dev, region, offset, data) => {
      const done = core.read(dev, region, offset, data);
      const last = 0x2000 + 16 * 16 - 1;
      if (region === 0 && offset <= last && offset + done > last) data[last - offset] = 0;
      return done;
    }),
  },
  'maps the MSI-X table and does not say so': {
    breaks: ['the MSI-X table is mapped only where the device says that it may be'],
    ops: (core) => ({
      getRegionInfo: (dev, index) => {
        const info = core.getRegionInfo(dev, index);
        return index === 0 ? { ...info, flags: info.flags | 4, caps: [] } : info;
      },
    }),
  },

  // config space
  'hides INTx disable': {
    breaks: ['INTx disable follows the COMMAND register'],
    ops: configByte(0x05, (value) => value & ~4),
  },
  'says that a read-only write failed': {
    breaks: ['a write to a read-only register succeeds and changes nothing'],
    ops: (core) => ({
      write: (dev, region, offset, data) => {
        if (region === CONFIG && offset === 0x2c) throw dev.error('EACCES', 'write', 'read-only');
        return core.write(dev, region, offset, data);
      },
    }),
  },
  'drops one byte of a read': {
    breaks: ['the header reads the same in bytes, words, dwords and at once'],
    ops: read((core, dev, region, offset, data) => {
      const done = core.read(dev, region, offset, data);
      if (region === CONFIG && data.length === 64) data[0x2f] = 0;
      return done;
    }),
  },
  'cuts an access that leaves config space': {
    breaks: ['an access past the end is refused with EFAULT and does nothing'],
    ops: read((core, dev, region, offset, data) => forgives(['EFAULT'], () => core.read(dev, region, offset, data), 0)),
  },
  'does not let BARs be sized': {
    breaks: ['BAR sizing finds the size of each BAR, and the address comes back'],
    ops: drops(0x10, 0x28),
  },
  'does not let the ROM be sized': { breaks: ['ROM sizing finds the size of the ROM'], ops: drops(0x30, 0x34) },
  'drops the interrupt line': {
    breaks: ['the interrupt line is the guest’s to write, the pin beside it is not'],
    ops: drops(0x3c, 0x3d),
  },
  'has a chain of capabilities that begins in the header': {
    breaks: ['the chain of capabilities ends, lies behind the header and is told by STATUS'],
    ops: configByte(0x34, () => 0x2c),
  },
  'has a chain of extended capabilities that loops': {
    breaks: ['the chain of extended capabilities ends, on dwords behind the first 256 bytes'],
    ops: (core) => ({
      read(dev, region, offset, data) {
        const done = core.read(dev, region, offset, data);
        if (region === CONFIG && offset === 0x100 && done === 4) {
          data[2] = data[2]! & 0x0f;
          data[3] = 0x10;
        }
        return done;
      },
    }),
  },
  'lets the header of a capability be written': {
    breaks: ['headers of capabilities are read-only'],
    ops: remembers(1),
  },
  'lets a guest write capabilities freely': {
    breaks: [
      'a guest cannot turn on MSI or MSI-X by itself',
      'where the MSI-X table is cannot be written',
      'the bit that starts a function level reset never stays set',
    ],
    ops: remembers(2),
  },

  // interrupts
  'has one index of interrupts more than it says': {
    breaks: ['an interrupt index past the last is refused with EINVAL'],
    ops: (core) => ({
      getIrqInfo: (dev, index) =>
        forgives(['EINVAL'], () => core.getIrqInfo(dev, index), { index, flags: 0, count: 0 }),
    }),
  },
  'forgets that INTx masks itself': {
    breaks: ['each index has the flags of its kind'],
    ops: (core) => ({ getIrqInfo: (dev, index) => ({ ...core.getIrqInfo(dev, index), flags: 1 }) }),
  },
  'has a vector that its capability does not have': {
    breaks: ['there are as many of each type as config space says'],
    ops: (core) => ({
      getIrqInfo: (dev, index) => {
        const info = core.getIrqInfo(dev, index);
        return index === 2 ? { ...info, count: info.count + 1 } : info;
      },
    }),
  },
  'takes every request for interrupts': {
    breaks: [
      'a request must have exactly one kind of data, and no flag that nobody knows',
      'a request has one action, one that its index has, or is refused',
      'vectors past the last are refused with EINVAL',
      'a type that is not active can neither be disabled, signalled nor masked: EINVAL',
      'only one type is active at a time, and the refused one leaves no trace',
      'INTx is masked and unmasked, by data or an eventfd as each action takes it',
    ],
    ops: irqs((request, set) => forgives(['EINVAL', 'ENOTTY', 'EBUSY'], () => set(request), 0)),
  },
  'signals the neighbour of a vector': {
    breaks: ['each vector signals its own trigger, once for each loopback'],
    ops: irqs((request, set) =>
      set(request.flags === NONE_TRIGGER && request.start === 1 ? { ...request, start: 0 } : request),
    ),
  },
  'drops one interrupt': {
    breaks: ['each vector signals its own trigger, once for each loopback'],
    ops: (core) => {
      let count = 0;
      return {
        setIrqs: (dev, request) =>
          request.flags === NONE_TRIGGER && request.count > 0 && ++count === 2 ? 0 : core.setIrqs(dev, request),
      };
    },
  },
  'signals every vector of a loopback by booleans': {
    breaks: ['a loopback by booleans signals the vectors that are true'],
    ops: irqs(({ bools, ...request }, set) =>
      set(
        request.flags === BOOL_TRIGGER ? { ...request, flags: NONE_TRIGGER } : { ...request, ...(bools && { bools }) },
      ),
    ),
  },
  'forgets the last of many vectors': {
    breaks: ['all vectors of a type can be armed at once'],
    ops: irqs((request, set) => {
      const { triggers } = request;
      if (triggers === undefined || triggers.length <= 8) return set(request);
      triggers.at(-1)?.release();
      return set({ ...request, triggers: [...triggers.slice(0, -1), null] });
    }),
  },
  'cannot add a vector': {
    breaks: ['vectors are added in pieces where the type can grow; elsewhere they may be, or are refused with EINVAL'],
    ops: irqs((request, set, dev) => {
      if (request.flags === EVENTFD_TRIGGER && request.index === 2 && request.start > 0) {
        for (const trigger of request.triggers ?? []) trigger?.release();
        throw dev.error('EINVAL', 'setIrqs', 'no more vectors');
      }
      return set(request);
    }),
  },
  'goes on signalling a trigger that was taken away': {
    breaks: ['a trigger that is taken away or replaced is let go of and not signalled any more'],
    ops: irqs((request, set) => (request.index > 0 && request.triggers?.[0] === null ? 0 : set(request))),
  },
  'lets REQ lie': {
    breaks: ['ERR and REQ take a trigger, signal it and give it back, whatever type is active'],
    ops: irqs((request, set) =>
      request.index === 4 && request.flags === NONE_TRIGGER && request.count > 0 ? 0 : set(request),
    ),
  },

  // ioeventfd
  'takes every ioeventfd': {
    breaks: [
      'one outside a BAR, past its end, over the MSI-X table or of an odd width is refused with EINVAL',
      'the same store again is refused with EEXIST, and none can be removed that is not there: ENODEV',
    ],
    ops: (core) => ({
      ioeventfd: (dev, request) =>
        forgives(['EINVAL', 'EEXIST', 'ENODEV'], () => core.ioeventfd(dev, request), undefined),
    }),
  },
  'leaks the triggers of its ioeventfds': {
    breaks: ['its trigger is let go of once: when it is removed, when it is refused, at close'],
    ops: (core) => ({
      ioeventfd: (dev, request) => core.ioeventfd(dev, { ...request, trigger: kept(request.trigger) }),
    }),
  },

  // reset
  'names its neighbour in a hot reset': {
    breaks: ['a hot reset says what it takes with it, the function itself among it'],
    ops: (core) => ({
      getHotResetInfo: (dev) => {
        const info = core.getHotResetInfo(dev);
        return { ...info, devices: info.devices.map((one) => ({ ...one, devfn: one.devfn + 8 })) };
      },
    }),
  },
  'hot-resets for everybody': {
    breaks: ['a hot reset that owns nothing, or has flags, is refused with EINVAL'],
    ops: () => ({ hotReset: () => {} }),
  },
  'says it can be reset and cannot': {
    breaks: ['works where the device says so, else it is refused with EINVAL'],
    ops: () => ({
      reset: (dev) => {
        throw dev.error('EINVAL', 'reset', 'no reset');
      },
    }),
  },
  'forgets COMMAND in a reset': {
    breaks: ['leaves ids, class, BARs and COMMAND as the user has them'],
    ops: afterReset((dev, core) => core.write(dev, CONFIG, 4, new Uint8Array(2))),
  },
  'forgets its interrupts in a reset': {
    breaks: ['keeps the triggers of each type of interrupt, and they still signal'],
    ops: afterReset((dev, core) => {
      for (const index of [0, 1, 2])
        forgives(['EINVAL'], () => core.setIrqs(dev, { flags: NONE_TRIGGER, index, start: 0, count: 0 }), 0);
    }),
  },
  'forgets its mappings in a reset': {
    breaks: ['keeps the mappings of DMA'],
    ops: afterReset((dev) => dev.dmaSpace.unmapAll()),
  },
  'can be reset only once': {
    breaks: ['can be done again and again'],
    ops: (core) => {
      let resets = 0;
      return {
        reset: (dev) => {
          if (++resets > 1) throw dev.error('EAGAIN', 'reset', 'once is enough');
          return core.reset(dev);
        },
      };
    },
  },

  // DMA
  'forgets to unmap': {
    breaks: ['a range is mapped, taken away and mapped again'],
    ops: () => ({ dmaUnmap: () => {} }),
  },
  'takes sixteen maps': {
    breaks: ['many ranges are mapped beside each other'],
    ops: (core) => {
      let maps = 0;
      return {
        dmaMap: (dev, request) => {
          if (++maps > 16) throw dev.error('ENOSPC', 'dmaMap', 'enough');
          core.dmaMap(dev, request);
        },
      };
    },
  },
  'maps over what is mapped': {
    breaks: ['a map that overlaps another is refused with EEXIST, and the first one stands'],
    ops: (core) => ({ dmaMap: (dev, request) => forgives(['EEXIST'], () => core.dmaMap(dev, request), undefined) }),
  },
  'gives another errno for an overlap': {
    breaks: ['a map that overlaps another is refused with EEXIST, and the first one stands'],
    ops: (core) => ({
      dmaMap: (dev, request) => {
        try {
          core.dmaMap(dev, request);
        } catch (error) {
          throw errnoOf(error) === 'EEXIST' ? dev.error('EBUSY', 'dmaMap', 'taken') : error;
        }
      },
    }),
  },
  'unmaps what is not mapped': {
    breaks: ['what is not mapped cannot be unmapped: ENOENT'],
    ops: (core) => ({
      dmaUnmap: (dev, iova, size) => forgives(['ENOENT'], () => core.dmaUnmap(dev, iova, size), undefined),
    }),
  },
  'maps nothing': {
    breaks: ['a map of nothing, without access, or past the end of the address space, is refused with EINVAL'],
    ops: (core) => ({ dmaMap: (dev, request) => forgives(['EINVAL'], () => core.dmaMap(dev, request), undefined) }),
  },
  'does not reach the last page': {
    breaks: ['the last page of the address space can be mapped'],
    ops: (core) => ({
      dmaMap: (dev, request) => {
        if (request.iova >> 63n !== 0n) throw dev.error('EINVAL', 'dmaMap', 'too high');
        core.dmaMap(dev, request);
      },
    }),
  },
  'writes one byte less': {
    breaks: ['what the device writes arrives, and nothing beside it changes'],
    ops: engineLength((length) => length - 1),
  },
  'writes one byte more': {
    breaks: ['what the device writes arrives, and nothing beside it changes'],
    ops: engineLength((length) => length + 1),
  },
  'writes memory without asking': {
    breaks: [
      'nothing is written while bus mastering is off',
      'nothing is written to memory that was unmapped, and the range can be mapped again',
    ],
    ops: writesBehindTheBack,
  },

  // dirty tracking
  'logs whatever it is asked to': {
    breaks: ['what cannot be logged is refused', 'a second start is refused with EINVAL; stopping twice is not'],
    ops: feature((flags, go) =>
      is(flags, FEATURE.logStart) ? forgives(['EINVAL', 'E2BIG', 'EOVERFLOW'], () => go(), { pageSize: 4096n }) : go(),
    ),
  },
  'reports without a log': {
    breaks: ['a report that cannot be is refused', 'logging ends at close'],
    ops: feature((flags, go) => (is(flags, FEATURE.report) ? forgives(['EINVAL'], () => go(), undefined) : go())),
  },
  'clears the bitmap of its caller': {
    breaks: ['a report sets bits and clears none; of untouched memory it sets none'],
    ops: feature((flags, go, value) => {
      if (is(flags, FEATURE.report)) (value as { bitmap?: Uint8Array } | undefined)?.bitmap?.fill(0);
      return go();
    }),
  },
  'drops one dirty page': {
    breaks: [PAGES_RULE, LOAD_RULE],
    ops: log((ops) => ({
      logReadAndClear: (dev, range, dirty) =>
        ops.logReadAndClear(dev, range, (iova, length) => {
          if (length > 4096n) dirty(iova, length - 4096n);
        }),
    })),
  },
  'drops one dirty page among many': {
    breaks: [LOAD_RULE],
    ops: log((ops) => {
      let pages = 0;
      return {
        logReadAndClear: (dev, range, dirty) =>
          ops.logReadAndClear(dev, range, (iova, length) => {
            for (let at = 0n; at < length; at += 4096n) if (++pages !== 20) dirty(iova + at, 4096n);
          }),
      };
    }),
  },
  'reports pages of one size only': {
    breaks: ['a report has pages of the size that it asks for, whatever is tracked'],
    ops: (core) => ({
      deviceFeature: (dev, request) =>
        core.deviceFeature(
          dev,
          is(request.flags, FEATURE.report) && request.value !== undefined
            ? { ...request, value: { ...request.value, pageSize: 0x10000n } }
            : request,
        ),
    }),
  },
  'logs a hundred ranges': {
    breaks: ['as many ranges as are allowed are logged'],
    ops: log((ops) => ({
      logStart(dev, ranges, pageSize) {
        if (ranges.length > 100) throw dev.error('E2BIG', 'DMA_LOGGING_START', 'enough');
        return ops.logStart(dev, ranges, pageSize);
      },
    })),
  },
  'stops a log that it does not have': {
    breaks: ['a device without a log says ENOTTY to start, stop and report'],
    flags: 0,
    ops: feature((flags, go) => (flags === (FEATURE.logStop | SET) ? undefined : go())),
  },
  'calls one clean page dirty': {
    breaks: [PAGES_RULE],
    ops: log((ops) => ({
      logReadAndClear: async (dev, range, dirty) => {
        await ops.logReadAndClear(dev, range, dirty);
        dirty(range.iova, 4096n);
      },
    })),
  },
  'reports a dirty page again and again': {
    breaks: [PAGES_RULE],
    ops: log((ops) => {
      const seen: [bigint, bigint][] = [];
      return {
        logReadAndClear: async (dev, range, dirty) => {
          await ops.logReadAndClear(dev, range, (iova, length) => void seen.push([iova, length]));
          for (const [iova, length] of seen) dirty(iova, length);
        },
      };
    }),
  },

  // features
  'knows every feature': {
    breaks: ['a feature that nobody knows is refused with ENOTTY, also when it is only probed'],
    ops: feature((_, go) => forgives(['ENOTTY'], () => go(), undefined)),
  },
  'takes GET and SET at once, and flags that nobody knows': {
    breaks: ['GET and SET together are only for probing', 'flags that nobody knows are refused with EINVAL'],
    ops: feature((flags, go) => (is(flags, FEATURE.migration) ? forgives(['EINVAL'], () => go(), { flags: 1 }) : go())),
  },
  'sets what can only be asked for': {
    breaks: ['a feature goes in the directions that a probe says, in no other, and not without one'],
    ops: feature((flags, go) => (flags === (FEATURE.migration | SET) ? undefined : go())),
  },
  'does what it is probed for': {
    breaks: ['a probe does nothing'],
    ops: feature((flags, go) => (flags === (FEATURE.lowPowerEntry | SET | PROBE) ? go(flags & ~PROBE) : go())),
  },
  'enters low power twice': {
    breaks: ['low power is entered once, any access wakes the device, and it may be left any number of times'],
    ops: feature((flags, go) =>
      flags === (FEATURE.lowPowerEntry | SET) ? forgives(['EINVAL'], () => go(), undefined) : go(),
    ),
  },
  'shows its VF token': {
    breaks: ['a VF token is 16 bytes, set and never shown'],
    ops: feature((flags, go) => (flags === (FEATURE.vfToken | GET) ? new Uint8Array(16) : go())),
  },
  'migrates without STOP_COPY': {
    breaks: ['a device that migrates has STOP_COPY, one that does not says ENOTTY'],
    ops: feature((flags, go) => (flags === (FEATURE.migration | GET) ? { flags: 2 } : go())),
  },
  'is opened STOPped': {
    breaks: ['a device that migrates is RUNNING at open; no state leads to ERROR by request'],
    ops: (core) => ({
      init(dev) {
        core.init(dev);
        dev.migrationOps = { ...dev.migrationOps!, getState: () => 1 };
      },
    }),
  },

  // migration
  'has a state and no migration': {
    breaks: ['a device that migrates has STOP_COPY, one that does not says ENOTTY'],
    flags: 0,
    ops: feature((flags, go) => (is(flags, FEATURE.dataSize) ? { stopCopyLength: 0n } : go())),
  },
  'knows no way from PRE_COPY back to RUNNING': {
    breaks: [WAYS_RULE],
    ops: step((from, to, go, dev) => {
      if (from === STATE.PRE_COPY && to === STATE.RUNNING) throw dev.error('EINVAL', 'setState', 'no way back');
      return go();
    }),
  },
  'opens no stream to resume': {
    breaks: [WAYS_RULE],
    ops: step((_from, to, go) => {
      const data = go();
      return to === STATE.RESUMING ? undefined : data;
    }),
  },
  'says that it is where it is not': {
    breaks: [WAYS_RULE],
    ops: feature((flags, go) => (flags === (FEATURE.deviceState | GET) ? { state: STATE.RUNNING } : go())),
  },
  'allows an illegal arc': {
    breaks: [
      'a state that the device lacks, and a way that there is not, are refused with EINVAL; state and stream go on',
    ],
    ops: (core) => ({
      deviceFeature: (dev, request) =>
        request.flags === SET_STATE
          ? forgives(['EINVAL'], () => core.deviceFeature(dev, request), { state: STATE.PRE_COPY, data: undefined })
          : core.deviceFeature(dev, request),
    }),
  },
  'lets a refused request change its state': {
    breaks: ['a device that migrates is RUNNING at open; no state leads to ERROR by request'],
    ops: (core) => ({
      async deviceFeature(dev, request) {
        try {
          return await core.deviceFeature(dev, request);
        } catch (error) {
          if (request.flags === SET_STATE) await dev.migrationOps?.setState(dev, STATE.STOP);
          throw error;
        }
      },
    }),
  },
  'refuses the state that it is in': {
    breaks: [
      'the state that the device is in can be asked for: it stays, no stream opens, the one that is open goes on',
    ],
    ops: (core) => ({
      deviceFeature(dev, request) {
        const { state } = (request.value ?? {}) as { state?: number };
        if (request.flags === SET_STATE && dev.migrationOps?.getState(dev) === state)
          throw dev.error('EINVAL', 'setState', 'there already');
        return core.deviceFeature(dev, request);
      },
    }),
  },
  'does not return to RUNNING by a reset': {
    breaks: [RESET_RULE, NEXT_USER_RULE, 'a function level reset by config space leads to RUNNING too'],
    ops: (core) => ({
      init(dev) {
        core.init(dev);
        dev.resetDone.length = 0;
      },
    }),
  },
  'keeps a stream through a reset': {
    breaks: [RESET_RULE],
    client: streams((data) => ({
      read: async (into) => forgives(['ENODEV'], () => data.read(into), 0),
    })),
  },
  'does not know its size': {
    breaks: ['the size of the state can be asked for in every state'],
    ops: migration(() => ({ getDataSize: () => 0n })),
  },
  'forgets its interrupts when it stops': {
    breaks: ['interrupts that are armed still signal after every state'],
    ops: migration((ops, _dev, core) => ({
      setState(dev, next) {
        if (next === STATE.STOP)
          for (const index of [0, 1, 2])
            forgives(['EINVAL'], () => core.setIrqs(dev, { flags: NONE_TRIGGER, index, start: 0, count: 0 }), 0);
        return ops.setState(dev, next);
      },
    })),
  },
  'takes writes to what it saves': {
    breaks: ['a save stream is only read, a resume stream only written'],
    ops: stream((data) => ({ write: (from) => forgives(['EINVAL'], () => data.write(from), from.length) })),
  },
  'drops one byte of its stream': {
    breaks: [MOVED_RULE, PRE_COPIED_RULE, PIECES_RULE],
    ops: stream(dropsByte),
  },
  'changes one byte of its stream': {
    breaks: [MOVED_RULE, PRE_COPIED_RULE, PIECES_RULE],
    ops: stream(changesByte),
  },
  'loses one byte of its state': {
    breaks: [MOVED_RULE],
    ops: step((from, to, go, dev) => {
      const data = go();
      const { model } = dev.fn as unknown as { model: { registers: Uint8Array } };
      if (from === STATE.RESUMING && to === STATE.STOP) model.registers[8] = 0;
      return data;
    }),
  },
  'ends where it is only idle': {
    breaks: [PRE_COPIED_RULE],
    ops: stream((data) => ({ read: (into) => forgives(['ENOMSG'], () => data.read(into), 0) })),
  },
  'begins a new stream when it goes quiet': {
    breaks: ['the stream goes on when the device goes quiet and back; what was not read before is read in STOP_COPY'],
    ops: (core) => ({
      async deviceFeature(dev, request) {
        const result = (await core.deviceFeature(dev, request)) as { data?: MigrationData } | undefined;
        const { state } = (request.value ?? {}) as { state?: number };
        return request.flags === SET_STATE && state === STATE.PRE_COPY_P2P ? { ...result, data: dev.session } : result;
      },
    }),
  },
  'promises one byte too many': {
    breaks: ['as many bytes as the precopy info says are initial can be read at once; of an idle device none are'],
    ops: stream((data) => ({
      precopyInfo() {
        const info = data.precopyInfo() as PrecopyInfo;
        return { ...info, initialBytes: info.initialBytes + 1n };
      },
    })),
  },
  'tells of precopy in every state': {
    breaks: ['precopy info is refused with EINVAL outside the PRE_COPY states, with ENODEV when the session has ended'],
    client: streams((data) => ({
      precopyInfo: async () =>
        forgives(['EINVAL'], () => data.precopyInfo(), { flags: 0, initialBytes: 0n, dirtyBytes: 0n }),
    })),
  },
  'goes on with a stream whose session has ended': {
    breaks: ['a stream ends with its session: ENODEV'],
    client: streams((data) => ({ write: async (from) => forgives(['ENODEV'], () => data.write(from), 0) })),
  },
  'saves only twice': {
    breaks: ['a migration that was broken off anywhere can be begun again'],
    ops: (core) => {
      let saves = 0;
      return step((_from, _to, go, dev) => {
        const data = go();
        if (data !== undefined && ++saves > 2) throw dev.error('EBUSY', 'setState', 'enough');
        return data;
      })(core);
    },
  },
  'takes a part for the whole': {
    breaks: [CUT_RULE],
    ops: step((from, _to, go) => (from === STATE.RESUMING ? forgives(['EINVAL'], go, undefined) : go())),
  },
  'does not return from ERROR by a reset': {
    breaks: [CUT_RULE],
    ops: (core) => ({
      async reset(dev) {
        const hasFailed = dev.migrationOps?.getState(dev) === 0;
        if (!hasFailed) await core.reset(dev);
      },
    }),
  },
  'knows streams of its own version only': {
    breaks: [VERSIONS_RULE],
    ops: stream((data) => {
      let begun = false;
      return {
        write(from) {
          if (!begun && from[0] === 'N'.charCodeAt(0)) throw errnoError('EINVAL', 'another version');
          begun = true;
          return data.write(from);
        },
      };
    }),
  },
  'saves what other versions cannot read': {
    breaks: [VERSIONS_RULE],
    client: streams((data) => ({
      async read(into) {
        const count = await data.read(into);
        if (count > 0) into[0] = (into[0] ?? 0) ^ 0x80;
        return count;
      },
    })),
  },
  'takes the stream of any device': {
    breaks: [INCOMPATIBLE_RULE],
    ops: step((from, _to, go) => {
      const data = from === STATE.RESUMING ? forgives(['EINVAL'], go, undefined) : go();
      const write = (bytes: Uint8Array) => forgives(['EINVAL', 'ENODEV'], () => data!.write(bytes), bytes.length);
      return data && { ...through(data), write };
    }),
  },
  'trips over a stream that is wrong': {
    breaks: ['a stream with a byte that was changed does no more than be refused'],
    client: streams((data) => ({
      async write(from) {
        try {
          return await data.write(from);
        } catch {
          throw new TypeError('undefined is not a function');
        }
      },
    })),
  },
  'loses one interrupt': {
    breaks: [WORKS_RULE],
    ops: irqs((request, set) =>
      set({
        ...request,
        ...(request.triggers === undefined ? {} : { triggers: request.triggers.map(losing) }),
      }),
    ),
  },
  'knows nothing of REINIT, and takes it without PRE_COPY': {
    breaks: ['REINIT of precopy info can be had with PRE_COPY, without it is refused with EINVAL'],
    flags: 1,
    ops: feature((flags, go) => (is(flags, FEATURE.precopyInfo) ? undefined : go())),
  },
};

/** The suite over a driver with all abilities, changed by a mutant perhaps. */
async function suite({
  ops,
  flags = ALL_MIGRATION,
  client = (device) => device,
  driver: change = (driver) => driver,
}: Omit<Mutant, 'breaks'>) {
  const { host, fn } = wholeFunction();
  const driver = wholeDriver(ops, flags);
  const device = await bound(host, fn, driver);
  const version = async (number: StreamVersion) => {
    const other = wholeFunction();
    return local(await bound(other.host, other.fn, wholeDriver(undefined, flags, number)));
  };
  return contractCases({
    name: 'whole',
    driver: { driver: change(driver), function: fn },
    dma: wholeDma,
    state: wholeState,
    otherVersion: () => version(2),
    incompatible: () => version(3),
    async open() {
      const opened = await device.open();
      return { device: client(toClient(opened)), close: async () => opened.close() };
    },
  });
}

test('the unchanged driver keeps every rule, and each has something to say about it', async () => {
  const silent: string[] = [];
  for (const { name, run } of await suite({})) if ((await run()) !== undefined) silent.push(name);
  // What is only said of devices that cannot be migrated.
  for (const { name, run } of await suite({ flags: 0 }))
    if (silent.includes(name)) expect(await run(), name).toBeUndefined();
  expect(silent).toEqual(['a device without a log says ENOTTY to start, stop and report']);
});

test('each rule is broken by a mutant', async () => {
  const broken = new Set(Object.values(MUTANTS).flatMap(({ breaks }) => breaks));
  expect([...broken].sort()).toEqual((await suite({})).map(({ name }) => name).sort());
});

describe('the suite catches a driver that', () => {
  for (const [what, { breaks, ...mutant }] of Object.entries(MUTANTS)) {
    test(what, async () => {
      const cases = await suite(mutant);
      for (const name of breaks) {
        const found = cases.find((known) => known.name === name);
        await expect(found?.run(), name).rejects.toBeInstanceOf(Error);
      }
    });
  }

  test('leaks a handle', async () => {
    let handles = 0;
    const open = async () => {
      handles += 1;
      const device = { getRegionInfo: async () => ({ index: 7, flags: 3, size: 4096, offset: 0, caps: [] }) };
      return { device: device as unknown as VfioDeviceClient, close: async () => {} };
    };
    const cases = contractCases({ name: 'x', open, handles: () => handles });
    const first = cases.find(({ name }) => name.startsWith('config space is 256'));
    await expect(first?.run()).rejects.toThrow('handles after the case');
  });
});
