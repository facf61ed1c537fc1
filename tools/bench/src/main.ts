/**
 * Round trips of our server beside the floor in C, interleaved in one run: every round measures each of them once, in an
 * order that turns over. Reported is the p50 of each measurement's middle round, and the middle of the rounds' ratios.
 */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { type Measurement, Programs } from './programs.js';
import { median, ratios } from './statistics.js';

/** Offset of edu's liveness register: it takes writes and gives them back inverted, and does nothing else. */
const REGISTER = 4;

interface Row {
  readonly name: string;
  readonly mode: string;
  readonly result: string;
  readonly args: readonly number[];
  /** The bound of the ratio to the floor, where one is promised. */
  readonly bound?: number;
}

const ROWS: readonly Row[] = [
  { name: '4-byte read', mode: 'rtt', result: 'read', args: [20_000], bound: 1.2 },
  { name: '4-byte write', mode: 'rtt', result: 'write', args: [20_000] },
  { name: '16 reads in flight', mode: 'pipe', result: 'pipelined', args: [50_000, 16] },
  { name: 'posted writes', mode: 'posted', result: 'posted', args: [50_000] },
  { name: 'read at 1 kHz', mode: 'paced', result: 'paced', args: [1_000, 1_000], bound: 1.3 },
  { name: 'read at 20/s', mode: 'paced', result: 'paced', args: [40, 20], bound: 1.3 },
];

interface Outcome {
  readonly name: string;
  readonly p50: Record<string, number>;
  readonly perSecond: Record<string, number>;
  readonly ratio: Record<string, number>;
  readonly bound: number | undefined;
}

/** Pipelined and posted accesses are about throughput; the others about how long one takes. */
const cost = (row: Row, m: Measurement): number =>
  row.mode === 'pipe' || row.mode === 'posted' ? 1e6 / m.perSecond : m.p50;

async function compare(
  programs: Programs,
  row: Row,
  sockets: Readonly<Record<string, string>>,
  rounds: number,
): Promise<Outcome> {
  const names = Object.keys(sockets);
  const costs = new Map<string, number[]>(names.map((name) => [name, []]));
  const speeds = new Map<string, number[]>(names.map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const results = await programs.measure(sockets[name] ?? '', row.mode, 0, REGISTER, 4, ...row.args);
      const measured = results[row.result];
      if (measured === undefined) throw new Error(`no "${row.result}" in the client's answer`);
      costs.get(name)?.push(cost(row, measured));
      speeds.get(name)?.push(measured.perSecond);
    }
  }
  const of = (map: Map<string, number[]>, name: string): number[] => map.get(name) ?? [];
  const floor = of(costs, 'floor');
  return {
    name: row.name,
    bound: row.bound,
    p50: Object.fromEntries(names.map((name) => [name, median(of(costs, name))])),
    perSecond: Object.fromEntries(names.map((name) => [name, median(of(speeds, name))])),
    ratio: Object.fromEntries(names.map((name) => [name, median(ratios(of(costs, name), floor))])),
  };
}

function show(outcome: Outcome): void {
  const columns = Object.keys(outcome.p50).map((name) => {
    const ratio = name === 'floor' ? '' : ` (${(outcome.ratio[name] ?? 0).toFixed(2)}x)`;
    return `${name} ${(outcome.p50[name] ?? 0).toFixed(2)} us${ratio}`;
  });
  const bound = outcome.bound === undefined ? '' : `  bound ${outcome.bound.toFixed(2)}x`;
  process.stdout.write(`${outcome.name.padEnd(32)}${columns.join('   ')}${bound}\n`);
}

function residentKiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Number.NaN);
}

const program = new Command()
  .description('Measures our vfio-user server beside the floor in C.')
  .option('--rounds <n>', 'rounds of each measurement', Number, 7)
  .option('--peer <socket>', 'a server of somebody else, put beside ours (region 0 must answer reads at offset 4)')
  .option('--json', 'one JSON document')
  .parse();
const options = program.opts<{ rounds: number; peer?: string; json?: boolean }>();
const programs = new Programs();
try {
  const devices = [0, 1, 2, 3].map((n) => programs.socket(`edu${n}`));
  const [ours = '', second = ''] = devices;
  await programs.floor(programs.socket('floor'));
  await programs.edu(devices);
  const sockets = {
    floor: programs.socket('floor'),
    ours,
    ...(options.peer === undefined ? {} : { peer: options.peer }),
  };
  const outcomes: Outcome[] = [];
  const run = async (row: Row): Promise<void> => {
    const outcome = await compare(programs, row, sockets, options.rounds);
    outcomes.push(outcome);
    if (options.json !== true) show(outcome);
  };
  for (const row of ROWS) await run(row);

  const load = programs.measure(second, 'load', 0, REGISTER, 4, 30_000).catch(() => undefined);
  await run({ name: 'read beside a loaded device', mode: 'rtt', result: 'read', args: [5_000] });
  programs.stopLoad();
  await load;

  const attach = await programs.measure(ours, 'attach', 200);
  const before = await programs.edu([programs.socket('one')]);
  const hundred = await programs.edu(Array.from({ length: 100 }, (_, n) => programs.socket(`many${n}`)));
  const memory = {
    oneDeviceMiB: residentKiB(before.pid ?? 0) / 1024,
    hundredDevicesMiB: residentKiB(hundred.pid ?? 0) / 1024,
  };
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ rounds: options.rounds, outcomes, attach, memory }, null, 2)}\n`);
  } else {
    process.stdout.write(`attach p50 ${attach['attach']?.p50.toFixed(0)} us\n`);
    process.stdout.write(
      `resident: ${memory.oneDeviceMiB.toFixed(0)} MiB with one device, ${memory.hundredDevicesMiB.toFixed(0)} MiB with a hundred\n`,
    );
  }
} finally {
  programs.close();
}
