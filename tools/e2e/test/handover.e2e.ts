import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { tryCommand } from '../src/command.js';
import { CLI, type DeviceServer } from '../src/device-server.js';
import type { Guest } from '../src/guest.js';
import { HandoverRelay } from '../src/handover-relay.js';
import { complaints, loadNvme } from './nvme-checks.js';
import { boot, serve, showLogsOfFailures } from './support.js';

showLogsOfFailures();

/** A virtual function of the drive whose controller manages migrations, and where the guest finds it. */
const VF = '0000:06:00.1';
const NVME = '0000:01:00.0';
/** The last message of a handover: the other server may take the client now. */
const TAKE = 0x104;

/** What `vfio handover --json` prints. */
interface Report {
  readonly pid: number;
  readonly pauseMs: number;
  readonly stateBytes: number;
  readonly maps: number;
  readonly waiting: number;
}

async function handover(from: DeviceServer, to: string): Promise<{ code: number; stderr: string; report: Report }> {
  const argv = [process.execPath, CLI, 'handover', '--from', from.control, '--to', to, '--max-pause', '4000', '--json'];
  const { code, stdout, stderr } = await tryCommand(argv, { timeoutMs: 60_000 });
  return { code, stderr, report: (code === 0 ? JSON.parse(stdout) : {}) as Report };
}

/** A project with the drivers of this package, of which nvme_vfio_pci has another version. */
function otherVersion(folder: string, version: string): string {
  const require = createRequire(import.meta.url);
  const placeOf = (name: string) => dirname(require.resolve(`${name}/package.json`));
  const names = ['@vfio/core', '@vfio/uapi', '@vfio/cli', '@vfio/vfio-pci', '@vfio/nvme-vfio-pci'];
  const project = join(folder, version);
  mkdirSync(join(project, 'node_modules/@vfio'), { recursive: true });
  const dependencies = Object.fromEntries(names.map((name) => [name, '*']));
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'other-version', dependencies }));
  for (const name of names.slice(0, -1)) symlinkSync(placeOf(name), join(project, 'node_modules', name));
  const copy = join(project, 'node_modules/@vfio/nvme-vfio-pci');
  mkdirSync(copy);
  for (const part of ['package.json', 'dist']) {
    cpSync(join(placeOf('@vfio/nvme-vfio-pci'), part), join(copy, part), { recursive: true });
  }
  const manifest = join(copy, 'package.json');
  const { version: _old, ...rest } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string };
  writeFileSync(manifest, JSON.stringify({ ...rest, version }));
  return project;
}

describe('a guest whose NVMe changes its process', () => {
  let folder: string;
  let server: DeviceServer;
  let guest: Guest;
  const servers: DeviceServer[] = [];
  const pauses: number[] = [];

  const start = async (name: string, more: Partial<Parameters<typeof serve>[0]> = {}): Promise<DeviceServer> => {
    const started = await serve({
      name,
      address: VF,
      setup: ['--driver-override', '0000:06:00.0=nvme', '--sriov-numvfs', '0000:06:00.0=1'],
      args: ['--nvme-file', join(folder, 'disk'), '--nvme-size', '128M'],
      ...more,
    });
    servers.push(started);
    return started;
  };

  /** Hands the device over to a new server. */
  const next = async (name: string, more: Partial<Parameters<typeof serve>[0]> = {}): Promise<Report> => {
    const to = await start(name, { takesOver: server, ...more });
    const { code, stderr, report } = await handover(server, to.incoming);
    expect([code, stderr]).toEqual([0, '']);
    expect([report.pid, await server.ended(), server.warnings]).toEqual([to.pid, 0, []]);
    server = to;
    pauses.push(report.pauseMs);
    return report;
  };

  /** What the verifying runs in the guest have come to. */
  const runs = async (): Promise<number> => {
    expect(await guest.ok('cat /tmp/failed 2>/dev/null || true')).toBe('');
    return Number(await guest.ok('cat /tmp/runs 2>/dev/null || echo 0'));
  };

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-handover-'));
    server = await start('first');
    guest = await boot({
      name: 'handover',
      cpus: 2,
      rootPorts: ['port0'],
      devices: [server.device({ id: 'nvme0', bus: 'port0' })],
    });
    await loadNvme(guest, NVME);
    // It writes and verifies again and again until it is told to stop; the first failure ends it.
    await guest.ok(`cat >/tmp/verify.sh <<'END'
runs=0
while ! test -e /tmp/stop; do
  fio --name=verify --filename=/dev/nvme0n1 --rw=randwrite --bs=4k --size=8m --iodepth=8 --ioengine=libaio --direct=1 \\
    --verify=crc32c --verify_fatal=1 --randseed=$runs --output=/tmp/fio.log || { cp /tmp/fio.log /tmp/failed; break; }
  runs=$((runs + 1))
  echo $runs >/tmp/runs
done
touch /tmp/ended
END
sh /tmp/verify.sh </dev/null >/dev/null 2>&1 &`);
    await guest.until('test -e /tmp/runs', { seconds: 120 });
  });
  afterAll(async () => {
    await guest?.kill();
    for (const one of servers) await one.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  test('ten times while fio writes and verifies', async () => {
    const before = await runs();
    for (let n = 0; n < 10; n++) {
      const report = await next(`${n}`);
      expect(report.maps).toBeGreaterThan(0);
      expect(report.stateBytes).toBeGreaterThan(0);
    }
    await guest.until(`test $(cat /tmp/runs) -gt ${before + 1}`, { seconds: 120 });
    await runs();
  });

  test('once to another version of its driver, and back', async () => {
    await next('newer', { cwd: otherVersion(folder, '99.0.0') });
    const { stdout } = await tryCommand([process.execPath, CLI, 'control', 'info', server.control, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ functions: [{ driver: 'nvme_vfio_pci', version: '99.0.0' }] });
    await next('older');
    await runs();
  });

  test('not where the other server is killed in the middle: the guest stays, and the next handover works', async () => {
    const doomed = await start('doomed', { takesOver: server });
    // It has the whole state, the guest waits, and one word is missing.
    const relay = new HandoverRelay(join(folder, 'relay'), doomed.incoming, async (command) => {
      if (command === TAKE) await doomed.kill();
    });
    const { code, stderr } = await handover(server, join(folder, 'relay'));
    await relay.close();
    expect([code, stderr]).toEqual([1, expect.stringContaining('the other server has left')]);
    expect(server.running).toBe(true);
    const before = await runs();
    await guest.until(`test $(cat /tmp/runs) -gt ${before + 1}`, { seconds: 120 });
    await next('after');
    await runs();
  });

  test('and what fio wrote is there, and the guest has nothing to complain of', async () => {
    await guest.ok('touch /tmp/stop');
    await guest.until('test -e /tmp/ended', { seconds: 120 });
    expect(await runs()).toBeGreaterThan(3);
    expect(await complaints(guest, NVME)).toBe('');
    const sorted = pauses.toSorted((a, b) => a - b).map((ms) => ms.toFixed(0));
    console.log(`${pauses.length} handovers, the device stood still for ${sorted.join(', ')} ms`);
  });

  test('and a guest that reboots finds its disk on the last server', async () => {
    await guest.reboot();
    await loadNvme(guest, NVME);
    expect(await complaints(guest, NVME)).toBe('');
    expect([server.running, server.warnings]).toEqual([true, []]);
  });
});
