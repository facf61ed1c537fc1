import {
  type BusWarning,
  PciBus,
  type PciDriver,
  type PciFunction,
  pciDevice,
  pciDeviceId,
  pciDriverOverrideDeviceVfio,
} from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { beforeEach, describe, expect, test } from 'vitest';
import { FakeHost, gate, recordingDriver } from './fake-host.js';

const NIC = pciDevice(0x8086, 0x1533);
const errno = (name: string, text = ''): unknown =>
  expect.objectContaining({ errno: name, message: expect.stringContaining(text) });

let host: FakeHost;
let fn: PciFunction;
let bus: PciBus;
let warnings: BusWarning[];

beforeEach(() => {
  host = new FakeHost();
  fn = host.add('0000:01:00.0');
  warnings = [];
  bus = new PciBus(host, { warn: (warning) => warnings.push(warning) });
});

describe('register and unregister', () => {
  test('a new driver gets every free function that it matches, in the order of the host', async () => {
    host.add('0000:02:00.0');
    host.add('0000:00:1f.0', { vendor: 1 });
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    expect(nic.log).toEqual(['probe nic 0000:01:00.0', 'probe nic 0000:02:00.0']);
    expect(bus.driverOf(fn)).toBe(nic);
    expect(bus.isBound(fn)).toBe(true);
  });

  test('probe is told by which row the function was matched', async () => {
    const seen: unknown[] = [];
    const rows = [pciDevice(1, 1), pciDeviceId({ vendor: 0x8086, driverData: 42 })];
    await bus.register(recordingDriver('nic', rows, { probe: (_, id, onBus) => void seen.push(id, onBus) }));
    expect(seen).toEqual([rows[1], bus]);
    expect(seen[1]).toBe(bus);
  });

  test('a function with a driver is left with it', async () => {
    await bus.register(recordingDriver('first', [NIC]));
    const second = recordingDriver('second', [NIC]);
    await bus.register(second);
    expect(second.log).toEqual([]);
    expect(bus.drivers().map(({ name }) => name)).toEqual(['first', 'second']);
  });

  test('a name that is taken is refused with EBUSY, a driver that breaks the rules with EINVAL', async () => {
    await bus.register(recordingDriver('nic'));
    await expect(bus.register(recordingDriver('nic'))).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_EXISTS', errno: 'EBUSY' }),
    );
    await expect(bus.register(recordingDriver('a/b'))).rejects.toThrow(errno('EINVAL'));
    expect(bus.drivers()).toHaveLength(1);
  });

  test('a probe that fails leaves the function free and the driver registered, and is told as a warning', async () => {
    const nic = recordingDriver('nic', [NIC], {
      probe: () => {
        throw errnoError('EIO', 'link is dead');
      },
    });
    await bus.register(nic);
    expect(bus.driverOf(fn)).toBeUndefined();
    expect(bus.driver('nic')).toBe(nic);
    expect(warnings).toEqual([
      expect.objectContaining({ device: '0000:01:00.0', message: expect.stringContaining('link is dead') }),
    ]);
  });

  test.each(['ENODEV', 'ENXIO'] as const)('a probe that declines with %s is no warning', async (name) => {
    await bus.register(
      recordingDriver('nic', [NIC], {
        probe: () => {
          throw errnoError(name, 'not mine');
        },
      }),
    );
    expect(bus.driverOf(fn)).toBeUndefined();
    expect(warnings).toEqual([]);
  });

  test('unregister takes all functions away, then the driver is gone', async () => {
    host.add('0000:02:00.0');
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    await bus.unregister(nic);
    expect(nic.log.slice(2).sort()).toEqual(['remove nic 0000:01:00.0', 'remove nic 0000:02:00.0']);
    expect(bus.driverOf(fn)).toBeUndefined();
    await expect(bus.unregister(nic)).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_NO_DRIVER', errno: 'ENODEV' }),
    );
  });

  test('unregister frees every function even when a remove throws, and tells the first error', async () => {
    const other = host.add('0000:02:00.0');
    const nic = recordingDriver('nic', [NIC], {
      remove: (which) => {
        throw new Error(`stuck ${which.address}`);
      },
    });
    await bus.register(nic);
    await expect(bus.unregister(nic)).rejects.toThrow('stuck 0000:02:00.0');
    expect(bus.driverOf(fn)).toBeUndefined();
    expect(bus.driverOf(other)).toBeUndefined();
  });

  test('unregister waits for a probe that is under way, then takes the function away', async () => {
    const wait = gate();
    const log: string[] = [];
    const nic = recordingDriver('nic', [NIC], { probe: () => wait.promise.then(() => void log.push('probed')) }, log);
    const registering = bus.register(nic);
    const unregistering = bus.unregister(nic);
    wait.open();
    await Promise.all([registering, unregistering]);
    expect(log).toEqual(['probed', 'remove nic 0000:01:00.0']);
    expect(bus.driverOf(fn)).toBeUndefined();
  });
});

