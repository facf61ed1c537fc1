import {
  type BusWarning,
  PciBus,
  type PciDriver,
  type PciFunction,
  pciDevice,
  pciDriverOverrideDeviceVfio,
} from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { beforeEach, describe, expect, test } from 'vitest';
import { FakeHost, type FakePf, gate, recordingDriver } from './fake-host.js';

const PF_ID = pciDevice(0x8086, 0x1533);
const VF_ID = pciDevice(0x8086, 0x1520);
const errno = (name: string, text = ''): unknown =>
  expect.objectContaining({ errno: name, message: expect.stringContaining(text) });

let host: FakeHost;
let pf: FakePf;
let bus: PciBus;
let warnings: BusWarning[];

const sriovConfigure: PciDriver['sriovConfigure'] = async (fn, count, onBus) => {
  if (count === 0) await onBus.disableSriov(fn);
  else await onBus.enableSriov(fn, count);
  return count;
};

beforeEach(() => {
  host = new FakeHost();
  pf = host.addPf('0000:01:00.0');
  warnings = [];
  bus = new PciBus(host, { warn: (warning) => warnings.push(warning) });
});

describe('the number of VFs (sriov_numvfs)', () => {
  test('is set through the PF driver; the VFs are on the bus and have been offered to drivers when it is done', async () => {
    await bus.register(recordingDriver('pf', [PF_ID], { sriovConfigure }));
    const vf = recordingDriver('vf', [VF_ID]);
    await bus.register(vf);
    expect(await bus.sriovConfigure(pf.fn, 2)).toBe(2);
    expect(vf.log).toEqual(['probe vf 0000:01:10.0', 'probe vf 0000:01:10.1']);
    expect(bus.functions()).toHaveLength(3);
    expect(await bus.sriovConfigure(pf.fn, 0)).toBe(0);
    expect(vf.log.slice(2)).toEqual(['remove vf 0000:01:10.0', 'remove vf 0000:01:10.1']);
    expect(bus.functions()).toEqual([pf.fn]);
  });

  test('the same number again does nothing, also without a driver', async () => {
    expect(await bus.sriovConfigure(pf.fn, 0)).toBe(0);
    let calls = 0;
    await bus.register(
      recordingDriver('pf', [PF_ID], {
        sriovConfigure: (fn, count, onBus) => {
          calls++;
          return sriovConfigure?.(fn, count, onBus) as Promise<number>;
        },
      }),
    );
    await bus.sriovConfigure(pf.fn, 2);
    expect(await bus.sriovConfigure(pf.fn, 2)).toBe(2);
    expect(calls).toBe(1);
  });

  test.each([-1, 5, 1.5])('%d of 4 is refused with ERANGE', async (count) => {
    await bus.register(recordingDriver('pf', [PF_ID], { sriovConfigure }));
    await expect(bus.sriovConfigure(pf.fn, count)).rejects.toThrow(errno('ERANGE', '0 to 4'));
    expect(pf.vfs).toEqual([]);
  });

  test('without a driver, or with one that has no sriovConfigure, it is refused with ENOENT', async () => {
    await expect(bus.sriovConfigure(pf.fn, 1)).rejects.toThrow(errno('ENOENT', 'no driver'));
    await bus.register(recordingDriver('pf', [PF_ID]));
    await expect(bus.sriovConfigure(pf.fn, 1)).rejects.toThrow(errno('ENOENT', 'no sriovConfigure'));
  });

  test('another number while VFs exist is refused with EBUSY', async () => {
    await bus.register(recordingDriver('pf', [PF_ID], { sriovConfigure }));
    await bus.sriovConfigure(pf.fn, 1);
    await expect(bus.sriovConfigure(pf.fn, 2)).rejects.toThrow(errno('EBUSY', 'disable them'));
    expect(pf.vfs).toHaveLength(1);
  });

  test('a function without SR-IOV is refused with ENODEV', async () => {
    const plain = host.add('0000:02:00.0');
    await expect(bus.sriovConfigure(plain, 1)).rejects.toThrow(errno('ENODEV', 'no SR-IOV'));
    await expect(bus.enableSriov(plain, 1)).rejects.toThrow(errno('ENODEV'));
    await expect(bus.disableSriov(plain)).rejects.toThrow(errno('ENODEV'));
  });

  test('a driver that enables fewer is believed, with a warning', async () => {
    await bus.register(recordingDriver('pf', [PF_ID], { sriovConfigure: () => 1 }));
    expect(await bus.sriovConfigure(pf.fn, 3)).toBe(1);
    expect(warnings).toEqual([expect.objectContaining({ message: '3 VFs asked for; only 1 enabled' })]);
  });

  test('what the driver throws is the error, and the function can be worked on again', async () => {
    await bus.register(
      recordingDriver('pf', [PF_ID], {
        sriovConfigure: () => {
          throw errnoError('ENOENT', 'enable_sriov is off');
        },
      }),
    );
    await expect(bus.sriovConfigure(pf.fn, 1)).rejects.toThrow(errno('ENOENT', 'enable_sriov'));
    await bus.unbind(pf.fn);
  });

  test('a VF whose probe fails stays free; the others and the call are not touched by it', async () => {
    await bus.register(recordingDriver('pf', [PF_ID], { sriovConfigure }));
    const vf = recordingDriver('vf', [VF_ID], {
      probe: (fn) => {
        if (fn.vfIndex === 0) throw errnoError('EIO', 'broken VF');
      },
    });
    await bus.register(vf);
    expect(await bus.sriovConfigure(pf.fn, 2)).toBe(2);
    expect(pf.vfs.map((fn) => bus.driverOf(fn)?.name)).toEqual([undefined, 'vf']);
    expect(warnings).toEqual([expect.objectContaining({ device: '0000:01:10.0' })]);
  });

  test('a driver may enable VFs from its own probe, while its function is still arriving', async () => {
    await bus.register(
      recordingDriver('pf', [pciDevice(0x8086, 0x9999)], { probe: (fn, _, onBus) => onBus.enableSriov(fn, 2) }),
    );
    const late = host.addPf('0000:05:00.0', { fields: { vendor: 0x1af4 } });
    bus.setDriverOverride(pf.fn, 'pf');
    await bus.settled();
    await bus.probe(pf.fn);
    expect(pf.vfs).toHaveLength(2);
    expect(late.vfs).toHaveLength(0);
  });
});

