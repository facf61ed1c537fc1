import { mkdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { LinuxPciHost, usersOf, whatStandsOn } from '../src/index.js';
import { FakeKernel } from './helpers/fake-kernel.js';

const AT = '0000:01:00.0';
const FOLDER = `/sys/devices/pci0000:01/${AT}`;
const OTHER = '/sys/devices/pci0000:01/0000:01:01.0';

function machine(): FakeKernel {
  return new FakeKernel({ functions: [{ address: AT }, { address: '0000:01:01.0' }] });
}

function standsOn(kernel: FakeKernel, address = AT): string[] {
  const fn = new LinuxPciHost(kernel).find(address);
  if (fn === undefined) throw new Error(`no ${address}`);
  return whatStandsOn(fn);
}

/** A disk below a folder, with partitions. */
function disk(
  kernel: FakeKernel,
  folder: string,
  name: string,
  number: string,
  partitions: Record<string, string> = {},
) {
  const path = `${folder}/block/${name}`;
  kernel.put(`${path}/dev`, `${number}\n`);
  kernel.link(`/sys/class/block/${name}`, path);
  for (const [part, its] of Object.entries(partitions)) {
    kernel.put(`${path}/${part}/dev`, `${its}\n`);
    kernel.link(`/sys/class/block/${part}`, `${path}/${part}`);
  }
}

const mounts = (kernel: FakeKernel, ...lines: string[]) => kernel.put('/proc/self/mountinfo', `${lines.join('\n')}\n`);

describe('a disk', () => {
  test('that is mounted, or whose partition is, stops its controller and no other', () => {
    const kernel = machine();
    disk(kernel, `${FOLDER}/ata1/host0`, 'sda', '8:0', { sda1: '8:1', sda2: '8:2' });
    disk(kernel, OTHER, 'sdb', '8:16');
    mounts(kernel, '25 1 8:2 / / rw - ext4 /dev/sda2 rw', '26 1 0:5 / /proc rw - proc proc rw');
    expect(standsOn(kernel)).toEqual(['sda2 is mounted on /']);
    expect(standsOn(kernel, '0000:01:01.0')).toEqual([]);
  });

  test('that is there and not mounted stops nothing', () => {
    const kernel = machine();
    disk(kernel, FOLDER, 'sda', '8:0', { sda1: '8:1' });
    mounts(kernel, '25 1 8:17 / / rw - ext4 /dev/sdb1 rw');
    expect(standsOn(kernel)).toEqual([]);
  });

  test('with a file system that has numbers of its own is found by its name', () => {
    const kernel = machine();
    disk(kernel, FOLDER, 'sda', '8:0', { sda1: '8:1' });
    mounts(kernel, '25 1 0:33 /@ /home\\040dir rw shared:1 - btrfs /dev/sda1 rw');
    expect(standsOn(kernel)).toEqual(['sda1 is mounted on /home dir']);
  });

  test('that only the first process sees mounted, because this one is in a namespace of its own, is in use', () => {
    const kernel = machine();
    disk(kernel, FOLDER, 'sda', '8:0');
    kernel.put('/proc/1/mountinfo', '25 1 8:0 / / rw - ext4 /dev/sda rw\n');
    expect(standsOn(kernel)).toEqual(['sda is mounted on /']);
  });

  test('with swap space is in use', () => {
    const kernel = machine();
    disk(kernel, FOLDER, 'sda', '8:0', { sda3: '8:3' });
    kernel.put('/proc/swaps', 'Filename Type Size Used Priority\n/dev/sda3 partition 1 0 -2\n');
    expect(standsOn(kernel)).toEqual(['sda3 is swap space']);
  });

  test('under a volume that is mounted, through any number of layers, is in use; one that is assembled too', () => {
    const kernel = machine();
    disk(kernel, FOLDER, 'sda', '8:0', { sda1: '8:1' });
    disk(kernel, '/sys/devices/virtual', 'md0', '9:0');
    disk(kernel, '/sys/devices/virtual', 'dm-0', '253:0');
    mkdirSync(kernel.file(`${FOLDER}/block/sda/sda1/holders/md0`), { recursive: true });
    mkdirSync(kernel.file('/sys/devices/virtual/block/md0/holders/dm-0'), { recursive: true });
    expect(standsOn(kernel)).toEqual(['sda1 is part of md0, md0 is part of dm-0']);
    mounts(kernel, '25 1 253:0 / /srv rw - xfs /dev/mapper/x rw');
    expect(standsOn(kernel)).toEqual(['sda1 is part of md0, md0 is part of dm-0, dm-0 is mounted on /srv']);
  });

  test('of an NVMe subsystem is under none of its controllers, and is found', () => {
    const kernel = machine();
    const subsystem = '/sys/devices/virtual/nvme-subsystem/nvme-subsys0';
    kernel.put(`${subsystem}/nvme0n1/dev`, '259:0\n');
    kernel.link('/sys/class/block/nvme0n1', `${subsystem}/nvme0n1`);
    kernel.link('/sys/class/nvme-subsystem/nvme-subsys0', subsystem);
    mkdirSync(kernel.file(`${FOLDER}/nvme/nvme0`), { recursive: true });
    kernel.link(`${subsystem}/nvme0`, `${FOLDER}/nvme/nvme0`);
    mounts(kernel, '25 1 259:0 / /data rw - xfs /dev/nvme0n1 rw');
    expect(standsOn(kernel)).toEqual(['nvme0n1 is mounted on /data']);
    expect(standsOn(kernel, '0000:01:01.0')).toEqual([]);
  });
});

describe('a network interface', () => {
  const HEAD = 'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT';
  const DEFAULT = (name: string, flags = '0003') => `${name}\t00000000\t0102A8C0\t${flags}\t0\t0\t0\t00000000\t0\t0\t0`;
  const nic = (kernel: FakeKernel, folder: string, name: string, ...above: string[]) => {
    for (const one of ['dev', ...above.map((upper) => `upper_${upper}`)])
      kernel.put(`${folder}/net/${name}/${one}`, '');
    kernel.link(`/sys/class/net/${name}`, `${folder}/net/${name}`);
  };

  test('with the default route stops its function; one with another route does not', () => {
    const kernel = machine();
    nic(kernel, `${FOLDER}/virtio0`, 'eth0');
    nic(kernel, OTHER, 'eth1');
    kernel.put(
      '/proc/net/route',
      `${HEAD}\n${DEFAULT('eth0')}\neth1\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n`,
    );
    expect(standsOn(kernel)).toEqual(['network interface eth0 has the default route']);
    expect(standsOn(kernel, '0000:01:01.0')).toEqual([]);
  });

  test('under a bond in a bridge with the default route stops its function', () => {
    const kernel = machine();
    nic(kernel, FOLDER, 'eth0', 'bond0');
    nic(kernel, '/sys/devices/virtual', 'bond0', 'br0');
    nic(kernel, '/sys/devices/virtual', 'br0');
    kernel.put('/proc/net/route', `${HEAD}\n${DEFAULT('br0')}\n`);
    expect(standsOn(kernel)).toEqual(['network interface eth0 has the default route, as part of br0']);
  });

  test('with the default route of IPv6 stops its function; a route that rejects does not', () => {
    const kernel = machine();
    nic(kernel, FOLDER, 'eth0');
    const zeros = '0'.repeat(32);
    const route = (flags: string) => `${zeros} 00 ${zeros} 00 fe80 00000400 00000001 00000000 ${flags}     eth0\n`;
    kernel.put('/proc/net/ipv6_route', route('00200200'));
    kernel.put('/proc/net/route', `${HEAD}\n${DEFAULT('eth0', '0203')}\n`);
    expect(standsOn(kernel)).toEqual([]);
    kernel.put('/proc/net/ipv6_route', route('00000003'));
    expect(standsOn(kernel)).toEqual(['network interface eth0 has the default route']);
  });
});

test.each(['boot_vga', 'boot_display'])('the display that the machine booted on (%s) stops its function', (name) => {
  const kernel = new FakeKernel({
    functions: [
      { address: AT, files: { [name]: '1\n' } },
      { address: '0000:01:01.0', files: { [name]: '0\n' } },
    ],
  });
  expect(standsOn(kernel)).toEqual(['it is the display that the machine booted on']);
  expect(standsOn(kernel, '0000:01:01.0')).toEqual([]);
});

test('who has a device node open is named, by process', () => {
  const kernel = machine();
  kernel.put('/dev/vfio/7', '');
  kernel.put('/proc/12/comm', 'qemu\n');
  kernel.link('/proc/12/fd/9', '/dev/vfio/7');
  kernel.put('/proc/13/comm', 'other\n');
  kernel.link('/proc/13/fd/0', '/dev/null');
  // The link of a real /proc is absolute; the helper makes a relative one.
  const target = kernel.linkTarget(kernel.file('/proc/12/fd/9')) ?? '';
  expect(usersOf(kernel, [target])).toEqual([{ pid: 12, command: 'qemu', node: target }]);
  expect(usersOf(kernel, ['/dev/vfio/8'])).toEqual([]);
});
