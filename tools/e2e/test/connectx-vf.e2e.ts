import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deviceOf, type MigrationData, OpsRegistry, PciBus, type PciFunction } from '@vfio/core';
import { type CommandRecord, ConnectX, type ConnectXVf, EmulatedPciHost } from '@vfio/emulated';
import { mlx5VfioPciDriver } from '@vfio/mlx5-vfio-pci';
import { mlx5CoreDriver } from '@vfio/mlx5-vfio-pci/hca';
import {
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '@vfio/uapi';
import { VfioUserServer } from '@vfio/vfio-user';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Guest } from '../src/guest.js';
import { boot, showLogsOfFailures } from './support.js';

showLogsOfFailures();

/** Behind the guest's root port. */
const ADDRESS = '0000:01:00.0';
const COMPLAINTS = `dmesg --level=emerg,alert,crit,err,warn | grep -E 'mlx5|WARNING|BUG|Call Trace' || true`;

// The physical function is ours, driven in this process: the guest has a virtual one of it, alone.
describe('a guest with a virtual function of our ConnectX', () => {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-'));
  const socket = join(folder, 'device');
  const commands: CommandRecord[] = [];
  let vf: ConnectXVf;
  let fn: PciFunction;
  let server: VfioUserServer;
  let bus: PciBus;
  let guest: Guest;

  beforeAll(async () => {
    const host = new EmulatedPciHost();
    host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
    const models: ConnectX[] = [];
    const pf = host.add({
      address: '0000:01:00.0',
      model(ctx) {
        const model = new ConnectX(ctx, { onCommand: (record) => commands.push(record) });
        models.push(model);
        return model;
      },
    });
    bus = new PciBus(host, { ops: new OpsRegistry() });
    await bus.register(mlx5CoreDriver());
    await bus.register(mlx5VfioPciDriver());
    await bus.bindOverride(pf, 'mlx5_core');
    await bus.sriovConfigure(pf, 1);
    const found = host.find('0000:01:00.1');
    const model = models[0]?.virtualFunctions.get(0);
    if (found === undefined || model === undefined) throw new Error('no virtual function');
    fn = found;
    vf = model;
    await bus.bindOverride(fn, 'mlx5_vfio_pci');
    server = new VfioUserServer(deviceOf(bus, fn));
    await server.listen(socket);
    guest = await boot({
      name: 'connectx-vf',
      cpus: 2,
      rootPorts: ['port0'],
      devices: [{ driver: 'vfio-user-pci', socket: { type: 'unix', path: socket }, id: 'connectx', bus: 'port0' }],
    });
  });
  afterAll(async () => {
    await guest?.kill();
    await server?.close();
    await bus?.close();
    rmSync(folder, { recursive: true });
  });
  beforeEach(() => {
    commands.length = 0;
  });

  /** Commands of the guest's driver that were refused. */
  const refused = () => commands.filter(({ functionId, status }) => functionId === 1 && status !== 0);

  test('is booted by the stock mlx5_core, without a warning and with every command understood', async () => {
    await guest.ok('modprobe mlx5_core');
    expect(await guest.ok(`basename $(readlink /sys/bus/pci/devices/${ADDRESS}/driver)`)).toBe('mlx5_core\n');
    expect(await guest.ok(COMPLAINTS)).toBe('');
    expect(refused()).toEqual([]);
    expect(vf.hca.phase).toBe('initialized');
    expect(vf.hca.driverVersion).toMatch(/^Linux,mlx5_core,/);
  });

  test('is stopped, saved, loaded and let go on under the driver, which notices nothing', async () => {
    // A second user beside the server, for which the guest's client has no way.
    await using device = await deviceOf(bus, fn).open();
    const setState = async (state: number) =>
      (
        (await device.deviceFeature({
          flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET,
          value: { state },
        })) as { data: MigrationData | undefined }
      ).data;
    const parts: Uint8Array[] = [];
    const saving = await setState(VFIO_DEVICE_STATE_STOP_COPY);
    for (;;) {
      const part = new Uint8Array(0x10000);
      const count = (await saving?.read(part)) ?? 0;
      if (count === 0) break;
      parts.push(part.subarray(0, count));
    }
    const { eventQueues, uars } = vf.hca;
    const created = [eventQueues.size, uars.size];
    expect(created).not.toContain(0);
    await setState(VFIO_DEVICE_STATE_STOP);
    const resuming = await setState(VFIO_DEVICE_STATE_RESUMING);
    // All that the driver had created comes out of the stream.
    vf.hca.dropResources();
    for (const part of parts) await resuming?.write(part);
    await setState(VFIO_DEVICE_STATE_RUNNING);
    expect([eventQueues.size, uars.size]).toEqual(created);
    expect(refused()).toEqual([]);
    // Its health is looked at every two seconds.
    await guest.ok('sleep 5');
    expect(await guest.ok(COMPLAINTS)).toBe('');
  });

  test('gets everything back when the module goes, and boots again', async () => {
    await guest.ok('rmmod mlx5_core');
    expect(refused()).toEqual([]);
    expect(vf.hca.phase).toBe('disabled');
    await guest.ok('modprobe mlx5_core');
    expect(vf.hca.phase).toBe('initialized');
    expect(await guest.ok(COMPLAINTS)).toBe('');
  });
});
