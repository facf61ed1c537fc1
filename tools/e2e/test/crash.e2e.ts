import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DeviceServer } from '../src/device-server.js';
import type { Guest } from '../src/guest.js';
import { loadNvme } from './nvme-checks.js';
import { boot, serve, showLogsOfFailures } from './support.js';

showLogsOfFailures();

const NVME = '0000:00:05.0';
/** guest/journal.c's: records between two flushes, and the first that it writes slowly. */
const BATCH = 40;
const SLOW = 10 * BATCH;

describe('a guest that is killed in the middle of flushed writes', () => {
  let folder: string;
  let server: DeviceServer | undefined;
  let guest: Guest | undefined;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-disk-'));
  });
  afterAll(async () => {
    await guest?.kill();
    await server?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  /** Serves the disk as it was left. */
  async function plugIn(name: string, driver: string): Promise<DeviceServer> {
    const disk = join(folder, 'disk');
    const args = ['--nvme-file', disk, '--nvme-size', '64M'];
    return await serve({ name, address: '0000:01:00.0', driver, args });
  }

  /** What the drive keeps of itself without power. */
  const remembered = () =>
    JSON.parse(readFileSync(join(folder, 'disk.state'), 'utf8')) as { clean: boolean; unsafeShutdowns: number };

  /** A guest with the disk, its driver loaded. */
  async function start(name: string, from: DeviceServer): Promise<Guest> {
    const started = await boot({ name, devices: [from.device({ addr: '5.0' })] });
    await loadNvme(started, NVME);
    return started;
  }

  /** Lets the guest write, kills it halfway between two flushes, then cuts the drive's power; tells what the disk had said. */
  async function killWhileWriting(writer: Guest, from: DeviceServer): Promise<{ written: number; flushed: number }> {
    const reported = (what: string) =>
      Number([...writer.console().matchAll(new RegExp(`^journal \\S+: ${what} (\\d+)\\r?$`, 'gm'))].at(-1)?.[1] ?? 0);
    await writer.ok('journal write /dev/nvme0n1 >/dev/console 2>&1 </dev/null &');
    while (reported('written') < SLOW + BATCH + BATCH / 4) {
      expect(writer.running).toBe(true);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await writer.kill();
    await from.waitFor('detached');
    await from.kill();
    return { written: reported('written'), flushed: reported('flushed') };
  }

  /** Records from the first on that the disk has, and those that it has after one that it lost. */
  async function found(reader: Guest): Promise<{ whole: number; after: number }> {
    const [whole, after] = (await reader.ok('journal read /dev/nvme0n1')).split(' ').map(Number);
    return { whole: whole!, after: after! };
  }

  const unsafeShutdowns = async (reader: Guest) => {
    const log = JSON.parse(await reader.ok('nvme smart-log /dev/nvme0 --output-format=json')) as Record<string, number>;
    return log['unsafe_shutdowns'];
  };

  test('loses nothing with nvme_vfio_pci, which shuts the controller down for it', async () => {
    server = await plugIn('variant', 'nvme_vfio_pci');
    guest = await start('killed-with-variant', server);
    const { written, flushed } = await killWhileWriting(guest, server);
    expect(written).toBeGreaterThan(flushed);
    expect(server.warnings).toEqual([]);
    expect(remembered()).toMatchObject({ clean: true, unsafeShutdowns: 0 });

    server = await plugIn('generic', 'vfio-pci');
    guest = await start('killed-with-generic', server);
    const { whole, after } = await found(guest);
    // What was written and not flushed was in the volatile cache only, and is there too.
    expect(whole).toBeGreaterThanOrEqual(written);
    expect(after).toBe(0);
    expect(await unsafeShutdowns(guest)).toBe(0);
  });

  test('loses what was not flushed with the generic driver, which only resets the function', async () => {
    await guest!.ok('blkdiscard /dev/nvme0n1');
    expect(await found(guest!)).toEqual({ whole: 0, after: 0 });
    const { written, flushed } = await killWhileWriting(guest!, server!);
    expect(written).toBeGreaterThan(flushed);
    expect(remembered()).toMatchObject({ clean: false, unsafeShutdowns: 0 });

    server = await plugIn('after-generic', 'nvme_vfio_pci');
    guest = await start('after-generic', server);
    // Flushed bytes are safe with any driver; with this one nothing else is.
    expect(await found(guest)).toEqual({ whole: flushed, after: 0 });
    expect(await unsafeShutdowns(guest)).toBe(1);
  });
});
