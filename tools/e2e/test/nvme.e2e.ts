import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DeviceServer } from '../src/device-server.js';
import type { Guest } from '../src/guest.js';
import { boot, serve, showLogsOfFailures } from './support.js';

showLogsOfFailures();

const NVME = '0000:00:05.0';

describe('a guest with our NVMe controller', () => {
  let server: DeviceServer;
  let guest: Guest;

  beforeAll(async () => {
    server = await serve({ name: 'nvme', address: '0000:01:00.0' });
    guest = await boot({ name: 'nvme', cpus: 2, devices: [server.device({ id: 'nvme0', addr: '5.0' })] });
  });
  afterAll(async () => {
    await guest?.kill();
    await server?.stop();
  });

  test('finds the stock driver by modalias, which probes without a warning', async () => {
    await guest.ok(`modprobe $(cat /sys/bus/pci/devices/${NVME}/modalias)`);
    await guest.until('test -b /dev/nvme0n1');
    expect(await guest.ok(`basename $(readlink /sys/bus/pci/devices/${NVME}/driver)`)).toBe('nvme\n');
    const identity = JSON.parse(await guest.ok('nvme id-ctrl /dev/nvme0 --output-format=json')) as { mn: string };
    expect(identity.mn.trim()).toBe('VFIO emulated NVMe');
  });
});
