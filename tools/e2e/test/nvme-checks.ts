import { expect, test } from 'vitest';
import type { Guest } from '../src/guest.js';

/** An NVMe controller as a guest sees it, ours or QEMU's own. */
export interface NvmeUnderTest {
  guest(): Guest;
  /** Where the guest finds it. */
  readonly address: string;
  readonly serial: string;
  /** Interrupt lines of the two-CPU guest: the admin queue's and one for each CPU, or one that all queues share. */
  readonly interrupts: number;
}

/** Bytes of the namespace that `checksum` covers. */
const MIB = 1 << 20;

/** Loads the stock driver for the controller, as modules are loaded at boot: by the function's modalias. */
export async function loadNvme(guest: Guest, address: string): Promise<void> {
  await guest.ok(`modprobe $(cat /sys/bus/pci/devices/${address}/modalias)`);
  await guest.until('test -b /dev/nvme0n1');
}

/** SHA-256 of the first `mebibytes` of a disk, read past the guest's page cache. */
export async function checksum(guest: Guest, mebibytes: number, disk = '/dev/nvme0n1'): Promise<string> {
  return await guest.ok(`dd if=${disk} bs=1M count=${mebibytes} iflag=direct 2>/dev/null | sha256sum`, {
    seconds: 120,
  });
}

/** What the guest's kernel had to complain of the controller so far. */
export async function complaints(guest: Guest, address: string): Promise<string> {
  return await guest.ok(`dmesg --level warn,err,crit,alert,emerg | grep -e nvme -e ${address.slice(5)} || true`);
}

/** How often each of the controller's interrupts came, on any CPU. */
async function interruptCounts(guest: Guest): Promise<number[]> {
  const lines = await guest.ok(`awk '/nvme0q/ { print $2 + $3 }' /proc/interrupts`);
  return lines.trim().split('\n').map(Number);
}

const sum = (counts: readonly number[]): number => counts.reduce((a, b) => a + b);

/** What every NVMe controller has to stand in a guest, in this order. */
export function nvmeChecks({ guest, address, serial, interrupts }: NvmeUnderTest): void {
  test('finds the stock driver by modalias, which probes without a warning', async () => {
    await loadNvme(guest(), address);
    expect(await guest().ok(`basename $(readlink /sys/bus/pci/devices/${address}/driver)`)).toBe('nvme\n');
    expect(await complaints(guest(), address)).toBe('');
  });

  test('identifies the controller', async () => {
    const identity = JSON.parse(await guest().ok('nvme id-ctrl /dev/nvme0 --output-format=json')) as { sn: string };
    expect(identity.sn.trim()).toBe(serial);
  });

  test('writes 64 MiB and reads back the same bytes, and interrupt counts move', async () => {
    const before = await interruptCounts(guest());
    await guest().ok('dd if=/dev/urandom of=/tmp/data bs=1M count=64 2>/dev/null');
    const written = await guest().ok('sha256sum </tmp/data');
    await guest().ok('dd if=/tmp/data of=/dev/nvme0n1 bs=1M oflag=direct && rm /tmp/data', { seconds: 120 });
    expect(await checksum(guest(), 64)).toBe(written);
    const after = await interruptCounts(guest());
    expect(after.length).toBe(interrupts);
    expect(sum(after)).toBeGreaterThan(sum(before) + 100);
  });

  test('passes an fio verify run', async () => {
    const report = await guest().ok(
      'fio --name=verify --filename=/dev/nvme0n1 --rw=randwrite --bs=4k --size=8m --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --output-format=json',
      { seconds: 120 },
    );
    const [job] = (JSON.parse(report) as { jobs: { error: number; read: { io_bytes: number } }[] }).jobs;
    expect(job).toMatchObject({ error: 0, read: { io_bytes: 8 * MIB } });
  });
}

/** To be called last: the guest restarts and finds what it wrote. */
export function rebootCheck({ guest, address }: NvmeUnderTest): void {
  test('reboots from inside and finds its disk again', async () => {
    const written = await checksum(guest(), 16);
    const took = await guest().reboot();
    console.log(`the guest reboots in ${took} ms`);
    await loadNvme(guest(), address);
    expect(await checksum(guest(), 16)).toBe(written);
    expect(await complaints(guest(), address)).toBe('');
  });
}
