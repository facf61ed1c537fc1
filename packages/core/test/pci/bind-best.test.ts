import {
  type BusWarning,
  type DriverSource,
  driverSourceOf,
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

const errno = (name: string, text = ''): unknown =>
  expect.objectContaining({ errno: name, message: expect.stringContaining(text) });

let host: FakeHost;
let fn: PciFunction;
let bus: PciBus;
let warnings: BusWarning[];
let log: string[];
let generic: PciDriver;
let variant: PciDriver;
let nic: PciDriver;

beforeEach(async () => {
  host = new FakeHost();
  fn = host.add('0000:01:00.0');
  warnings = [];
  log = [];
  bus = new PciBus(host, { warn: (warning) => warnings.push(warning) });
  generic = recordingDriver('vfio-pci', [pciDeviceId({ overrideOnly: 1 })], {}, log);
  variant = recordingDriver('igb_vfio_pci', [pciDriverOverrideDeviceVfio(0x8086, 0x1533)], {}, log);
  nic = recordingDriver('igb', [pciDevice(0x8086, 0x1533)], {}, log);
});

/** Everything that a bind which fails must leave as it was. */
function state(): unknown {
  return {
    driver: bus.driverOf(fn)?.name,
    bound: bus.isBound(fn),
    override: bus.driverOverride(fn),
    drvdata: bus.getDrvdata(fn),
    drivers: bus.drivers().map(({ name }) => name),
  };
}

describe('bindBest', () => {
  test('[1.4] gives the function to the best driver: registers it, sets driver_override, takes the function, probes', async () => {
    await bus.register(nic);
    const driver = await bus.bindBest(fn, driverSourceOf([generic, variant]));
    expect(driver).toBe(variant);
    expect(log).toEqual(['probe igb 0000:01:00.0', 'remove igb 0000:01:00.0', 'probe igb_vfio_pci 0000:01:00.0']);
    expect(state()).toMatchObject({
      driver: 'igb_vfio_pci',
      override: 'igb_vfio_pci',
      drivers: ['igb', 'igb_vfio_pci'],
    });
  });

  test('[12.2] driver_override is the driver name as it is, dashes and all', async () => {
    await bus.bindBest(fn, driverSourceOf([generic]));
    expect(bus.driverOverride(fn)).toBe('vfio-pci');
  });

  test('uses a driver that is registered already, and loads nothing', async () => {
    await bus.register(variant);
    const source: DriverSource = {
      best: () => ({ driver: 'igb_vfio_pci' }),
      load: () => {
        throw new Error('not needed');
      },
    };
    expect(await bus.bindBest(fn, source)).toBe(variant);
  });

  test('does nothing where the best driver has the function already', async () => {
    await bus.bindBest(fn, driverSourceOf([variant]));
    log.length = 0;
    bus.setDriverOverride(fn, '');
    expect(await bus.bindBest(fn, driverSourceOf([variant]))).toBe(variant);
    expect(log).toEqual([]);
    expect(bus.driverOverride(fn)).toBeUndefined();
  });

  test('no driver that matches is ENODEV, and nothing is touched', async () => {
    await bus.register(nic);
    const before = state();
    await expect(bus.bindBest(fn, driverSourceOf([]))).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_NO_DRIVER', errno: 'ENODEV', device: '0000:01:00.0' }),
    );
    expect(state()).toEqual(before);
    expect(log).toEqual(['probe igb 0000:01:00.0']);
  });

  test('[1.5] nothing is touched before the new driver is at hand: a load that fails unbinds nobody', async () => {
    await bus.register(nic);
    const before = state();
    const source: DriverSource = {
      best: () => ({ driver: 'igb_vfio_pci' }),
      load: async () => {
        throw errnoError('ENOENT', 'module not found');
      },
    };
    await expect(bus.bindBest(fn, source)).rejects.toThrow(errno('ENOENT', 'module not found'));
    expect(state()).toEqual(before);
    expect(log).toEqual(['probe igb 0000:01:00.0']);
  });

  test('a driver that calls itself otherwise than the alias says is refused before anything is touched', async () => {
    await bus.register(nic);
    const before = state();
    const source: DriverSource = { best: () => ({ driver: 'igb_vfio_pci' }), load: () => generic };
    await expect(bus.bindBest(fn, source)).rejects.toThrow(
      expect.objectContaining({
        code: 'ERR_VFIO_BAD_DRIVER',
        message: expect.stringContaining('calls itself "vfio-pci"'),
      }),
    );
    expect(state()).toEqual(before);
  });

  describe('when the probe fails', () => {
    const failing = (name: string): PciDriver =>
      recordingDriver(
        name,
        [pciDriverOverrideDeviceVfio(0x8086, 0x1533)],
        {
          probe: (which, _, onBus) => {
            log.push(`probe ${name} fails`);
            onBus.setDrvdata(which, 'half done');
            throw errnoError('EINVAL', 'denylisted');
          },
        },
        log,
      );

    test('[1.5] the function is back with its old driver, driver_override is what it was, the new driver is gone', async () => {
      bus.setDriverOverride(fn, 'igb');
      await bus.register(nic);
      const before = state();
      await expect(bus.bindBest(fn, driverSourceOf([failing('broken')]))).rejects.toThrow(
        errno('EINVAL', 'denylisted; the function is back with igb'),
      );
      expect(state()).toEqual(before);
      expect(log).toEqual([
        'probe igb 0000:01:00.0',
        'remove igb 0000:01:00.0',
        'probe broken fails',
        'probe igb 0000:01:00.0',
      ]);
    });

    test('a function that had no driver is free again', async () => {
      const before = state();
      await expect(bus.bindBest(fn, driverSourceOf([failing('broken')]))).rejects.toThrow(
        errno('EINVAL', 'no driver, as before'),
      );
      expect(state()).toEqual(before);
    });

    test('a driver that was registered before stays', async () => {
      const broken = failing('broken');
      await bus.register(broken);
      await expect(bus.bindBest(fn, driverSourceOf([broken]))).rejects.toThrow(errno('EINVAL'));
      expect(bus.driver('broken')).toBe(broken);
    });

    test('a driver that was registered for this call stays where another function uses it by now', async () => {
      const other = host.add('0000:02:00.0');
      const wait = gate();
      const partly = recordingDriver('partly', [pciDriverOverrideDeviceVfio(0x8086, 0x1533)], {
        probe: async (which) => {
          await wait.promise;
          if (which === fn) throw errnoError('EIO', 'this one not');
        },
      });
      const source = driverSourceOf([partly]);
      const first = bus.bindBest(fn, source);
      const second = bus.bindBest(other, source);
      wait.open();
      await expect(first).rejects.toThrow(errno('EIO'));
      await second;
      expect(bus.driverOf(other)).toBe(partly);
      expect(bus.driver('partly')).toBe(partly);
    });

    test('the old driver comes back by the row that it had, also after its dynamic id has been removed', async () => {
      const rows: unknown[] = [];
      const plain = recordingDriver('plain', [], { probe: (_, id) => void rows.push(id) });
      await bus.register(plain);
      await bus.newId(plain, '8086 1533');
      bus.removeId(plain, '8086 1533');
      await expect(bus.bindBest(fn, driverSourceOf([failing('broken')]))).rejects.toThrow(errno('EINVAL'));
      expect(bus.driverOf(fn)).toBe(plain);
      expect(rows).toHaveLength(2);
      expect(rows[1]).toBe(rows[0]);
    });

    test('an old driver that does not take it back leaves it free, and the error says so', async () => {
      let probes = 0;
      await bus.register(
        recordingDriver('once', [pciDevice(0x8086, 0x1533)], {
          probe: () => {
            if (++probes > 1) throw errnoError('EIO', 'dead now');
          },
        }),
      );
      await expect(bus.bindBest(fn, driverSourceOf([failing('broken')]))).rejects.toThrow(
        errno('EINVAL', 'without a driver, because once did not take it back: dead now'),
      );
      expect(state()).toMatchObject({ driver: undefined, override: undefined, drivers: ['once'] });
    });

    test('an error that is none of ours comes as EIO with its cause', async () => {
      const cause = new TypeError('undefined is not a function');
      const broken = recordingDriver('broken', [pciDriverOverrideDeviceVfio(0x8086, 0x1533)], {
        probe: () => Promise.reject(cause),
      });
      await expect(bus.bindBest(fn, driverSourceOf([broken]))).rejects.toThrow(
        expect.objectContaining({ errno: 'EIO', cause }),
      );
    });
  });

  test('an old driver whose remove fails keeps the function: it is probed again', async () => {
    let stuck = true;
    const old = recordingDriver(
      'old',
      [pciDevice(0x8086, 0x1533)],
      {
        remove: () => {
          if (stuck) throw errnoError('EBUSY', 'in use');
        },
      },
      log,
    );
    await bus.register(old);
    await expect(bus.bindBest(fn, driverSourceOf([variant]))).rejects.toThrow(errno('EBUSY', 'back with old'));
    expect(state()).toMatchObject({ driver: 'old', override: undefined, drivers: ['old'] });
    expect(log).toEqual(['probe old 0000:01:00.0', 'probe old 0000:01:00.0']);
    stuck = false;
  });

  test('two at once on one function: the second is refused with EBUSY while the first loads', async () => {
    const wait = gate();
    const source: DriverSource = {
      best: () => ({ driver: 'igb_vfio_pci' }),
      load: async () => {
        await wait.promise;
        return variant;
      },
    };
    const first = bus.bindBest(fn, source);
    await expect(bus.bindBest(fn, source)).rejects.toThrow(errno('EBUSY', 'bindBest is under way'));
    wait.open();
    expect(await first).toBe(variant);
  });

  test('two functions at once share the driver that both have loaded', async () => {
    const other = host.add('0000:02:00.0');
    const source = driverSourceOf([variant]);
    const slow: DriverSource = { best: (which) => source.best(which), load: async (name) => source.load(name) };
    await Promise.all([bus.bindBest(fn, slow), bus.bindBest(other, slow)]);
    expect(bus.driverOf(other)).toBe(variant);
    expect(bus.drivers()).toEqual([variant]);
  });

  test('a function that the host takes away meanwhile is not given to anybody', async () => {
    const wait = gate();
    await bus.register(recordingDriver('old', [pciDevice(0x8086, 0x1533)], { remove: () => wait.promise }));
    const binding = bus.bindBest(fn, driverSourceOf([variant]));
    const going = host.take(fn);
    wait.open();
    await expect(binding).rejects.toThrow(errno('ENODEV', 'being removed'));
    await going;
    expect(log).toEqual([]);
    expect(bus.functions()).toEqual([]);
  });

  test('the autoprobe gate does not hold it back: the driver is asked for by name', async () => {
    const pf = host.addPf('0000:03:00.0', { driversAutoprobe: false });
    await pf.sriov.enable(1);
    await bus.settled();
    const vf = pf.vfs[0] as PciFunction;
    await bus.bindBest(vf, driverSourceOf([generic]));
    expect(bus.driverOf(vf)).toBe(generic);
  });
});

describe('bindOverride', () => {
  test('[1.6] a driver that is named is taken without a search: the way around a variant', async () => {
    const source = driverSourceOf([generic, variant]);
    expect(await bus.bindOverride(fn, 'vfio-pci', source)).toBe(generic);
    expect(bus.driverOverride(fn)).toBe('vfio-pci');
    expect(await bus.bindBest(fn, source)).toBe(variant);
  });

  test('[12.1] works for a driver without any table', async () => {
    const stub = recordingDriver('pci-stub');
    await bus.register(stub);
    expect(await bus.bindOverride(fn, 'pci-stub')).toBe(stub);
  });

  test('a name that nobody has is ENODEV and says which there are, and nothing is touched', async () => {
    await bus.register(nic);
    const before = state();
    await expect(bus.bindOverride(fn, 'vfio_pci', driverSourceOf([generic, variant]))).rejects.toThrow(
      errno('ENODEV', 'there are igb_vfio_pci, vfio-pci'),
    );
    await expect(bus.bindOverride(fn, 'vfio_pci')).rejects.toThrow(errno('ENODEV'));
    expect(state()).toEqual(before);
  });
});
