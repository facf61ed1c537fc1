import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AliasDriverSource, AliasIndex, type DriverSource, deviceOf, type PciFunction, VfioError } from '@vfio/core';
import { createDemoHost, DEMO } from '@vfio/emulated';
import { type EduReport, runEdu } from '../demo/edu-program.js';
import { isIntact, MIGRATED, MigrationDemo, type MigrationReport } from '../demo/migration.js';
import { type NvmeIdentity, NvmeProgram } from '../demo/nvme-program.js';
import { withServed } from '../demo/served.js';
import { installedDrivers } from '../drivers.js';
import { formatRoughly, formatSize } from '../format.js';
import type { Io } from '../io.js';
import { paint, printJson } from '../output.js';
import { loadPciNames } from '../pci-names.js';
import { findFunction, openSession, type Session } from '../session.js';
import { list } from './list.js';
import { printExplanation } from './match.js';

/** The variant that the demo shows, found like any other: the command depends on none. */
const VARIANT = 'nvme_vfio_pci';
/** What moves at the end, where it is installed. */
const MOVABLE = 'mlx5_vfio_pci';
/** Bytes that go to the disk and come back. */
const TRANSFER = 256 * 1024;

/** One run of the NVMe program. */
interface NvmeRun {
  readonly how: string;
  readonly driver: string;
  readonly ops: string;
  readonly identity: NvmeIdentity;
  readonly bytes: number;
  readonly sha256: string;
  readonly intact: boolean;
}

/** What `vfio demo --json` shows: schemas/demo.json. */
export interface DemoReport {
  readonly ok: boolean;
  readonly nvme: readonly NvmeRun[];
  readonly edu: EduReport & { readonly driver: string };
  /** Null where the driver that migrates is not installed. */
  readonly migration: MigrationReport | null;
  readonly milliseconds: number;
}

/**
 * `vfio demo`: the emulated host, each function's match explained, the same NVMe function through its variant, through
 * the generic driver and through the variant by name, and edu; each driven over a real socket. At the end a virtual function
 * under load moves from one process to another.
 */
export async function demo(options: { readonly json?: boolean }, io: Io): Promise<boolean> {
  const start = performance.now();
  const quiet = options.json === true;
  const say = (text: string): void => {
    if (!quiet) io.out(`${text}\n`);
  };
  const title = (text: string): void => {
    io.signal.throwIfAborted();
    say(`\n${paint(io, 'bold', text)}`);
  };
  const warn = (message: string): void => io.err(`warning: ${message}\n`);
  const drivers = await installedDrivers({ cwd: io.cwd, script: io.script, env: io.env, warn });
  if (!drivers.drivers.some(({ name }) => name === VARIANT)) {
    throw new VfioError(
      'ERR_VFIO_NO_DRIVER',
      `the demo shows ${VARIANT} beside the generic driver, and it is not installed here; \`npm install @vfio/nvme-vfio-pci\` does that`,
      { errno: 'ENODEV', op: 'demo' },
    );
  }
  const folder = await mkdtemp(join(tmpdir(), 'vfio-demo-'));
  const session = openSession(createDemoHost(), drivers, warn);
  const canMove = drivers.drivers.some(({ name }) => name === MOVABLE);
  // They need a moment to start, in which there is something else to see.
  const migration = canMove ? new MigrationDemo(folder, io) : undefined;
  try {
    if (!quiet) {
      title('The emulated host');
      list(session, loadPciNames(io), {}, io);
    }
    const nvme = findFunction(session.host, DEMO.nvme);
    const edu = findFunction(session.host, DEMO.edu);

    title(`${nvme.address} (NVMe): the driver whose ids leave the least open (*) takes it`);
    if (!quiet) printExplanation(drivers.explain(nvme), io, '  ');
    const runs = [await runNvme(session, nvme, drivers, 'best match', folder, say)];

    const without = withoutDriver(session, VARIANT);
    title(`The same function without ${VARIANT}, as after \`npm rm @vfio/nvme-vfio-pci\``);
    if (!quiet) printExplanation(without.explain(nvme), io, '  ');
    runs.push(await runNvme(session, nvme, without, 'best match without the variant', folder, say));

    title(`The same function with the driver forced by name, as \`vfio serve --driver ${VARIANT}\` does`);
    runs.push(await runNvme(session, nvme, VARIANT, 'forced by name', folder, say));

    title(`${edu.address} (edu): registers, DMA and interrupts`);
    if (!quiet) printExplanation(drivers.explain(edu), io, '  ');
    const driver = await session.bus.bindBest(edu, drivers);
    const device = deviceOf(session.bus, edu);
    const report = await withServed(device, folder, { type: 'msi', vectors: 1 }, runEdu);
    say(
      `  ${driver.name} (ops ${device.name}): identification 0x${report.identification.toString(16)}, 10! = ${report.factorialOf10}, ` +
        `4096 bytes there and back by DMA ${tick(report.dmaRoundTrip, io)}, ${report.interrupts} interrupts`,
    );

    title(`${MIGRATED} (a ConnectX virtual function): moved from one process to another, under load`);
    const moved = await migration?.run();
    if (moved === undefined) say(`  not shown: \`npm install @vfio/mlx5-vfio-pci\` brings the driver that can`);
    else if (!quiet) printMove(moved, io);

    const ok =
      runs.every((run) => run.intact) &&
      report.liveness &&
      report.dmaRoundTrip &&
      report.factorialOf10 === 3628800 &&
      (moved === undefined || isIntact(moved));
    const milliseconds = Math.round(performance.now() - start);
    if (quiet)
      printJson(io, {
        ok,
        nvme: runs,
        edu: { ...report, driver: driver.name },
        migration: moved ?? null,
        milliseconds,
      } satisfies DemoReport);
    else summary(runs, moved, ok, milliseconds, io);
    return ok;
  } finally {
    await migration?.end();
    await session.bus.close();
    await rm(folder, { recursive: true, force: true });
  }
}