describe('probe: drivers_probe', () => {
  test('drivers are tried in the order of registration until one takes the function', async () => {
    bus.setDriverOverride(fn, 'nobody');
    const log: string[] = [];
    const failing = recordingDriver('failing', [NIC], {
      probe: () => {
        log.push('failing');
        throw errnoError('ENODEV', 'not mine');
      },
    });
    await bus.register(failing);
    await bus.register(recordingDriver('taker', [NIC], {}, log));
    await bus.register(recordingDriver('late', [NIC], {}, log));
    expect(log).toEqual([]);
    bus.setDriverOverride(fn, '');
    expect((await bus.probe(fn))?.name).toBe('taker');
    expect(log).toEqual(['failing', 'probe taker 0000:01:00.0']);
  });

  test('gives undefined where no driver matches, and the driver where there is one already', async () => {
    expect(await bus.probe(fn)).toBeUndefined();
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    expect(await bus.probe(fn)).toBe(nic);
    expect(nic.log).toHaveLength(1);
  });
});

describe('bind and unbind', () => {
  test('bind gives a free function to the driver that is named', async () => {
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    await bus.unbind(fn);
    expect(bus.driverOf(fn)).toBeUndefined();
    await bus.bind(fn, 'nic');
    expect(bus.driverOf(fn)).toBe(nic);
    expect(nic.log).toEqual(['probe nic 0000:01:00.0', 'remove nic 0000:01:00.0', 'probe nic 0000:01:00.0']);
  });

  test('bind refuses: a driver that is not registered or does not match ENODEV, a function that is taken EBUSY', async () => {
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    await bus.register(recordingDriver('other', [pciDevice(1, 1)]));
    await expect(bus.bind(fn, 'none')).rejects.toThrow(errno('ENODEV', 'not registered'));
    await expect(bus.bind(fn, 'other')).rejects.toThrow(errno('ENODEV', 'does not match'));
    await expect(bus.bind(fn, 'nic')).rejects.toThrow(errno('EBUSY', 'has a driver, nic'));
    await expect(bus.bind(fn, recordingDriver('nic', [NIC]))).rejects.toThrow(errno('ENODEV', 'not registered'));
    expect(bus.driverOf(fn)).toBe(nic);
  });

  test('[1.2.1] bind of a function whose driver_override names another driver is refused with ENODEV', async () => {
    bus.setDriverOverride(fn, 'vfio-pci');
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    await expect(bus.bind(fn, nic)).rejects.toThrow(errno('ENODEV', '"vfio-pci"'));
    expect(nic.log).toEqual([]);
  });

  test('a probe that fails is the error of bind; the function is free and its driver data forgotten', async () => {
    const nic = recordingDriver('nic', [], {
      probe: async (which, _, onBus) => {
        onBus.setDrvdata(which, 'half done');
        throw errnoError('ENOMEM', 'no memory');
      },
    });
    await bus.register(nic);
    bus.setDriverOverride(fn, 'nic');
    await expect(bus.bind(fn, nic)).rejects.toThrow(errno('ENOMEM', 'no memory'));
    expect(bus.driverOf(fn)).toBeUndefined();
    expect(bus.isBound(fn)).toBe(false);
    expect(bus.getDrvdata(fn)).toBeUndefined();
    expect(bus.driverOverride(fn)).toBe('nic');
  });

  test('unbind of a function without a driver is refused with ENODEV', async () => {
    await expect(bus.unbind(fn)).rejects.toThrow(errno('ENODEV', 'no driver'));
  });

  test('a remove that throws is the error of unbind, and the function is free nevertheless', async () => {
    await bus.register(recordingDriver('nic', [NIC], { remove: () => Promise.reject(new Error('stuck')) }));
    await expect(bus.unbind(fn)).rejects.toThrow('stuck');
    expect(bus.driverOf(fn)).toBeUndefined();
  });

  test('driver data are kept until remove has ended', async () => {
    const seen: unknown[] = [];
    const nic = recordingDriver('nic', [NIC], {
      probe: (which, _, onBus) => onBus.setDrvdata(which, { port: 1 }),
      remove: (which, onBus) => void seen.push(onBus.getDrvdata(which)),
    });
    await bus.register(nic);
    expect(bus.getDrvdata(fn)).toEqual({ port: 1 });
    await bus.unbind(fn);
    expect(seen).toEqual([{ port: 1 }]);
    expect(bus.getDrvdata(fn)).toBeUndefined();
  });

  test('an operation on a function that another one holds is refused with EBUSY, and the first goes on', async () => {
    const wait = gate();
    const nic = recordingDriver('nic', [], { probe: () => wait.promise });
    await bus.register(nic);
    bus.setDriverOverride(fn, 'nic');
    const first = bus.bind(fn, nic);
    expect(bus.driverOf(fn)).toBe(nic);
    expect(bus.isBound(fn)).toBe(false);
    await expect(bus.bind(fn, nic)).rejects.toThrow(errno('EBUSY', 'bind is under way'));
    await expect(bus.unbind(fn)).rejects.toThrow(errno('EBUSY'));
    await expect(bus.probe(fn)).rejects.toThrow(errno('EBUSY'));
    await expect(bus.bindOverride(fn, 'nic')).rejects.toThrow(errno('EBUSY'));
    expect(() => bus.setDriverOverride(fn, '')).toThrow(errno('EBUSY'));
    wait.open();
    await first;
    expect(bus.isBound(fn)).toBe(true);
    await bus.unbind(fn);
  });

  test('functions are independent: one that is being probed does not hold up another', async () => {
    const other = host.add('0000:02:00.0');
    const wait = gate();
    const nic = recordingDriver('nic', [], { probe: (which) => (which === fn ? wait.promise : undefined) });
    await bus.register(nic);
    for (const which of [fn, other]) bus.setDriverOverride(which, 'nic');
    const slow = bus.bind(fn, nic);
    await bus.bind(other, nic);
    expect(bus.isBound(other)).toBe(true);
    wait.open();
    await slow;
  });
});

