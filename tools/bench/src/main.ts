/**
 * Measures what a vfio-user server of ours costs beside the least that a server can cost, a floor in C; README.md says what
 * each row means.
 */
import { readFileSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import { lookupTimes } from './alias-lookup.js';
import { dirtyReport } from './dirty-report.js';
import { handovers } from './handover.js';
import { type Measurement, Programs } from './programs.js';
import { costs, type Measure, type Row, row, toText } from './report.js';

/** edu's liveness register: it takes writes and gives them back inverted, and does nothing else. */
const REGISTER = 4;

/** Accesses of the row that counts collections. */
const ACCESSES = 1_000_000;

/** Of the row that moves a device. */
const STATE_BYTES = 2 ** 30;

/** Handovers of which the longest wait counts. */
const HANDOVERS = 10;

interface Options {
  readonly rounds: number;
  readonly peer?: string;
  readonly aliases?: string;
  readonly json?: true;
  readonly check?: true;
}

const options = new Command()
  .description('Measures our vfio-user server beside a floor in C. Takes about three minutes.')
  .option('--rounds <n>', 'rounds of each measurement', wholeNumber, 7)
  .option('--peer <socket>', 'a server of somebody else, put beside ours: its region 0 must answer reads at offset 4')
  .option('--aliases <file>', 'a modules.alias to look functions up in, instead of one of 28,000 lines that is made up')
  .option('--json', 'one JSON document instead of a table')
  .option('--check', 'end with 1 where a bound is missed')
  .parse()
  .opts<Options>();

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('a whole number from 1 on is needed');
  return value;
}

const rows: Row[] = [];
function add(next: Row): void {
  rows.push(next);
  if (options.json !== true) process.stdout.write(`${toText(next)}\n`);
}

/** Measures every server once a round, in an order that turns over: the machine drifts between rounds, not within one. */
async function interleave(names: readonly string[], measure: (name: string) => Promise<Record<string, Measurement>>) {
  const rounds: Record<string, Record<string, Measurement>>[] = [];
  for (let round = 0; round < options.rounds; round++) {
    const results: Record<string, Record<string, Measurement>> = {};
    for (const name of round % 2 === 0 ? names : names.toReversed()) results[name] = await measure(name);
    rounds.push(results);
  }
  return (result: string, measure: Measure) => costs(names, rounds, result, measure);
}

/** Resident memory in MB of 10^6 bytes. */
function resident(pid: number | undefined): number {
  const kib = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return (Number(kib) * 1024) / 1e6;
}

