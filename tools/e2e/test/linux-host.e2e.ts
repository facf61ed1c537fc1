import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { packCli } from '../src/cli-image.js';
import type { DeviceSpec, Guest, GuestOptions } from '../src/guest.js';
import { Machine } from '../src/machine.js';
import { Sysroot } from '../src/sysroot.js';
import { boot, showLogsOfFailures } from './support.js';

showLogsOfFailures();

const NVME = '0000:00:05.0';
const NIC = '0000:00:06.0';
const EDU = '0000:00:07.0';
/** A bridge: what VFIO takes none of, so its probe is one that fails. */
const PORT = '0000:00:08.0';
/** ISA bridge, SATA and SMBus of the chipset: one IOMMU group. */
const CHIPSET = ['0000:00:1f.0', '0000:00:1f.2', '0000:00:1f.3'] as const;
const [ISA, SATA, SMBUS] = CHIPSET;

let folder: string;
let image: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-'));
  const packages = ['@vfio/cli', '@vfio/vfio-pci', '@vfio/nvme-vfio-pci'];
  image = await packCli(new Sysroot(inject('artifacts').sysroot), folder, packages);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Boots a guest that is somebody's machine, with these devices. */
async function bootMachine(options: GuestOptions & { devices: DeviceSpec[] }): Promise<[Guest, Machine]> {
  const disks = Machine.disks(inject('artifacts'), image);
  const guest = await boot({
    memoryMiB: 1024,
    cpus: 2,
    ...options,
    rootPorts: disks.rootPorts,
    devices: [...options.devices, ...disks.devices],
    args: [...(options.args ?? []), ...disks.args],
  });
  return [guest, await Machine.enter(guest)];
}

