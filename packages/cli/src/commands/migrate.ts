import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { errnoError, isVfioError, messageOf, VfioError } from '@vfio/core';
import { type Checkpoint, loadFrom, type MovePurpose, type MoveReport, meetAt, saveTo } from '@vfio/vfio-user';
import { formatRoughly } from '../format.js';
import type { Io } from '../io.js';
import { paint, printJson } from '../output.js';
import { type ProgressBar, progressBar } from '../progress-bar.js';
import { ControlClient } from '../serve/control/client.js';
import type { ServedInfo } from '../serve/methods/info.js';
import type { MigrateOutParams } from '../serve/methods/migrate-out.js';
import { moveProgressReport } from '../serve/methods/move-progress.js';
import { UsageError } from '../usage-error.js';

export interface MigrateOptions {
  readonly from?: string;
  readonly to?: string;
  readonly save?: string;
  readonly load?: string;
  readonly fromAddress?: string;
  readonly toAddress?: string;
  readonly deviceOnly?: boolean;
  readonly trustLog?: boolean;
  readonly maxDowntime?: number;
  readonly maxRounds?: number;
  readonly bandwidth?: number;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

/** One end as the command was told of it. */
interface End {
  readonly client: ControlClient;
  readonly address: string | undefined;
  readonly info: ServedInfo;
}

/** What `vfio migrate --json` shows: schemas/migrate.json. */
export interface MigrateResult {
  readonly outcome: 'moved' | 'saved' | 'loaded' | 'possible';
  /** Null: a file. */
  readonly from: EndReport | null;
  readonly to: EndReport | null;
  readonly file: string | null;
  readonly fileBytes: number | null;
  readonly rounds: number | null;
  readonly stateBytes: number;
  readonly memoryBytes: number;
  readonly sharedBytes: number;
  readonly leftBytes: number;
  readonly downtimeMs: number | null;
  readonly totalMs: number;
}

interface EndReport {
  readonly control: string;
  readonly address: string;
  readonly driver: string;
  readonly driverVersion: string | null;
  readonly migration: readonly string[];
}

/** `vfio migrate` */
export async function migrate(options: MigrateOptions, io: Io): Promise<void> {
  const work = workOf(options);
  const bar = progressBar(io, options.json !== true);
  try {
    const result = await work(options, io, bar);
    bar.end();
    if (options.json === true) printJson(io, result);
    else printResult(result, io);
  } finally {
    bar.end();
  }
}

type Work = (options: MigrateOptions, io: Io, bar: ProgressBar) => Promise<MigrateResult>;

/** What the options ask for. @throws {@link UsageError} */
function workOf({ from, to, save, load, dryRun, deviceOnly, fromAddress, toAddress }: MigrateOptions): Work {
  const named = { from, to, save, load };
  const given = Object.entries(named).flatMap(([name, value]) => (value === undefined ? [] : [name]));
  for (const [name, value] of Object.entries(named)) if (value === '') throw new UsageError(`--${name} is empty`);
  if (fromAddress !== undefined && from === undefined) throw new UsageError('--from-address goes with --from');
  if (toAddress !== undefined && to === undefined) throw new UsageError('--to-address goes with --to');
  const pair = given.join(' ');
  if (pair === 'to load') {
    if (deviceOnly === true) throw new UsageError('--device-only goes with --from: a file has what was saved');
    return loadFile;
  }
  if (pair === 'from save') {
    if (dryRun === true) throw new UsageError('--dry-run asks the server at --to, and there is none');
    return saveFile;
  }
  if (pair === 'from to') return move;
  throw new UsageError(
    'say where the device comes from and where it goes: --from and --to, --from and --save, or --load and --to',
  );
}

async function connect(path: string, address: string | undefined, cwd: string): Promise<End> {
  const client = await ControlClient.connect(resolve(cwd, path));
  try {
    return { client, address, info: await client.call('info', {}, { address }) };
  } catch (error) {
    client.close();
    throw error;
  }
}

/** From one server to another. */
async function move(options: MigrateOptions, io: Io, bar: ProgressBar): Promise<MigrateResult> {
  const started = performance.now();
  const from = await connect(options.from ?? '', options.fromAddress, io.cwd);
  try {
    const to = await connect(options.to ?? '', options.toAddress, io.cwd);
    try {
      const purpose = options.dryRun === true ? 'check' : 'move';
      const report = await moveBetween(from, to, outParams(options, purpose), io, bar);
      return {
        outcome: purpose === 'check' ? 'possible' : 'moved',
        from: endReport(from),
        to: endReport(to),
        file: null,
        fileBytes: null,
        rounds: report?.rounds ?? null,
        stateBytes: report?.stateBytes ?? 0,
        memoryBytes: report?.memoryBytes ?? 0,
        sharedBytes: report?.sharedBytes ?? 0,
        leftBytes: report?.leftBytes ?? 0,
        downtimeMs: report?.downtimeMs ?? null,
        totalMs: performance.now() - started,
      };
    } finally {
      to.client.close();
    }
  } finally {
    from.client.close();
  }
}

function outParams(options: MigrateOptions, purpose: MovePurpose): Omit<MigrateOutParams, 'path'> {
  const { deviceOnly = false, trustLog = false, maxDowntime, maxRounds, bandwidth } = options;
  return { purpose, deviceOnly, trustLog, maxDowntimeMs: maxDowntime, maxRounds, bandwidth };
}

/** @returns the source's report; undefined where it did not hear that the device runs, which the destination said */
async function moveBetween(
  from: End,
  to: End,
  params: Omit<MigrateOutParams, 'path'>,
  io: Io,
  bar: ProgressBar,
): Promise<MoveReport | undefined> {
  const incoming = new Incoming(to);
  try {
    const path = await incoming.path;
    const result = await from.client.call(
      'migrate-out',
      { ...params, path },
      { address: from.address, signal: io.signal, onProgress: (progress) => bar.show(progress) },
    );
    if (result.outcome === 'done') {
      await incoming.done;
      return result;
    }
    await decide(from, to, incoming.done, result.message);
    return undefined;
  } catch (error) {
    // The destination is clean when the command ends, not some time later.
    await incoming.end();
    throw error;
  }
}

/** A `migrate-in` that runs. */
class Incoming {
  /** Where the server waits. */
  readonly path: Promise<string>;
  readonly done: Promise<unknown>;
  readonly #stop = new AbortController();