/** The installed drivers but one, as the index is when its package is taken out. */
function withoutDriver(session: Session, name: string): AliasDriverSource {
  const { drivers } = session;
  return new AliasDriverSource({
    index: new AliasIndex(
      drivers.index.entries.filter((entry) => entry.driver !== name),
      { drivers: drivers.drivers },
    ),
    load: (wanted) => drivers.load(wanted),
  });
}

async function runNvme(
  session: Session,
  fn: PciFunction,
  from: DriverSource | string,
  how: string,
  folder: string,
  say: (text: string) => void,
): Promise<NvmeRun> {
  const { bus, drivers } = session;
  if (bus.isBound(fn)) await bus.unbind(fn);
  const driver = typeof from === 'string' ? await bus.bindOverride(fn, from, drivers) : await bus.bindBest(fn, from);
  const device = deviceOf(bus, fn);
  const run = await withServed(device, folder, { type: 'msix', vectors: 2 }, async (context) => {
    const program = new NvmeProgram(context);
    const identity = await program.start();
    const data = randomBytes(TRANSFER);
    await program.write(0, data);
    await program.flush();
    const back = await program.read(0, TRANSFER);
    const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
    return { identity, sha256: digest(back), intact: digest(back) === digest(data) };
  });
  say(
    `  ${driver.name} (ops ${device.name}): ${run.identity.model}, ` +
      `${formatSize(run.identity.blocks * run.identity.blockSize)}; ` +
      `${formatSize(TRANSFER)} written, flushed and read back, sha256 ${run.sha256.slice(0, 12)}… ${run.intact ? 'equal' : 'DIFFERENT'}`,
  );
  return { how, driver: driver.name, ops: device.name, bytes: TRANSFER, ...run };
}

const tick = (ok: boolean, io: Io): string => (ok ? paint(io, 'green', 'equal') : paint(io, 'red', 'DIFFERENT'));
const right = (ok: boolean, io: Io): string => (ok ? paint(io, 'green', 'right') : paint(io, 'red', 'WRONG'));

function printMove(report: MigrationReport, io: Io): void {
  const { driver, from, to, turnsMeanwhile, counters, rounds, downtimeMs, milliseconds } = report;
  io.out(
    [
      `  ${driver}: its engine copies ${formatRoughly(counters.bytes)} in ${from.turns + to.turns} turns, each ending with an interrupt`,
      `  from pid ${from.pid} to pid ${to.pid}: ${formatRoughly(report.stateBytes)} of state and ${formatRoughly(report.memoryBytes)} of memory in ` +
        `${rounds} rounds, ${Math.ceil(milliseconds)} ms, of which it stood still ${Math.ceil(downtimeMs)} ms`,
      `  ${from.turns} turns there (${turnsMeanwhile} of them while it moved), ${to.turns} here: data and checksums ${tick(report.wrong === 0, io)}, ` +
        `counters ${right(report.countersRight, io)}, ${from.interrupts} + ${to.interrupts} interrupts ${right(report.interruptsRight, io)}`,
      '',
    ].join('\n'),
  );
}

function summary(
  runs: readonly NvmeRun[],
  moved: MigrationReport | undefined,
  ok: boolean,
  milliseconds: number,
  io: Io,
): void {
  const [best, generic] = runs;
  io.out(`\n${paint(io, 'bold', 'What you saw')}\n`);
  io.out(
    [
      '  Each driver is an npm package with a table of ids. A function was matched against the tables of what is installed, and',
      `  ${best?.driver} won for the NVMe controller; without it, ${generic?.driver} did. The driver's device was served over a`,
      '  vfio-user socket, and a small driver on the other end used it as QEMU does: memory by descriptor, interrupts by eventfd.',
      ...(moved === undefined
        ? []
        : [
            '  At the end a function changed its process while it worked: `vfio migrate` took its registers, its own memory and the',
            '  memory that it reaches from one `vfio serve` to another, and the work went on there, with nothing lost or done twice.',
          ]),
      '  Nothing here needed hardware, a kernel module or root.',
      '',
      '  Next:  npx vfio match 0000:01:00.0        why that driver',
      '         npx vfio info 0000:01:00.0         what it offers',
      '         npx vfio serve 0000:01:00.0 --socket-path /tmp/nvme.sock     give it to your QEMU',
      '         npx vfio migrate --help            move a device yourself',
      '',
    ].join('\n'),
  );
  io.out(
    `\n${ok ? paint(io, 'green', 'All checks passed') : paint(io, 'red', 'A check FAILED')} in ${(milliseconds / 1000).toFixed(1)} s\n`,
  );
}