describe('a machine with an IOMMU', () => {
  let guest: Guest;
  let machine: Machine;

  beforeAll(async () => {
    // With a file system that guests can mount.
    const disk = join(folder, 'disk');
    copyFileSync(image, disk);
    truncateSync(disk, 256 * 1024 ** 2);
    [guest, machine] = await bootMachine({
      name: 'linux-host',
      iommu: true,
      devices: [
        { driver: 'nvme', serial: 'disk', drive: 'disk', addr: '5.0' },
        { driver: 'e1000e', addr: '6.0', netdev: 'net' },
        { driver: 'edu', addr: '7.0' },
        { driver: 'pcie-root-port', addr: '8.0', chassis: 9, id: 'bridge' },
      ],
      args: [
        ...['-blockdev', JSON.stringify({ driver: 'file', 'node-name': 'disk', filename: disk })],
        ...['-netdev', 'hubport,id=net,hubid=0'],
      ],
    });
    await guest.ok('modprobe -a nvme e1000e ahci i2c_i801');
  });
  afterAll(() => guest?.kill());

  /** Driver and override of a function, as sysfs has them. */
  async function state(address: string): Promise<[driver: string, override: string]> {
    const path = `/sys/bus/pci/devices/${address}`;
    const text = await guest.ok(`cd ${path}; [ ! -e driver ] || basename "$(readlink driver)"; cat driver_override`);
    const lines = text.trim().split('\n');
    return lines.length === 2 ? [lines[0] ?? '', lines[1] ?? ''] : ['', lines[0] ?? ''];
  }
  const states = async (addresses: readonly string[]) => {
    const all: [string, string][] = [];
    for (const address of addresses) all.push(await state(address));
    return all;
  };
  /** Puts a function that something else has bound back, without our help. */
  const reset = (address: string) =>
    guest.ok(`cd /sys/bus/pci/devices/${address}; [ ! -e driver ] || echo ${address} >driver/unbind
      echo >driver_override; echo ${address} >/sys/bus/pci/drivers_probe`);

  /** Runs a command that must succeed and gives its JSON. */
  async function json<T>(args: string): Promise<T> {
    const { code, stdout, stderr } = await machine.vfio(`${args} --json`);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    return JSON.parse(stdout) as T;
  }

  test('vfio list shows the functions, ids, drivers and groups that lspci shows', async () => {
    const fields = ['Slot', 'Class', 'Vendor', 'Device', 'Driver', 'IOMMUGroup'] as const;
    const expected = (await guest.ok('lspci -Dvmmnk'))
      .trim()
      .split('\n\n')
      .map((text) => {
        const [address, code = '', vendor, device, driver = null, group = null] = fields.map(
          (field) => new RegExp(`^${field}:\\s+(\\S+)`, 'm').exec(text)?.[1],
        );
        return { address, code, ids: `${vendor}:${device}`, driver, iommuGroup: group === null ? null : Number(group) };
      });
    type Listed = { address: string; class: string; ids: string; driver: string | null; iommuGroup: number | null };
    const { functions } = await json<{ functions: (Listed & { best: string; kernelModule: string })[] }>(
      'list --host linux',
    );
    expect(
      functions.map(({ address, class: code, ids, driver, iommuGroup }) => ({
        address,
        code: code.slice(0, 4),
        ids,
        driver,
        iommuGroup,
      })),
    ).toEqual(expected);
    expect(functions.find(({ address }) => address === NVME)).toMatchObject({
      best: 'nvme_vfio_pci',
      kernelModule: 'vfio_pci',
    });
  });

  test('vfio doctor says that passthrough can work', async () => {
    const { checks } = await json<{ checks: { name: string; status: string }[] }>('doctor');
    const status = Object.fromEntries(checks.map((check) => [check.name, check.status]));
    expect(status).toMatchObject({
      'kernel-options': 'ok',
      iommu: 'ok',
      'interrupt-remapping': 'ok',
      'module-vfio_pci': 'ok',
      'module-vfio_iommu_type1': 'ok',
    });
    expect(Object.values(status)).not.toContain('fail');
  });

  test('the page “by hand” does what it says, line by line', async () => {
    const page = readFileSync(join(import.meta.dirname, '../../../docs/guides/bind-by-hand.md'), 'utf8');
    const blocks = [...page.matchAll(/^```shell\n([\s\S]+?)^```$/gm)].map(([, code = '']) =>
      code.replaceAll('0000:01:00.0', NIC),
    );
    expect(blocks).toHaveLength(9);
    const [find = '', ...steps] = blocks;
    const giveBack = steps.pop() ?? '';
    const said = await machine.ok(`set -e\n${find}${steps.join('')}`);
    expect(said).toMatch(/drivers\/vfio-pci\n$/);
    expect(await state(NIC)).toEqual(['vfio-pci', 'vfio-pci']);
    await machine.ok(`set -e\n${find}${giveBack}`);
    expect(await state(NIC)).toEqual(['e1000e', '(null)']);
  });

  test('a disk goes to vfio-pci, opens there, and comes back', async () => {
    expect((await machine.vfio(`bind ${NVME}`)).stdout).toMatch(
      /^0000:00:05\.0 {2}nvme -> vfio-pci, IOMMU group (\d+), \/dev\/vfio\/\1\n$/,
    );
    expect(await state(NVME)).toEqual(['vfio-pci', 'vfio-pci']);
    await guest.ok('modprobe vfio_iommu_type1');
    expect(await guest.ok(`vfio-probe ${NVME}`)).toMatch(/^GROUP flags=[13]$[\s\S]*^REGION 0 .* size=4000 /m);
    expect((await machine.vfio(`unbind ${NVME}`)).stdout).toBe('0000:00:05.0  vfio-pci -> nvme\n');
    expect(await state(NVME)).toEqual(['nvme', '(null)']);
    await guest.until('[ -b /dev/nvme0n1 ]');
  });

  test('a disk that is mounted is refused, and stays', async () => {
    await guest.ok('mkdir -p /tmp/disk && mount -t erofs -o ro /dev/nvme0n1 /tmp/disk');
    const { code, stderr } = await machine.vfio(`bind ${NVME}`);
    expect(code).toBe(1);
    expect(stderr).toMatch(/0000:00:05\.0: the system stands on it: nvme0n1 is mounted on \/tmp\/disk .*EBUSY/);
    expect(await state(NVME)).toEqual(['nvme', '(null)']);
    await guest.ok('umount /tmp/disk');
  });

  test('a network card with the default route is refused; dpdk-devbind refuses it too, driverctl takes it', async () => {
    await guest.ok('ip addr add 10.0.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.0.1');
    const { code, stderr } = await machine.vfio(`bind ${NIC}`);
    expect(code).toBe(1);
    expect(stderr).toMatch(/0000:00:06\.0: the system stands on it: network interface eth0 has the default route/);
    const dpdk = await machine.run(`dpdk-devbind.py -b vfio-pci ${NIC}`);
    expect(dpdk.stdout + dpdk.stderr).toMatch(/is active. Not modifying/);
    expect(await state(NIC)).toEqual(['e1000e', '(null)']);
    await machine.ok(`driverctl --nosave set-override ${NIC} vfio-pci`);
    expect(await state(NIC)).toEqual(['vfio-pci', 'vfio-pci']);
    await reset(NIC);
  });

  test('a group that host drivers share is refused with their names, bound as a whole, and restored as a whole', async () => {
    const before = await states(CHIPSET);
    expect(before).toEqual([
      ['', '(null)'],
      ['ahci', '(null)'],
      ['i801_smbus', '(null)'],
    ]);
    const refused = await machine.vfio(`bind ${SATA}`);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(new RegExp(`host drivers have others of it: ${SMBUS} \\(i801_smbus\\) `));
    expect(refused.stderr).toMatch(/^try: `--group` binds them too$/m);
    expect(await states(CHIPSET)).toEqual(before);
    const { functions } = await json<{ functions: { address: string; companion: boolean }[] }>(`bind ${SATA} --group`);
    expect(functions.map(({ address, companion }) => [address, companion])).toEqual([
      [SATA, false],
      [ISA, true],
      [SMBUS, true],
    ]);
    // The kernel's own word: bit 0 says that the group is viable.
    expect(await guest.ok(`vfio-probe ${SATA}`)).toMatch(/^GROUP flags=[13]$/m);
    await json('restore');
    expect(await states(CHIPSET)).toEqual(before);
  });

  test('a driver that refuses the function: all is as it was; driverctl leaves it without a driver', async () => {
    const { code, stderr } = await machine.vfio(`bind ${NIC} --driver nvme`);
    expect(code).toBe(1);
    expect(stderr).toMatch(/could not be given to nvme: nvme refuses it \(E\w+\); every function is as it was/);
    expect(await state(NIC)).toEqual(['e1000e', '(null)']);
    expect((await machine.run(`driverctl --nosave set-override ${NIC} nvme`)).code).not.toBe(0);
    expect(await state(NIC)).toEqual(['', 'nvme']);
    await reset(NIC);
    expect((await machine.vfio(`bind ${PORT}`)).stderr).toMatch(/it is a bridge, and VFIO takes none .*EINVAL/);
  });

  test('the same function by each tool ends at the same driver; dpdk-devbind alone leaves no override', async () => {
    await json(`bind ${NIC}`);
    expect(await state(NIC)).toEqual(['vfio-pci', 'vfio-pci']);
    await json(`unbind ${NIC}`);
    expect(await state(NIC)).toEqual(['e1000e', '(null)']);
    await machine.ok(`driverctl --nosave set-override ${NIC} vfio-pci`);
    expect(await state(NIC)).toEqual(['vfio-pci', 'vfio-pci']);
    // What others bound is given back too.
    await json(`unbind ${NIC}`);
    expect(await state(NIC)).toEqual(['e1000e', '(null)']);
    await machine.ok(`dpdk-devbind.py -b vfio-pci ${NIC}`);
    expect(await state(NIC)).toEqual(['vfio-pci', '(null)']);
    await reset(NIC);
  });

  test('--owner hands the nodes to a user; the rule of --persist is one that udev takes, and binds at the next boot', async () => {
    const { functions } = await json<{ functions: { nodes: string[] }[] }>(`bind ${EDU} --owner alice --persist`);
    const [node = ''] = functions[0]?.nodes ?? [];
    expect(await guest.ok(`stat -c %u ${node}`)).toBe('1000\n');
    const rule = `/etc/udev/rules.d/70-vfio-${EDU}.rules`;
    expect((await machine.run(`udevadm verify --no-style ${rule}`)).code).toBe(0);
    // The next boot: nobody has it, udev sets the override and runs the program of the rule.
    const [, program = ''] = /RUN\+="\/bin\/sh -c '(.*)'"/.exec(await machine.ok(`cat ${rule}`)) ?? [];
    expect(program).not.toBe('');
    await reset(EDU);
    expect(await state(EDU)).toEqual(['', '(null)']);
    await machine.ok(`echo vfio-pci >/sys/bus/pci/devices/${EDU}/driver_override\n${program.replaceAll('$$', '$')}`);
    expect(await state(EDU)).toEqual(['vfio-pci', 'vfio-pci']);
    await json(`unbind ${EDU}`);
    expect(await state(EDU)).toEqual(['', '(null)']);
    expect((await machine.run(`test -e ${rule}`)).code).not.toBe(0);
  });
});

