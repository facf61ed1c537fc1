import { join } from 'node:path';
import { DEMO } from '@vfio/emulated';
import { type MigrateResult, migrate } from '../commands/migrate.js';
import type { Io } from '../io.js';
import { ENGINE_IOVA, ServedPlace } from './engine-place.js';
import { type EngineCounters, EngineProgram } from './engine-program.js';
import { InterruptLatch } from './interrupt-latch.js';
import { ServeProcess } from './serve-process.js';

/** The first virtual function of the demo host's ConnectX, and what makes it. */
export const MIGRATED = DEMO.connectx.replace(/0$/, '1');
const SET_UP = ['--driver-override', `${DEMO.connectx}=mlx5_core`, '--sriov-numvfs', `${DEMO.connectx}=1`];

/** Turns before the move, and after it: enough that every page was written in every pass. */
const TURNS = 150;

/** What the demo's last part shows. */
export interface MigrationReport {
  readonly address: string;
  readonly driver: string;
  readonly from: { readonly pid: number; readonly turns: number; readonly interrupts: number };
  readonly to: { readonly pid: number; readonly turns: number; readonly interrupts: number };
  /** Turns that ended while the move was under way. */
  readonly turnsMeanwhile: number;
  /** Of the engine, at the end. */
  readonly counters: EngineCounters;
  readonly countersRight: boolean;
  /** Interrupts that came, at both: each once. */
  readonly interruptsRight: boolean;
  /** Pages and checksums that were wrong, right after the move and at the end. */
  readonly wrong: number;
  readonly rounds: number;
  readonly stateBytes: number;
  readonly memoryBytes: number;
  readonly downtimeMs: number;
  readonly milliseconds: number;
}

/** Whether a move lost nothing. */
export const isIntact = ({ countersRight, interruptsRight, wrong }: MigrationReport): boolean =>
  countersRight && interruptsRight && wrong === 0;

/** Two `vfio serve` processes with the same virtual function. They start at once, and are ready some time later. */
export class MigrationDemo {
  readonly #io: Io;
  readonly #folder: string;
  readonly #processes: readonly [from: ServeProcess, to: ServeProcess];

  constructor(folder: string, io: Io) {
    this.#io = io;
    this.#folder = folder;
    const start = (name: string) => new ServeProcess([MIGRATED, ...SET_UP, ...this.#sockets(name)], io);
    this.#processes = [start('from'), start('to')];
  }

  #sockets(name: string): string[] {
    return ['--socket-path', join(this.#folder, name), '--control-path', this.#control(name)];
  }

  #control(name: string): string {
    return join(this.#folder, `${name}.control`);
  }

  /** Puts the function under load at the one, moves it to the other, and checks what became of the load. */
  async run(): Promise<MigrationReport> {
    const [from, to] = this.#processes;
    await Promise.all([from.ready, to.ready]);
    const latches = { from: new InterruptLatch(), to: new InterruptLatch() };
    const all = new InterruptLatch();
    const attach = (name: 'from' | 'to') =>
      ServedPlace.attach(join(this.#folder, name), () => {
        latches[name].signal();
        all.signal();
      });
    await using source = await attach('from');
    await using target = await attach('to');
    const program = new EngineProgram(source, ENGINE_IOVA, all);
    await program.start();
    await program.run(() => program.turns === TURNS, unmoved);

    // The load goes on while it moves.
    let moved: MigrateResult | undefined;
    let turnsAtMove: number | undefined;
    const moving = this.#migrate().then((result) => {
      moved = result;
      return result;
    });
    let hasFailed = false;
    moving.catch(() => {
      hasFailed = true;
    });
    await program.run(
      () => hasFailed || (turnsAtMove !== undefined && program.turns > turnsAtMove),
      async () => {
        await moving;
        turnsAtMove = program.turns;
        return target;
      },
    );
    const result = moved ?? (await moving);
    let wrong = program.wrong();
    const end = program.turns + TURNS;
    await program.run(() => program.turns === end, unmoved);
    wrong += program.wrong();

    const counters = await program.counters();
    const expected = program.expected();
    const turns = turnsAtMove ?? 0;
    return {
      address: MIGRATED,
      driver: result.to?.driver ?? '',
      from: { pid: from.pid, turns, interrupts: latches.from.count },
      to: { pid: to.pid, turns: program.turns - turns, interrupts: latches.to.count },
      turnsMeanwhile: turns - TURNS,
      counters,
      countersRight: JSON.stringify(counters) === JSON.stringify(expected),
      interruptsRight: all.count === expected.interrupts,
      wrong,
      rounds: result.rounds ?? 0,
      stateBytes: result.stateBytes,
      memoryBytes: result.memoryBytes,
      downtimeMs: result.downtimeMs ?? 0,
      milliseconds: result.totalMs,
    };
  }

  /** What `vfio migrate --json` does and prints. */
  async #migrate(): Promise<MigrateResult> {
    let printed = '';
    const out = (text: string): void => {
      printed += text;
    };
    await migrate({ from: this.#control('from'), to: this.#control('to'), json: true }, { ...this.#io, out });
    return JSON.parse(printed) as MigrateResult;
  }

  async end(): Promise<void> {
    await Promise.all(this.#processes.map((process) => process.end()));
  }
}

const unmoved = (refusal: unknown): Promise<never> => Promise.reject(refusal);
