import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DeviceServer } from '../src/device-server.js';
import type { Guest } from '../src/guest.js';
import { checksum, loadNvme } from './nvme-checks.js';
import { boot, serve, showLogsOfFailures } from './support.js';

showLogsOfFailures();

const NVME = '0000:01:00.0';
const ID = 'nvme0';

/*
 * QEMU up to 11.1.3 aborts when a device with MSI-X is unplugged. A variant driver that hides MSI-X gets around that, so
 * these guests also show that what a variant overrides is what the guest's kernel sees.
 */
describe('a device that comes and goes under a guest', () => {
  let folder: string;
  let server: DeviceServer;
  let guest: Guest;
  /** Of what the first test wrote. */
  let written: string;

  /** Serves the disk at the same socket as ever. */
  const serveDisk = (name: string) =>
    serve({
      name,
      address: '0000:01:00.0',
      cwd: join(import.meta.dirname, 'fixtures/nvme-intx'),
      args: ['--nvme-file', join(folder, 'disk'), '--nvme-size', '64M'],
      socket: join(folder, 'socket'),
    });

  const plugIn = async () => {
    await guest.qmp.execute('device_add', server.device({ id: ID, bus: 'port0' }));
    await guest.until('test -b /dev/nvme0n1');
  };

  /** Takes the device away, as an operator does, and waits until the guest has let it go. */
  const unplug = async () => {
    const after = guest.qmp.events.length;
    await guest.qmp.execute('device_del', { id: ID });
    await guest.qmp.waitFor(({ event, data }) => event === 'DEVICE_DELETED' && data.device === ID, {
      after,
      timeoutMs: 90_000,
    });
    await guest.until('! lspci -n | grep -q 1b36:0010');
  };

  const qemuStatus = async () => (await guest.qmp.execute<{ status: string }>('query-status')).status;

  /** Writes to the disk until something goes wrong, while the test goes on. */
  const keepWriting = async () => {
    await guest.ok(
      'rm -f /tmp/ended; (while dd if=/dev/urandom of=/dev/nvme0n1 bs=64k count=64 seek=256 oflag=direct; do :; done; echo >/tmp/ended) >/tmp/dd.log 2>&1 </dev/null &',
    );
    await guest.until('grep -q "records out" /tmp/dd.log');
  };

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-recovery-'));
    server = await serveDisk('recovery');
    guest = await boot({
      name: 'recovery',
      cpus: 2,
      rootPorts: ['port0'],
      devices: [server.device({ id: ID, bus: 'port0' })],
    });
    await loadNvme(guest, NVME);
  });
  afterAll(async () => {
    await guest?.kill();
    await server?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  test('is taken by the variant that fits it best, and the guest sees what that overrides', async () => {
    expect(server.events[0]).toMatchObject({ type: 'listening', driver: 'nvme_intx', ops: 'nvme-intx' });
    const text = await guest.ok(`lspci -vvv -s ${NVME}`);
    expect(
      text.match(/^\tCapabilities: .*$/gm)?.map((line) => line.slice(15).split(' ').slice(0, 3).join(' ')),
    ).toEqual(['[40] Power Management', '[54] Express (v2)', '[100 v2] Advanced', '[12c v1] Device']);
    expect(text).toMatch(/^\tControl: .* DisINTx-$/m);
    expect(await guest.ok('grep nvme0q /proc/interrupts')).toMatch(/fasteoi +nvme0q0, nvme0q1$/m);
    await guest.ok('dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=8 oflag=direct conv=fsync');
    written = await checksum(guest, 8);
  });

  test('is unplugged while the guest writes to it, and comes back with its data', async () => {
    await keepWriting();
    await unplug();
    await guest.until('test -e /tmp/ended');
    expect(await server.waitFor('detached')).toMatchObject({ reason: 'the client closed the connection' });
    await plugIn();
    await server.waitFor('attached', { count: 2 });
    expect(await checksum(guest, 8)).toBe(written);
    expect(await qemuStatus()).toBe('running');
  });

  test('loses its server, killed: QEMU lives on, and a new server takes the place', async () => {
    // QEMU 11.1.3 aborts when its peer dies with messages unread. The reply to this one comes after all of them.
    await guest.ok(`lspci -s ${NVME} -xxx`);
    await server.kill();
    expect(existsSync(server.socket)).toBe(true);
    await guest.until(`lspci -n -s ${NVME} -xxx | grep -q 'ff ff ff ff'`);
    expect(guest.qemuLog()).toContain('failed to read header: EOF');
    expect(await qemuStatus()).toBe('running');
    await unplug();
    server = await serveDisk('recovery-again');
    await plugIn();
    expect(await checksum(guest, 8)).toBe(written);
  });

  test('loses its server, asked to end while the guest writes: QEMU lives on, nothing of the server is left', async () => {
    await keepWriting();
    expect(await server.stop()).toBe(0);
    expect(existsSync(server.socket)).toBe(false);
    expect(server.events.at(-1)).toMatchObject({ type: 'detached', reason: 'the server is closing' });
    await guest.until(`lspci -n -s ${NVME} -xxx | grep -q 'ff ff ff ff'`);
    expect(await qemuStatus()).toBe('running');
  });

  test('is there for the next guest', async () => {
    server = await serveDisk('recovery-next');
    await guest.kill();
    guest = await boot({ name: 'recovery-next', devices: [server.device({ addr: '5.0' })] });
    await loadNvme(guest, '0000:00:05.0');
    expect(await checksum(guest, 8)).toBe(written);
  });
});