describe('the autoprobe gate', () => {
  let vf: ReturnType<typeof recordingDriver>;
  beforeEach(async () => {
    pf.sriov.driversAutoprobe = false;
    vf = recordingDriver('vf', [VF_ID]);
    await bus.register(recordingDriver('pf', [PF_ID], { sriovConfigure }));
    await bus.register(vf);
    await bus.sriovConfigure(pf.fn, 1);
  });
  const first = (): PciFunction => pf.vfs[0] as PciFunction;

  test('[1.2.7] with sriov_drivers_autoprobe off a VF is not probed, by nobody', async () => {
    expect(vf.log).toEqual([]);
    expect(await bus.probe(first())).toBeUndefined();
    await bus.register(recordingDriver('other', [VF_ID]));
    await bus.newId('other', '8086 1520 8086 1 0 0 0');
    expect(bus.driverOf(first())).toBeUndefined();
    await expect(bus.bind(first(), vf)).rejects.toThrow(errno('ENODEV', 'sriov_drivers_autoprobe'));
  });

  test('[1.2.7] a VF with driver_override is probed nevertheless', async () => {
    bus.setDriverOverride(first(), 'vf');
    expect(await bus.probe(first())).toBe(vf);
  });

  test('[1.2.7] it concerns VFs only: the PF is probed', async () => {
    await bus.unbind(pf.fn);
    expect((await bus.probe(pf.fn))?.name).toBe('pf');
  });
});

describe('capture of new VFs', () => {
  const vfioPf = (name: string): PciDriver =>
    recordingDriver(name, [pciDriverOverrideDeviceVfio(0x8086, 0x1533)], {
      probe: (fn, _, onBus) => void onBus.captureVfs(fn),
      sriovConfigure,
    });

  test('[2.9b] a new VF gets the driver name of its PF as driver_override before any driver sees it', async () => {
    const vf = recordingDriver('vf', [VF_ID]);
    await bus.register(vf);
    // The ops name of this driver is mlx5-vfio-pci: what the kernel would write, and no driver has.
    await bus.register(vfioPf('mlx5_vfio_pci'));
    bus.setDriverOverride(pf.fn, 'mlx5_vfio_pci');
    await bus.probe(pf.fn);
    await bus.sriovConfigure(pf.fn, 1);
    expect(bus.driverOverride(pf.vfs[0] as PciFunction)).toBe('mlx5_vfio_pci');
    expect(vf.log).toEqual([]);
    expect(bus.driverOf(pf.vfs[0] as PciFunction)?.name).toBe('mlx5_vfio_pci');
  });

  test('VFs of another PF are left alone', async () => {
    const other = host.addPf('0000:02:00.0');
    await bus.register(vfioPf('vfio-pci'));
    bus.setDriverOverride(pf.fn, 'vfio-pci');
    await bus.probe(pf.fn);
    await other.sriov.enable(1);
    await bus.settled();
    expect(bus.driverOverride(other.vfs[0] as PciFunction)).toBeUndefined();
  });

  test('[2.9c] a captured VF that goes to another driver is a warning', async () => {
    await bus.register(vfioPf('vfio-pci'));
    bus.setDriverOverride(pf.fn, 'vfio-pci');
    await bus.probe(pf.fn);
    await bus.sriovConfigure(pf.fn, 1);
    const vf = pf.vfs[0] as PciFunction;
    await bus.unbind(vf);
    bus.setDriverOverride(vf, '');
    warnings.length = 0;
    await bus.register(recordingDriver('vf', [VF_ID]));
    expect(bus.driverOf(vf)?.name).toBe('vf');
    expect(warnings).toEqual([
      expect.objectContaining({ device: '0000:01:10.0', message: expect.stringContaining('vfio-pci') }),
    ]);
  });

  test('it ends with the driver of the PF, and by its own handle, once', async () => {
    const stop = bus.captureVfs(pf.fn);
    const second = bus.captureVfs(pf.fn);
    await bus.register(recordingDriver('pf', [], { sriovConfigure }));
    bus.setDriverOverride(pf.fn, 'pf');
    await bus.probe(pf.fn);
    stop();
    stop();
    await bus.sriovConfigure(pf.fn, 1);
    expect(bus.driverOverride(pf.vfs[0] as PciFunction)).toBe('pf');
    await bus.sriovConfigure(pf.fn, 0);
    second();
    await bus.sriovConfigure(pf.fn, 1);
    expect(bus.driverOverride(pf.vfs[0] as PciFunction)).toBeUndefined();
    await bus.sriovConfigure(pf.fn, 0);
    bus.captureVfs(pf.fn);
    await bus.unbind(pf.fn);
    await pf.sriov.enable(1);
    await bus.settled();
    expect(bus.driverOverride(pf.vfs[0] as PciFunction)).toBeUndefined();
  });
});

