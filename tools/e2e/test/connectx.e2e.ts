import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deviceOf, OpsRegistry, PciBus } from '@vfio/core';
import { type CommandRecord, ConnectX, EmulatedPciHost } from '@vfio/emulated';
import { driver as vfioPci } from '@vfio/vfio-pci';
import { VfioUserServer } from '@vfio/vfio-user';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Guest } from '../src/guest.js';
import { boot, showLogsOfFailures } from './support.js';

showLogsOfFailures();

/** Behind the guest's root port. */
const ADDRESS = '0000:01:00.0';

/** What the module says at its level of warnings and above, and any warning of the kernel itself. */
const COMPLAINTS = `dmesg --level=emerg,alert,crit,err,warn | grep -E 'mlx5|WARNING|BUG|Call Trace' || true`;

describe('a guest with our ConnectX', () => {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-'));
  const socket = join(folder, 'device');
  const commands: CommandRecord[] = [];
  let connectx: ConnectX;
  let server: VfioUserServer;
  let guest: Guest;

  beforeAll(async () => {
    // Served in this process: the test looks at the firmware's side too.
    const host = new EmulatedPciHost();
    host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
    const fn = host.add({
      address: '0000:01:00.0',
      model: (ctx) => {
        connectx = new ConnectX(ctx, {
          firmwareVersion: { major: 28, minor: 39, subminor: 1002 },
          onCommand: (record) => commands.push(record),
        });
        return connectx;
      },
    });
    const bus = new PciBus(host, { ops: new OpsRegistry() });
    await bus.register(vfioPci);
    await bus.bindOverride(fn, vfioPci.name);
    server = new VfioUserServer(deviceOf(bus, fn));
    await server.listen(socket);
    guest = await boot({
      name: 'connectx',
      cpus: 2,
      rootPorts: ['port0'],
      devices: [{ driver: 'vfio-user-pci', socket: { type: 'unix', path: socket }, id: 'connectx', bus: 'port0' }],
    });
  });
  afterAll(async () => {
    await guest?.kill();
    await server?.close();
    rmSync(folder, { recursive: true });
  });
  beforeEach(() => {
    commands.length = 0;
  });

  /** Commands that were refused: none should be, and the reason says what was not understood. */
  const refused = () => commands.filter(({ status }) => status !== 0);
  const names = () => commands.map(({ name }) => name);

  test('is booted by the stock mlx5_core, without a warning and with every command understood', async () => {
    await guest.ok('modprobe mlx5_core');
    expect(await guest.ok(`basename $(readlink /sys/bus/pci/devices/${ADDRESS}/driver)`)).toBe('mlx5_core\n');
    expect(await guest.ok(COMPLAINTS)).toBe('');
    expect(refused()).toEqual([]);
    expect(names()).toEqual(expect.arrayContaining(['ENABLE_HCA', 'SET_HCA_CAP', 'INIT_HCA', 'CREATE_EQ']));
    expect(connectx.hca.phase).toBe('initialized');
    expect(connectx.hca.driverVersion).toMatch(/^Linux,mlx5_core,/);
  });

  test('shows the driver the version that the firmware has', async () => {
    expect(await guest.ok('dmesg')).toContain(`mlx5_core ${ADDRESS}: firmware version: 28.39.1002`);
  });

  test('has pages of the guest, as many as it asked for, and an interrupt a command', async () => {
    expect(connectx.hca.pages.count).toBeGreaterThanOrEqual(16 + 64);
    const [, ...counts] = (await guest.ok(`grep mlx5_async /proc/interrupts`)).trim().split(/\s+/);
    expect(Number(counts[0]) + Number(counts[1])).toBeGreaterThan(0);
  });

  test('is well for as long as its health is looked at', async () => {
    // Several polls: the driver looks every two seconds, as the device's time-outs register says.
    await guest.ok('sleep 7');
    expect(await guest.ok(COMPLAINTS)).toBe('');
  });

  test('gets everything back when the module goes, and boots again', async () => {
    await guest.ok('rmmod mlx5_core');
    expect(refused()).toEqual([]);
    expect(names()).toEqual(expect.arrayContaining(['DESTROY_EQ', 'DEALLOC_UAR', 'TEARDOWN_HCA', 'DISABLE_HCA']));
    expect(connectx.hca.phase).toBe('disabled');
    expect(connectx.hca.pages.count).toBe(0);
    expect(connectx.hca.pages.contexts).toBe(0);
    await guest.ok('modprobe mlx5_core');
    expect(connectx.hca.phase).toBe('initialized');
    expect(await guest.ok(COMPLAINTS)).toBe('');
    expect(refused()).toEqual([]);
  });

  test('tells the driver of an error of its firmware, which shows it', async () => {
    connectx.hca.segment.reportHealth(0x07, 0x1234, false);
    await guest.until(`dmesg | grep -q 'synd 0x7'`);
    expect(await guest.ok('dmesg')).toMatch(/ext_synd 0x1234/);
  });
});
