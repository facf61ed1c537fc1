import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DeviceServer } from '../src/device-server.js';
import type { Guest } from '../src/guest.js';
import { checksum, complaints, loadNvme, nvmeChecks, rebootCheck } from './nvme-checks.js';
import { boot, serve, showLogsOfFailures } from './support.js';

showLogsOfFailures();

/** Behind the root port, as an endpoint in a slot. */
const NVME = '0000:01:00.0';

describe('a guest with our NVMe controller', () => {
  let folder: string;
  let server: DeviceServer;
  let guest: Guest;
  const subject = { guest: () => guest, address: NVME, serial: 'VFIO000001000', interrupts: 3 };

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-disk-'));
    server = await serve({
      name: 'nvme',
      address: '0000:01:00.0',
      args: ['--nvme-file', join(folder, 'disk'), '--nvme-size', '128M'],
      trace: true,
    });
    guest = await boot({
      name: 'nvme',
      cpus: 2,
      rootPorts: ['port0'],
      devices: [server.device({ id: 'nvme0', bus: 'port0' })],
    });
  });
  afterAll(async () => {
    await guest?.kill();
    await server?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  test('is served by the variant driver, to a client that is known as QEMU', () => {
    expect(server.events.find(({ type }) => type === 'listening')).toMatchObject({
      driver: 'nvme_vfio_pci',
      ops: 'nvme-vfio-pci',
    });
    expect(server.events.find(({ type }) => type === 'attached')).toMatchObject({ peer: 'qemu' });
  });

  nvmeChecks(subject);

  test('shows in lspci -vvv what we meant to show', async () => {
    const text = await guest.ok(`lspci -nnvvv -s ${NVME}`);
    expect(text).toContain(
      'Non-Volatile memory controller [0108]: Red Hat, Inc. QEMU NVM Express Controller [1b36:0010]',
    );
    expect(text).toContain('(rev 02) (prog-if 02 [NVM Express])');
    expect(text).toContain('Subsystem: Red Hat, Inc. Device [1af4:1100]');
    expect(text).toContain('Kernel driver in use: nvme');
    expect(text).toMatch(/Control: I\/O- Mem\+ BusMaster\+ .* DisINTx\+$/m);
    expect(text.match(/^\tRegion .*$/gm)).toEqual([
      expect.stringMatching(/Region 0: Memory at [0-9a-f]+ \(64-bit, non-prefetchable\) \[size=16K\]$/),
    ]);
    expect(text.match(/^\tCapabilities: .*$/gm)?.map((line) => line.slice(15))).toEqual([
      '[40] Power Management version 3',
      '[48] MSI-X: Enable+ Count=9 Masked-',
      '[54] Express (v2) Endpoint, IntMsgNum 0',
      '[100 v2] Advanced Error Reporting',
      '[12c v1] Device Serial Number 52-54-00-00-37-f2-69-aa',
    ]);
    expect(text).toContain('Vector table: BAR=0 offset=00002000');
    expect(text).toContain('PBA: BAR=0 offset=00003000');
    expect(text).toMatch(/ExtTag\+ AttnBtn- AttnInd- PwrInd- RBE\+ FLReset\+/);
    expect(text).toMatch(/LnkSta:\tSpeed 8GT\/s, Width x4$/m);
  });

  test('counts in its SMART log what the guest did', async () => {
    const log = JSON.parse(await guest.ok('nvme smart-log /dev/nvme0 --output-format=json')) as Record<string, number>;
    expect(log).toMatchObject({ critical_warning: 0, media_errors: 0, power_cycles: 1, unsafe_shutdowns: 0 });
    // 64 MiB by dd and 8 MiB by fio, in thousands of 512 bytes.
    expect(log['data_units_written']).toBeGreaterThanOrEqual(147);
    expect(log['data_units_read']).toBeGreaterThanOrEqual(147);
  });

  test('keeps in its error log what went wrong', async () => {
    const read = await guest.run('nvme read /dev/nvme0n1 --start-block=0x10000000 --block-count=0 --data-size=512');
    expect(read.code).not.toBe(0);
    expect(read.stderr).toContain('LBA Out of Range');
    const log = await guest.ok('nvme error-log /dev/nvme0 --log-entries=4 --output-format=json');
    const { errors } = JSON.parse(log) as { errors: Record<string, number>[] };
    const last = errors.find(({ sqid }) => sqid! > 0);
    expect(last).toMatchObject({ nsid: 1, lba: 0x10000000 });
    expect(last!['status_field']! & 0x7ff).toBe(0x80);
  });

  test('is asked nothing that it refuses, from the first message on', () => {
    const lines = server.trace();
    expect(lines.filter((line) => / reply error /.test(line))).toEqual([]);
    expect(server.warnings).toEqual([]);
    // Without memory that a client can map, register writes need no reply.
    expect(lines.some((line) => line.includes(' REGION_WRITE posted region 0 '))).toBe(true);
    expect(lines.filter((line) => / DMA_(READ|WRITE) /.test(line))).toEqual([]);
  });

  rebootCheck(subject);

  test('is reset while the guest writes, and works again', async () => {
    const written = await checksum(guest, 16);
    await guest.ok(
      '(while dd if=/dev/urandom of=/dev/nvme0n1 bs=256k count=64 seek=256 oflag=direct; do :; done) >/tmp/dd.log 2>&1 </dev/null &',
    );
    await guest.until('grep -q "records out" /tmp/dd.log');
    await guest.reset();
    await loadNvme(guest, NVME);
    expect(await checksum(guest, 16)).toBe(written);
    expect(await complaints(guest, NVME)).toBe('');
    expect(server.events.filter(({ type }) => type === 'detached')).toEqual([]);
  });
});