describe('the PF seen from a VF', () => {
  let pfDriver: PciDriver;
  let vf: PciFunction;
  beforeEach(async () => {
    pfDriver = recordingDriver('pf', [PF_ID], {
      probe: (fn, _, onBus) => onBus.setDrvdata(fn, { hca: 1 }),
      sriovConfigure,
    });
    await bus.register(pfDriver);
    await bus.sriovConfigure(pf.fn, 2);
    vf = pf.vfs[0] as PciFunction;
  });

  test('pciIovGetPfDrvdata gives the driver data of the PF to who knows its driver', () => {
    expect(bus.pciIovGetPfDrvdata(vf, pfDriver)).toEqual({ hca: 1 });
    expect(bus.pciIovGetPfDrvdata(vf, 'pf')).toEqual({ hca: 1 });
  });

  test('pciIovGetPfDrvdata refuses with EINVAL: no VF, another driver, no driver', async () => {
    expect(() => bus.pciIovGetPfDrvdata(pf.fn, pfDriver)).toThrow(errno('EINVAL', 'not a virtual function'));
    expect(() => bus.pciIovGetPfDrvdata(vf, 'mlx5_core')).toThrow(errno('EINVAL', 'driver pf, not mlx5_core'));
    expect(() => bus.pciIovGetPfDrvdata(vf, recordingDriver('pf'))).toThrow(errno('EINVAL'));
    await bus.unbind(pf.fn);
    expect(() => bus.pciIovGetPfDrvdata(vf, pfDriver)).toThrow(errno('EINVAL', 'no driver'));
  });

  test('watchers are told before the PF driver lets go, once, and are waited for', async () => {
    const log: string[] = [];
    const wait = gate();
    bus.watchPf(vf, async (which) => {
      log.push(`told of ${which.address}, data ${JSON.stringify(bus.pciIovGetPfDrvdata(vf, pfDriver))}`);
      await wait.promise;
      log.push('done');
    });
    const unbinding = bus.unbind(pf.fn);
    expect(log).toEqual(['told of 0000:01:00.0, data {"hca":1}']);
    wait.open();
    await unbinding;
    expect(log.at(-1)).toBe('done');
    await bus.probe(pf.fn);
    await bus.unbind(pf.fn);
    expect(log).toHaveLength(2);
  });

  test('a watcher that throws does not keep the others or the driver', async () => {
    let told = false;
    bus.watchPf(vf, () => {
      throw new Error('confused');
    });
    bus.watchPf(pf.vfs[1] as PciFunction, () => {
      told = true;
    });
    await expect(bus.unbind(pf.fn)).rejects.toThrow('confused');
    expect(told).toBe(true);
    expect(bus.driverOf(pf.fn)).toBeUndefined();
  });

  test("a watcher ends by its handle, and with the VF's own driver", async () => {
    const log: string[] = [];
    const stop = bus.watchPf(vf, () => void log.push('stopped one'));
    stop();
    stop();
    await bus.register(
      recordingDriver('vf', [VF_ID], {
        probe: (fn, _, onBus) => void onBus.watchPf(fn, () => void log.push(fn.address)),
      }),
    );
    await bus.unbind(vf);
    await bus.unbind(pf.fn);
    expect(log).toEqual(['0000:01:10.1']);
  });

  test('the PF going away from the host is told as well', async () => {
    const log: string[] = [];
    bus.watchPf(vf, (which) => void log.push(which.address));
    await host.take(pf.fn);
    expect(log).toEqual(['0000:01:00.0']);
  });

  test('a function that is no VF has no PF to watch: EINVAL', () => {
    expect(() => bus.watchPf(pf.fn, () => {})).toThrow(errno('EINVAL'));
  });
});
