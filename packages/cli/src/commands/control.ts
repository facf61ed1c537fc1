import { resolve } from 'node:path';
import { formatSize } from '../format.js';
import type { Io } from '../io.js';
import { paint, printJson, printTable } from '../output.js';
import { ControlClient } from '../serve/control/client.js';
import type { ClientReport } from '../serve/methods/client-report.js';
import type { ServedInfo } from '../serve/methods/info.js';
import type { ServedMetrics } from '../serve/methods/metrics.js';
import type { ServedState } from '../serve/methods/state.js';
import { migrationWords } from './info.js';

export interface ControlOptions {
  readonly json?: boolean;
  readonly address?: string;
}

/** Milliseconds for an answer that needs no work: QEMU's patience. */
const ANSWER_TIMEOUT_MS = 5000;

const soon = (io: Io) => ({ signal: io.signal, timeoutMs: ANSWER_TIMEOUT_MS });

/** Calls a method for the function that is meant, or for each where none is named. */
async function forEach<T>(
  path: string,
  { address }: ControlOptions,
  call: (client: ControlClient, address: string) => Promise<T>,
): Promise<T[]> {
  await using client = await ControlClient.connect(path);
  const answers: T[] = [];
  for (const each of address === undefined ? client.hello.functions : [address]) answers.push(await call(client, each));
  return answers;
}

const clientWords = (client: ClientReport | null): string =>
  client === null ? 'none' : `${client.peer}${client.pid === null ? '' : `, pid ${client.pid}`}, since ${client.since}`;

/** Rows of "name: value" below an address. */
function printFacts(io: Io, title: string, facts: readonly (readonly [string, string])[]): void {
  io.out(`${paint(io, 'bold', title)}\n`);
  for (const [name, value] of facts) io.out(`  ${`${name}:`.padEnd(14)}${value}\n`);
}

/** `vfio control info` */
export async function controlInfo(path: string, options: ControlOptions, io: Io): Promise<void> {
  const all = await forEach(path, options, (client, address) => client.call('info', {}, { address, ...soon(io) }));
  if (options.json === true) return printJson(io, { functions: all });
  for (const info of all) printFacts(io, `${info.address}  ${info.ids}`, infoFacts(info));
}

function infoFacts(info: ServedInfo): [string, string][] {
  const { driver, ops, version, socket, physfn, client, pid } = info;
  const names = ops === driver ? driver : `${driver}, ops ${ops}`;
  return [
    ['driver', version === null ? names : `${names}, version ${version}`],
    ...(physfn === null ? [] : [['physfn', physfn] as [string, string]]),
    ['migration', migrationWords(info)],
    ['socket', socket ?? 'inherited'],
    ['client', clientWords(client)],
    ['served by', `pid ${pid}`],
  ];
}

/** `vfio control state` */
export async function controlState(path: string, options: ControlOptions, io: Io): Promise<void> {
  const all = await forEach(path, options, (client, address) => client.call('state', {}, { address, ...soon(io) }));
  if (options.json === true) return printJson(io, { functions: all });
  printTable(io, ['FUNCTION', 'MIGRATION', 'POWER', 'IN USE', 'CLIENT'], all.map(stateRow));
}

const stateRow = ({ address, migration, streaming, power, lowPower, inUse, client }: ServedState): string[] => [
  address,
  `${migration ?? '-'}${streaming ? ', streaming' : ''}`,
  `${power}${lowPower ? ', low power' : ''}`,
  inUse ? 'yes' : 'no',
  clientWords(client),
];

/** `vfio control metrics` */
export async function controlMetrics(path: string, options: ControlOptions, io: Io): Promise<void> {
  const all = await forEach(path, options, (client, address) => client.call('metrics', {}, { address, ...soon(io) }));
  if (options.json === true) return printJson(io, { functions: all });
  for (const metrics of all) printMetrics(metrics, io);
}

function printMetrics({ address, clients, client, commands, bytes, queue }: ServedMetrics, io: Io): void {
  const behind = queue.running === null ? '' : ` behind ${queue.running}`;
  printFacts(io, address, [
    ['clients', `${clients} so far`],
    ['client', clientWords(client)],
    ['received', formatSize(bytes.received)],
    ['sent', formatSize(bytes.sent)],
    ['waiting', `${queue.messages} messages, ${formatSize(queue.bytes)}${behind}`],
  ]);
  const rows = Object.entries(commands).map(([name, { messages, errors, bytes: size }]) => [
    name,
    String(messages),
    String(errors),
    formatSize(size),
  ]);
  if (rows.length > 0) printTable(io, ['COMMAND', 'MESSAGES', 'ERRORS', 'BYTES'], rows, '  ');
}

/** `vfio control trace`: lines until it is stopped, or a file that the server writes. */
export async function controlTrace(
  path: string,
  options: ControlOptions & { readonly file?: string; readonly stop?: boolean },
  io: Io,
): Promise<void> {
  await using client = await ControlClient.connect(path);
  const { address, json } = options;
  if (options.file !== undefined || options.stop === true) {
    const { file } = await client.call(
      'trace',
      options.file === undefined ? { action: 'stop' } : { action: 'start', file: resolve(io.cwd, options.file) },
      { address, ...soon(io) },
    );
    if (json === true) printJson(io, { file });
    else io.out(file === null ? 'no trace is written any more\n' : `the trace goes to ${file}\n`);
    return;
  }
  await client.call(
    'trace',
    { action: 'stream' },
    {
      address,
      signal: io.signal,
      onProgress: ({ lines, dropped }) => {
        if (json === true) io.out(`${JSON.stringify({ lines, dropped })}\n`);
        else {
          for (const line of lines) io.out(`${line}\n`);
          if (dropped > 0) io.err(`${paint(io, 'yellow', 'warning')}: ${dropped} lines are missing here\n`);
        }
      },
    },
  );
}