test('a machine without an IOMMU: vfio doctor says so, and vfio bind refuses, as dpdk-devbind does', async () => {
  const [guest, machine] = await bootMachine({
    name: 'no-iommu',
    devices: [{ driver: 'e1000e', addr: '6.0', netdev: 'net' }],
    args: ['-netdev', 'hubport,id=net,hubid=0'],
  });
  try {
    await guest.ok('modprobe -a e1000e vfio-pci');
    const driver = `cd /sys/bus/pci/devices/${NIC}; [ ! -e driver ] || basename "$(readlink driver)"; cat driver_override`;
    const doctor = await machine.vfio('doctor');
    expect(doctor.code).toBe(1);
    expect(doctor.stdout).toMatch(/^FAIL +iommu: the kernel drives no IOMMU$/m);
    expect(doctor.stdout).toMatch(/^FAIL +interrupt-remapping: /m);
    const bind = await machine.vfio(`bind ${NIC}`);
    expect(bind.code).toBe(1);
    expect(bind.stderr).toMatch(
      /0000:00:06\.0: it is in no IOMMU group.*ENODEV\)\ntry: `vfio doctor` says what is missing/,
    );
    expect(await guest.ok(driver)).toBe('e1000e\n(null)\n');
    expect((await machine.run(`dpdk-devbind.py -b vfio-pci ${NIC}`)).code).not.toBe(0);
    expect(await guest.ok(driver)).toBe('e1000e\n(null)\n');
  } finally {
    await guest.kill();
  }
});