const programs = new Programs();
try {
  const sockets: Record<string, string> = { floor: programs.socket('floor'), ours: programs.socket('edu0') };
  if (options.peer !== undefined) sockets['peer'] = options.peer;
  const names = Object.keys(sockets);
  const socketOf = (name: string): string => sockets[name] ?? '';
  const loaded = programs.socket('edu1');
  await programs.floor(socketOf('floor'));
  await programs.edu([socketOf('ours'), loaded, programs.socket('edu2'), programs.socket('edu3')]);
  const access = (mode: string, ...args: number[]) =>
    interleave(names, (name) => programs.measure(socketOf(name), mode, 0, REGISTER, 4, ...args));

  const trips = await access('rtt', 20_000);
  add(row('4-byte read', 'us', trips('read', 'p50'), { ratio: 1.2, toPeer: 1 }));
  add(row('4-byte write', 'us', trips('write', 'p50')));
  add(row('16 reads in flight', 'us each', (await access('pipe', 50_000, 16))('pipelined', 'each')));
  add(row('posted writes', 'us each', (await access('posted', 50_000))('posted', 'each')));
  add(row('4-byte read at 1 kHz', 'us', (await access('paced', 1000, 1000))('paced', 'p50'), { ratio: 1.3 }));
  add(row('4-byte read at 20/s', 'us', (await access('paced', 40, 20))('paced', 'p50'), { ratio: 1.3 }));

  const load = programs.load(loaded, 0, REGISTER, 4);
  add(row('4-byte read beside a device under load', 'us', (await access('rtt', 5000))('read', 'p50')));
  await load.stop();

  for (const [name, way] of [
    ['DMA of 4 KiB there and back, shared memory', 'file'],
    ['DMA of 4 KiB there and back, by messages', 'message'],
  ] as const) {
    const dma = await interleave(['ours'], () => programs.measure(socketOf('ours'), 'dma', way, 4096, 1000));
    add(row(name, 'us', dma('dma', 'p50')));
  }
  const attach = await interleave(names, (name) => programs.measure(socketOf(name), 'attach', 100));
  add(row('attach', 'us', attach('attach', 'p50')));

  const quiet = programs.socket('quiet');
  const server = await programs.edu([quiet]);
  await programs.measure(quiet, 'rtt', 0, REGISTER, 4, 20_000);
  const before = await programs.collections(server);
  // Half of them reads, half writes; the client warms up with a fifth more of each.
  const count = Math.ceil(ACCESSES / 2.4);
  await programs.measure(quiet, 'rtt', 0, REGISTER, 4, count);
  const after = await programs.collections(server);
  add(row('scavenges in 1,000,000 accesses', '', { ours: after.scavenges - before.scavenges }, { value: 0 }));
  const allocated = Math.max(0, after.heapUsed - before.heapLeft) / ACCESSES;
  add(row('heap allocated by an access', 'bytes', { ours: allocated }));

  const base = resident((await programs.idle()).pid);
  const many = Array.from({ length: 100 }, (_, n) => programs.socket(`many${n}`));
  for (const [name, paths, bound] of [
    ['memory of one served edu, over Node’s own', many.slice(0, 1), undefined],
    ['memory of 100 served edus, over Node’s own', many, { value: 150 }],
  ] as const) {
    const process = await programs.edu(paths);
    const client = await programs.hold(paths);
    add(row(name, 'MB', { ours: resident(process.pid) - base }, bound));
    await programs.end(client);
    await programs.end(process);
  }

  const moves: { floor: number[]; ours: number[] } = { floor: [], ours: [] };
  let grown = 0;
  const byPipe = async () => moves.floor.push((await programs.pipe(STATE_BYTES)).seconds * 1000);
  const byMove = async () => {
    const { seconds, grownBytes } = await programs.move(STATE_BYTES);
    moves.ours.push(seconds * 1000);
    grown = Math.max(grown, grownBytes);
  };
  for (let round = 0; round < options.rounds; round++) {
    for (const run of round % 2 === 0 ? [byPipe, byMove] : [byMove, byPipe]) await run();
  }
  // 0.7 of the floor's rate.
  add(row('state of 1 GiB, from device to device in another process', 'ms', moves, { ratio: 1 / 0.7 }));
  add(row('memory for that, at either end', 'MB', { ours: grown / 1e6 }, { value: 64 }));
  const { ms, pages } = await dirtyReport();
  add(row(`dirty report of 1 TiB in pages of 4 KiB, ${pages} written`, 'ms', { ours: ms }, { value: 1000 }));
  // The worst of all: no guest may ever wait longer.
  const { waits, pauses } = await handovers(programs.folder, HANDOVERS);
  add(row('handover of an idle NVMe, longest wait', 'ms', { ours: Math.max(...waits) }, { value: 100 }));
  add(row('handover of an idle NVMe, pause', 'ms', { ours: pauses }));

  const lookups = lookupTimes(options.aliases);
  add(row(`alias lookup in ${lookups.lines} lines`, 'us', { ours: lookups.microseconds }, { value: 2 }));

  if (options.json === true) process.stdout.write(`${JSON.stringify({ rounds: options.rounds, rows }, null, 2)}\n`);
  const missed = rows.filter(({ isMet }) => isMet === false);
  if (missed.length > 0) {
    process.stderr.write(`bounds missed: ${missed.map(({ name }) => name).join('; ')}\n`);
    if (options.check === true) process.exitCode = 1;
  }
} finally {
  programs.close();
}