  constructor({ client, address }: End) {
    let waiting: (path: string) => void = () => {};
    const path = new Promise<string>((resolve) => {
      waiting = resolve;
    });
    this.done = client.call(
      'migrate-in',
      {},
      {
        address,
        signal: this.#stop.signal,
        onProgress: (progress) => {
          if (progress.type === 'waiting') waiting(progress.path);
        },
      },
    );
    this.done.catch(() => {});
    this.path = Promise.race([path, this.done.then(() => path)]);
    this.path.catch(() => {});
  }

  /** Calls it off, and waits for its end. */
  async end(): Promise<void> {
    this.#stop.abort();
    await this.done.catch(() => {});
  }
}

/**
 * The source has stopped its device for good and did not hear whether the other one runs. Whoever sees both can tell.
 * @throws where it does not run: the source's runs again; or where that cannot be known
 */
async function decide(from: End, to: End, incoming: Promise<unknown>, why: string): Promise<void> {
  try {
    await incoming;
    return;
  } catch (error) {
    if (isVfioError(error, 'ERR_VFIO_DISCONNECTED') && !(await isDead(to.client.path))) {
      throw new VfioError(
        'ERR_VFIO_STATE',
        `${why}; and the server at ${to.client.path} cannot be asked (${messageOf(error)}). If its device does not run, call migrate-take-back of ${from.client.path}`,
        { errno: 'EREMOTEIO', op: 'migrate' },
      );
    }
    await from.client.call('migrate-take-back', {}, { address: from.address });
    throw error;
  }
}

/** Whether nobody is behind a control socket any more. */
async function isDead(path: string): Promise<boolean> {
  try {
    (await ControlClient.connect(path)).close();
    return false;
  } catch (error) {
    return isVfioError(error) && (error.errno === 'ECONNREFUSED' || error.errno === 'ENOENT');
  }
}

/** From a server into a file. */
async function saveFile(options: MigrateOptions, io: Io, bar: ProgressBar): Promise<MigrateResult> {
  const started = performance.now();
  const file = resolve(io.cwd, options.save ?? '');
  const from = await connect(options.from ?? '', options.fromAddress, io.cwd);
  const folder = await mkdtemp(join(tmpdir(), 'vfio-save-'));
  const stop = new AbortController();
  const onSignal = () => stop.abort();
  io.signal.addEventListener('abort', onSignal, { once: true });
  try {
    const meeting = meetAt(join(folder, 'socket'));
    const saved = meeting.arrival.then((fd) => saveTo(file, fd, { signal: stop.signal }));
    saved.catch(() => {});
    try {
      const report = await from.client.call(
        'migrate-out',
        { ...outParams(options, 'save'), path: meeting.path },
        { address: from.address, signal: io.signal, onProgress: (progress) => bar.show(progress) },
      );
      if (report.outcome !== 'done') throw errnoError('EIO', report.message, { op: 'migrate' });
      const { fileBytes } = await saved;
      return {
        outcome: 'saved',
        from: endReport(from),
        to: null,
        file,
        fileBytes,
        rounds: report.rounds,
        stateBytes: report.stateBytes,
        memoryBytes: report.memoryBytes,
        sharedBytes: report.sharedBytes,
        leftBytes: report.leftBytes,
        downtimeMs: report.downtimeMs,
        totalMs: performance.now() - started,
      };
    } catch (error) {
      // Nothing of the file is left when the command ends.
      meeting.close();
      stop.abort();
      await saved.catch(() => {});
      throw error;
    } finally {
      meeting.close();
    }
  } finally {
    io.signal.removeEventListener('abort', onSignal);
    from.client.close();
    await rm(folder, { recursive: true, force: true });
  }
}

/** From a file into a server. */
async function loadFile(options: MigrateOptions, io: Io, bar: ProgressBar): Promise<MigrateResult> {
  const started = performance.now();
  const file = resolve(io.cwd, options.load ?? '');
  const to = await connect(options.to ?? '', options.toAddress, io.cwd);
  const incoming = new Incoming(to);
  try {
    const loaded: Checkpoint = await loadFrom(file, await incoming.path, {
      signal: io.signal,
      isCheck: options.dryRun === true,
      onProgress: (progress) => bar.show(moveProgressReport(progress)),
    });
    await incoming.done;
    return {
      outcome: options.dryRun === true ? 'possible' : 'loaded',
      from: null,
      to: endReport(to),
      file,
      fileBytes: loaded.fileBytes,
      rounds: null,
      stateBytes: loaded.stateBytes,
      memoryBytes: loaded.memoryBytes,
      sharedBytes: 0,
      leftBytes: 0,
      downtimeMs: null,
      totalMs: performance.now() - started,
    };
  } finally {
    await incoming.end();
    to.client.close();
  }
}

const endReport = ({ client, info }: End): EndReport => ({
  control: client.path,
  address: info.address,
  driver: info.driver,
  driverVersion: info.version,
  migration: info.migration,
});

const endWords = (end: EndReport | null, file: string | null): string =>
  end === null ? `${file}` : `${end.address} at ${end.control}`;

function printResult(result: MigrateResult, io: Io): void {
  const { outcome, from, to, file, fileBytes, rounds, downtimeMs, sharedBytes, leftBytes } = result;
  const title = `${endWords(from, file)} to ${endWords(to, file)}`;
  io.out(`${paint(io, 'bold', title)}: ${outcome === 'possible' ? 'can be done' : outcome}\n`);
  const fact = (name: string, value: string) => io.out(`  ${`${name}:`.padEnd(10)}${value}\n`);
  for (const end of [from, to]) {
    if (end === null || outcome !== 'possible') continue;
    const version = end.driverVersion === null ? '' : ` ${end.driverVersion}`;
    fact(end === from ? 'from' : 'to', `${end.driver}${version}, ${end.migration.join(' ')}`);
  }
  if (outcome !== 'possible') {
    fact('state', formatRoughly(result.stateBytes));
    fact('memory', formatRoughly(result.memoryBytes));
  }
  if (sharedBytes > 0) fact('shared', `${formatRoughly(sharedBytes)} of memory is the same at both`);
  if (leftBytes > 0) fact('left', `${formatRoughly(leftBytes)} of memory, which only the client writes, is left to it`);
  if (fileBytes !== null) fact('file', formatRoughly(fileBytes));
  if (rounds !== null && rounds > 0) fact('rounds', String(rounds));
  if (downtimeMs !== null && outcome !== 'possible') fact('downtime', `${Math.ceil(downtimeMs)} ms`);
  if (outcome !== 'possible') fact('total', `${Math.ceil(result.totalMs)} ms`);
}