describe('driver_override', () => {
  test('[1.2.8d] setting it neither unbinds nor binds', async () => {
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    bus.setDriverOverride(fn, 'vfio-pci\n');
    expect(bus.driverOverride(fn)).toBe('vfio-pci');
    expect(bus.driverOf(fn)).toBe(nic);
    bus.setDriverOverride(fn, '\n');
    expect(bus.driverOverride(fn)).toBeUndefined();
  });

  test('a value that is refused leaves the old one', () => {
    bus.setDriverOverride(fn, 'vfio-pci');
    expect(() => bus.setDriverOverride(fn, 'x'.repeat(4095))).toThrow(errno('EINVAL'));
    expect(bus.driverOverride(fn)).toBe('vfio-pci');
  });

  test('match says by which row a driver would take the function now', async () => {
    const vfio = recordingDriver('vfio', [pciDriverOverrideDeviceVfio(0x8086, 0x1533)]);
    await bus.register(vfio);
    expect(bus.match(vfio, fn)).toBeUndefined();
    bus.setDriverOverride(fn, 'vfio');
    expect(bus.match('vfio', fn)).toBe(vfio.idTable[0]);
  });
});

describe('dynamic ids', () => {
  let vfio: ReturnType<typeof recordingDriver>;
  beforeEach(async () => {
    vfio = recordingDriver('vfio-pci', [pciDeviceId({ overrideOnly: 1 })]);
    await bus.register(vfio);
  });

  test('[1.2.9g] new_id lets the driver have every free function that matches at once', async () => {
    expect(vfio.log).toEqual([]);
    await bus.newId(vfio, '8086 1533');
    expect(bus.driverOf(fn)).toBe(vfio);
  });

  test('new_id does not take a function from another driver', async () => {
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    await bus.newId(vfio, '8086 1533');
    expect(bus.driverOf(fn)).toBe(nic);
  });

  test('remove_id leaves functions with the driver but takes no new ones', async () => {
    await bus.newId(vfio, '8086 1533');
    bus.removeId(vfio, '8086 1533');
    expect(bus.dynamicIds(vfio)).toEqual([]);
    expect(bus.driverOf(fn)).toBe(vfio);
    await bus.unbind(fn);
    expect(await bus.probe(fn)).toBeUndefined();
    expect(() => bus.removeId(vfio, '8086 1533')).toThrow(errno('ENODEV'));
  });

  test('[1.2.9h] ids= adds without the duplicate test, skips a bad item with a warning, and attaches', async () => {
    const skipped = await bus.addIds(vfio, '8086:1533,bad,8086:1533');
    expect(skipped).toHaveLength(1);
    expect(bus.dynamicIds('vfio-pci')).toHaveLength(2);
    expect(bus.driverOf(fn)).toBe(vfio);
  });

  test('a new_id that is refused adds nothing', async () => {
    await expect(bus.newId(vfio, '8086')).rejects.toThrow(errno('EINVAL'));
    expect(bus.dynamicIds(vfio)).toEqual([]);
    expect(bus.driverOf(fn)).toBeUndefined();
  });

  test('a driver that is not registered has no dynamic ids', async () => {
    await expect(bus.newId('none', '8086 1533')).rejects.toThrow(errno('ENODEV'));
    expect(() => bus.dynamicIds('none')).toThrow(errno('ENODEV'));
  });
});

