import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import type { Guest } from '../src/guest.js';
import { driveEdu, giveToVfio } from './edu-checks.js';
import { nvmeChecks, rebootCheck } from './nvme-checks.js';
import { boot, showLogsOfFailures, withGuest } from './support.js';

/*
 * What the harness itself can do, shown with devices that QEMU emulates: no server of ours takes part. The suites that
 * attach our devices run the same programs, so a failure there and not here is ours.
 */
showLogsOfFailures();

const NVME = '0000:00:05.0';
const EDU = '0000:00:06.0';

describe("a guest with QEMU's own NVMe controller", () => {
  let folder: string;
  let guest: Guest;
  const subject = { guest: () => guest, address: NVME, serial: 'self-check', interrupts: 3 };

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-disk-'));
    const image = join(folder, 'disk');
    const file = openSync(image, 'w');
    ftruncateSync(file, 128 << 20);
    closeSync(file);
    guest = await boot({
      name: 'self-check-nvme',
      cpus: 2,
      rootPorts: ['port0'],
      args: ['-blockdev', JSON.stringify({ driver: 'file', 'node-name': 'disk', filename: image })],
      devices: [{ driver: 'nvme', id: 'nvme0', drive: 'disk', serial: 'self-check', addr: '5.0' }],
    });
    console.log(`self-check: the guest boots to its agent in ${guest.bootMs} ms`);
  });
  afterAll(async () => {
    await guest?.kill();
    rmSync(folder, { recursive: true, force: true });
  });

  test('runs the kernel that was prepared', async () => {
    expect((await guest.ok('uname -r')).trim()).toBe(inject('artifacts').kernel.release);
  });

  nvmeChecks(subject);

  test('shows the function to lspci -vvv', async () => {
    const text = await guest.ok(`lspci -vvv -s ${NVME}`);
    expect(text).toContain('Non-Volatile memory controller: Red Hat, Inc. QEMU NVM Express Controller');
    expect(text).toContain('MSI-X: Enable+ Count=65');
    expect(text).toContain('Kernel driver in use: nvme');
  });

  rebootCheck(subject);

  test('takes a device on a root port while it runs, and gives it back', async () => {
    await guest.qmp.execute('device_add', { driver: 'edu', id: 'plugged', bus: 'port0' });
    await guest.until('lspci -n | grep -q 1234:11e8');
    await guest.qmp.execute('device_del', { id: 'plugged' });
    await guest.qmp.waitFor(({ event, data }) => event === 'DEVICE_DELETED' && data.device === 'plugged', {
      timeoutMs: 30_000,
    });
    await guest.until('! lspci -n | grep -q 1234:11e8');
  });

  test('a script that fails, and one that hangs, end with what happened', async () => {
    expect(await guest.run('echo out; echo err >&2; exit 3')).toEqual({ code: 3, stdout: 'out\n', stderr: 'err\n' });
    expect(await guest.run('sleep 60', { seconds: 1 })).toMatchObject({ code: 137 });
    expect(await guest.ok('echo still here')).toBe('still here\n');
  });
});

describe("a guest with QEMU's own edu device", () => {
  test('drives registers, DMA and interrupts through its own vfio-pci', async () => {
    await withGuest(
      { name: 'self-check-edu-vfio', iommu: true, devices: [{ driver: 'edu', addr: '6.0' }] },
      async (guest) => {
        await giveToVfio(guest, EDU);
        for (const irq of ['msi', 'intx']) await driveEdu(guest, `vfio ${EDU} ${irq}`);
        // The program's own teeth: interrupts that come although none are expected must fail it.
        const wrong = await guest.run(`edu vfio ${EDU} none`);
        expect(wrong.code).toBe(1);
        expect(wrong.stdout).toContain('FAIL irq-raised: an interrupt came');
      },
    );
  });

  test('drives registers, DMA and interrupts through uio, without an IOMMU', async () => {
    const devices = [{ driver: 'edu', addr: '6.0' }];
    await withGuest({ name: 'self-check-edu-uio', memory: 'private', devices }, async (guest) => {
      await guest.ok('modprobe uio_pci_generic && echo 1234 11e8 >/sys/bus/pci/drivers/uio_pci_generic/new_id');
      await driveEdu(guest, `uio ${EDU} intx`);
    });
  });
});

test('a guest that cannot boot is reported with its last words and leaves no QEMU behind', async () => {
  await expect(boot({ name: 'self-check-panic', append: 'rdinit=/nowhere panic=0 root=/dev/nothing' })).rejects.toThrow(
    /the guest kernel panicked[\s\S]*Kernel panic - not syncing/,
  );
  await expect(boot({ name: 'self-check-no-device', devices: [{ driver: 'no-such-device' }] })).rejects.toThrow(
    /QEMU ended with 1[\s\S]*'no-such-device' is not a valid device model name/,
  );
  const logs = inject('artifacts').logs;
  const commands = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && existsSync(`/proc/${name}/cmdline`))
    .map((pid) => readFileSync(`/proc/${pid}/cmdline`, 'latin1'));
  expect(commands.filter((line) => line.includes(join(logs, 'self-check-')))).toEqual([]);
});
