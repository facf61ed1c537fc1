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

  test('finds the stock driver by modalias, which probes without a warning', async () => {
    await guest.ok(`modprobe $(cat /sys/bus/pci/devices/${NVME}/modalias)`);
    await guest.until('test -b /dev/nvme0n1');
    expect(await guest.ok(`basename $(readlink /sys/bus/pci/devices/${NVME}/driver)`)).toBe('nvme\n');
    expect(await guest.ok('dmesg --level warn,err,crit,alert,emerg | grep -i nvme || true')).not.toMatch(
      /timeout|fail/i,
    );
  });

  test('identifies the controller', async () => {
    const identity = JSON.parse(await guest.ok('nvme id-ctrl /dev/nvme0 --output-format=json')) as { sn: string };
    expect(identity.sn.trim()).toBe('self-check');
  });

  test('writes 64 MiB and reads back the same bytes, and MSI-X counts move', async () => {
    const counts = async () =>
      (await guest.ok("grep nvme0q /proc/interrupts | awk '{ print $2 + $3 }'")).trim().split('\n').map(Number);
    const before = await counts();
    await guest.ok('dd if=/dev/urandom of=/tmp/data bs=1M count=64 2>/dev/null');
    const written = await guest.ok('sha256sum </tmp/data');
    await guest.ok('dd if=/tmp/data of=/dev/nvme0n1 bs=1M oflag=direct && rm /tmp/data');
    expect(await guest.ok('dd if=/dev/nvme0n1 bs=1M count=64 iflag=direct | sha256sum')).toBe(written);
    const after = await counts();
    expect(after.length).toBe(3);
    expect(after.reduce((a, b) => a + b)).toBeGreaterThan(before.reduce((a, b) => a + b) + 100);
  });

  test('passes an fio verify run', async () => {
    const report = await guest.ok(
      'fio --name=verify --filename=/dev/nvme0n1 --rw=randwrite --bs=4k --size=8m --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --output-format=json',
      { seconds: 120 },
    );
    const [job] = (JSON.parse(report) as { jobs: { error: number; read: { io_bytes: number } }[] }).jobs;
    expect(job).toMatchObject({ error: 0, read: { io_bytes: 8 << 20 } });
  });

  test('shows the function to lspci -vvv', async () => {
    const text = await guest.ok(`lspci -vvv -s ${NVME}`);
    expect(text).toContain('Non-Volatile memory controller: Red Hat, Inc. QEMU NVM Express Controller');
    expect(text).toContain('MSI-X: Enable+ Count=65');
    expect(text).toContain('Kernel driver in use: nvme');
  });

  test('reboots from inside and finds its disk again', async () => {
    const written = await guest.ok('dd if=/dev/nvme0n1 bs=1M count=1 iflag=direct | sha256sum');
    const took = await guest.reboot();
    console.log(`self-check: the guest reboots in ${took} ms`);
    await guest.ok('modprobe nvme');
    await guest.until('test -b /dev/nvme0n1');
    expect(await guest.ok('dd if=/dev/nvme0n1 bs=1M count=1 iflag=direct | sha256sum')).toBe(written);
  });

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
        await guest.ok('modprobe -a vfio_iommu_type1 vfio-pci');
        await guest.ok(
          `echo vfio-pci >/sys/bus/pci/devices/${EDU}/driver_override; echo ${EDU} >/sys/bus/pci/drivers_probe`,
        );
        for (const irq of ['msi', 'intx']) {
          expect(await guest.ok(`edu vfio ${EDU} ${irq}`)).toMatch(/edu: all checks passed\n$/);
        }
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
      expect(await guest.ok(`edu uio ${EDU} intx`)).toMatch(/edu: all checks passed\n$/);
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