describe('functions that come and go', () => {
  test('a function that appears is offered to the drivers', async () => {
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    const late = host.add('0000:02:00.0');
    await bus.settled();
    expect(bus.driverOf(late)).toBe(nic);
    expect(bus.functions()).toEqual([fn, late]);
  });

  test('a function that goes is taken from its driver first, and forgotten with its driver_override', async () => {
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    bus.setDriverOverride(fn, 'x');
    await host.take(fn);
    expect(nic.log.at(-1)).toBe('remove nic 0000:01:00.0');
    expect(() => bus.driverOf(fn)).toThrow(errno('ENODEV'));
    const again = host.add('0000:01:00.0');
    await bus.settled();
    expect(bus.driverOverride(again)).toBeUndefined();
    expect(bus.driverOf(again)).toBe(nic);
    expect(() => bus.driverOf(fn)).toThrow(errno('ENODEV'));
  });

  test('a function that goes while it is probed is waited for, and gets nothing new', async () => {
    const wait = gate();
    const nic = recordingDriver('nic', [], { probe: () => wait.promise });
    await bus.register(nic);
    bus.setDriverOverride(fn, 'nic');
    const binding = bus.bind(fn, nic);
    const going = host.take(fn);
    await expect(bus.bind(fn, nic)).rejects.toThrow(errno('EBUSY'));
    wait.open();
    await Promise.all([binding, going]);
    expect(nic.log).toEqual(['remove nic 0000:01:00.0']);
    await expect(bus.bind(fn, nic)).rejects.toThrow(errno('ENODEV'));
  });

  test('a function that comes to an address while a driver still lets go of the one before waits for that', async () => {
    const wait = gate();
    const data: unknown[] = [];
    const nic = recordingDriver('nic', [NIC], {
      remove: async (removed) => {
        await wait.promise;
        data.push(bus.getDrvdata(removed));
      },
    });
    await bus.register(nic);
    bus.setDrvdata(fn, 'first');
    const going = bus.remove(fn);
    const next = host.add('0000:01:00.0');
    wait.open();
    await Promise.all([going, bus.settled()]);
    expect(data).toEqual(['first']);
    expect(bus.driverOf(next)).toBe(nic);
    expect(bus.functions()).toEqual([next]);
  });

  test('remove takes a function off the bus and rescan takes it up again, with its driver', async () => {
    const nic = recordingDriver('nic', [NIC]);
    await bus.register(nic);
    await bus.remove(fn);
    expect(bus.functions()).toEqual([]);
    await bus.remove(fn);
    await bus.rescan();
    expect(bus.driverOf(fn)).toBe(nic);
    expect(nic.log).toHaveLength(3);
  });

  test('a function of another bus is refused with ENODEV', async () => {
    const stranger = new FakeHost().add('0000:01:00.0');
    expect(() => bus.driverOverride(stranger)).toThrow(errno('ENODEV'));
    await expect(bus.probe(stranger)).rejects.toThrow(errno('ENODEV'));
  });

  test('close unregisters all drivers, last first, and stops listening', async () => {
    const log: string[] = [];
    const other = host.add('0000:02:00.0', { vendor: 1 });
    await bus.register(recordingDriver('one', [NIC], {}, log));
    await bus.register(recordingDriver('two', [pciDeviceId({ vendor: 1 })], {}, log));
    await bus.probe(other);
    log.length = 0;
    await bus.close();
    expect(log).toEqual(['remove two 0000:02:00.0', 'remove one 0000:01:00.0']);
    expect(bus.drivers()).toEqual([]);
    expect(host.watchers).toBe(0);
  });

  test('the ops registry is the one that was given, and its absence is an error that says what to do', () => {
    expect(() => bus.ops).toThrow(expect.objectContaining({ code: 'ERR_VFIO_STATE' }));
    // The bus hands it on and never looks into it.
    const ops = {} as PciBus['ops'];
    expect(new PciBus(host, { ops }).ops).toBe(ops);
  });
});

describe('errors and resets of a function', () => {
  test('reach the driver from the end of its probe to the beginning of its remove', async () => {
    const pf = host.addPf('0000:03:00.0');
    const seen: string[] = [];
    const nic: PciDriver = recordingDriver('nic', [NIC], {
      errorHandlers: {
        errorDetected: (which) => void seen.push(`${which.address} failed`),
        resetDone: (which) => void seen.push(`${which.address} was reset`),
      },
    });
    await bus.register(nic);
    await bus.probe(pf.fn);
    pf.happen('error-detected');
    pf.happen('reset-done');
    expect(seen).toEqual(['0000:03:00.0 failed', '0000:03:00.0 was reset']);
    await bus.unbind(pf.fn);
    expect(pf.watchesErrors()).toBe(false);
  });

  test('are not listened to for a driver without a handler', async () => {
    const pf = host.addPf('0000:03:00.0');
    await bus.register(recordingDriver('nic', [NIC]));
    expect(pf.watchesErrors()).toBe(false);
  });
});
