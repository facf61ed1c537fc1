import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DeviceServer } from '../src/device-server.js';
import type { DeviceSpec, Guest } from '../src/guest.js';
import { boot, serve, showLogsOfFailures } from './support.js';

showLogsOfFailures();

const GUIDE = readFileSync(join(import.meta.dirname, '../../../docs/guides/qemu-says.md'), 'utf8');

/** Expects a message that the guide lists as `row`, where `…` stands for anything. */
function expectListed(message: string, row: string): void {
  expect(GUIDE).toContain(`\`${row}\``);
  const words = row.split('…').map((part) => part.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  expect(message).toMatch(new RegExp(words.join('.*')));
}

/* What docs/guides/qemu-says.md says of QEMU's messages, for those that can be provoked in a moment. */
describe('QEMU says', () => {
  let server: DeviceServer;
  let guest: Guest;

  beforeAll(async () => {
    server = await serve({ name: 'qemu-says', address: '0000:00:02.0' });
    guest = await boot({
      name: 'qemu-says',
      rootPorts: ['port0'],
      devices: [server.device({ id: 'edu0', addr: '6.0' })],
    });
  });
  afterAll(async () => {
    await guest?.kill();
    await server?.stop();
  });

  /** What QEMU answers to a device that it does not take. */
  async function refused(properties: Partial<DeviceSpec>): Promise<string> {
    const device = { driver: 'vfio-user-pci', bus: 'port0', ...properties };
    return await guest.qmp.execute('device_add', device).then(
      () => '',
      (error: Error) => error.message,
    );
  }

  const unix = (path: string) => ({ socket: { type: 'unix', path } });

  test.each<[string, Partial<DeviceSpec>, string]>([
    ['without a socket', {}, 'No socket specified'],
    ['for a path alone', { socket: '/run/device' }, "Invalid parameter type for 'socket', expected: object"],
    ['for a key with a dot', { 'socket.path': '/run/device' }, "Property 'vfio-user-pci.socket.…' not found"],
    ['for an address that is no path', { socket: { type: 'fd', str: '3' } }, 'Unsupported socket type …'],
    ['where nobody listens', unix('/run/nobody'), "Failed to connect to '…': No such file or directory"],
    ['for a path that is too long', unix(`/run/${'x'.repeat(120)}`), "UNIX socket path '…' is too long"],
    ['on the root bus', { ...unix('/run/device'), bus: 'pcie.0' }, "Bus 'pcie.0' does not support hotplugging"],
    ['for an option of vfio-pci', { ...unix('/run/device'), 'x-req': true }, "Property 'vfio-user-pci.x-…' not found"],
  ])('%s what the guide lists', async (_case, properties, row) => {
    expectListed(await refused(properties), row);
  });

  test('that it got no reply where another client is attached', async () => {
    const message = await refused({ ...unix(server.socket), 'x-msg-timeout': 500 });
    expectListed(message, 'timed out waiting for reply');
    expect(guest.running).toBe(true);
  });

  test('that the proxy is connected to who changes the socket of an attached device', async () => {
    const request = guest.qmp.execute('qom-set', {
      path: '/machine/peripheral/edu0',
      property: 'socket',
      value: { type: 'unix', path: '/run/device' },
    });
    expectListed(await request.then(String, (error: Error) => error.message), 'Proxy is connected');
  });

  test('that the connection ended when the server ends, and fails each write of the guest from then on', async () => {
    await guest.ok('setpci -s 06.0 COMMAND=0x2');
    const bar = (await guest.ok('setpci -s 06.0 BASE_ADDRESS_0')).trim();
    await server.stop();
    await guest.ok(`devmem $((0x${bar} + 4)) 32 1`);
    expect(await guest.ok(`devmem $((0x${bar} + 4)) 32`)).toBe('0xFFFFFFFF\n');
    for (const row of [
      'failed to read header: EOF',
      'Unable to write to socket: Broken pipe',
      'vfio_region_write(…) failed: Bad address',
    ]) {
      expectListed(guest.qemuLog(), row);
    }
    expect(guest.running).toBe(true);
  });
});
