import { type VfioPciCoreDevice, vfioPciCoreAllocDevice, vfioPciCoreRegisterDevice } from '@vfio/core';
import {
  type BarHandler,
  type DeviceModel,
  type EmulatedFunction,
  EmulatedPciHost,
  type FunctionContext,
} from '@vfio/emulated';
import { errnoError, VFIO_MIGRATION_STOP_COPY } from '@vfio/uapi';
import { STATE, ToyMigration } from './toy-migration.js';

/** Registers of BAR 0. What is written to ADD is added to SUM, and COUNT counts the writes; each write to DMA stores SUM there. */
export const MOVABLE = { SUM: 0, ADD: 8, COUNT: 12, DMA: 16, LINE: 24, SCRATCH: 32, SIZE: 64 } as const;

/** A device whose every register counts what it was told: a message that is lost or comes twice shows. */
export class MovableModel implements DeviceModel, BarHandler {
  readonly #ctx: FunctionContext;
  readonly registers = new Uint8Array(MOVABLE.SIZE);
  readonly #view = new DataView(this.registers.buffer);
  isStopped = false;
  /** What was done while it was stopped. */
  readonly faults: string[] = [];

  constructor(ctx: FunctionContext, revision = 0) {
    this.#ctx = ctx;
    ctx.identity({ vendor: 0x1234, device: 0x0e21, class: 0xff0000, revision });
    ctx.intx();
    ctx.bar(0, { size: 0x4000, handler: this });
    ctx.pm({ noSoftReset: true });
    ctx.msi({ vectors: 4, is64Bit: true });
    ctx.msix({ vectors: 8, table: { bar: 0, offset: 0x2000 }, pba: { bar: 0, offset: 0x3000 } });
    ctx.express({ flr: true });
  }

  read(offset: number, width: 1 | 2 | 4): number {
    if (this.isStopped) this.faults.push(`read of ${offset}`);
    return width === 4 && offset < MOVABLE.SIZE ? this.#view.getInt32(offset, true) : 0;
  }

  write(offset: number, width: 1 | 2 | 4, value: number): void {
    if (this.isStopped) this.faults.push(`write of ${offset}`);
    if (width !== 4 || offset >= MOVABLE.SIZE) return;
    const view = this.#view;
    if (offset === MOVABLE.ADD) {
      view.setInt32(MOVABLE.SUM, view.getInt32(MOVABLE.SUM, true) + value, true);
      view.setInt32(MOVABLE.COUNT, view.getInt32(MOVABLE.COUNT, true) + 1, true);
      this.#ctx.irq.send(value & 7);
      return;
    }
    view.setInt32(offset, value, true);
    if (offset === MOVABLE.DMA) void this.#store(value >>> 0);
    if (offset === MOVABLE.LINE) this.#raise();
  }

  /** Puts INTx where the register says. */
  #raise(): void {
    this.#ctx.irq.setIntx(this.#view.getInt32(MOVABLE.LINE, true) !== 0);
  }

  async #store(iova: number): Promise<void> {
    try {
      await this.#ctx.dma.write(iova, this.registers.slice(MOVABLE.SUM, MOVABLE.SUM + 4));
    } catch {
      // Nobody took it: the engine gives up.
    }
  }

  load(registers: Uint8Array): void {
    this.registers.set(registers);
    this.#raise();
  }

  reset(): void {
    this.registers.fill(0);
    this.isStopped = false;
  }
}

/** The migration of a {@link MovableModel}: its registers, and a version in front that its driver checks. */
export class MovableMigration extends ToyMigration {
  readonly #model: MovableModel;
  readonly version: number;
  /** Arcs to these states fail. */
  readonly failing = new Set<number>();

  constructor(model: MovableModel, version: number) {
    super();
    this.#model = model;
    this.version = version;
    const { ops } = this;
    const setState = ops.setState;
    ops.setState = async (dev, next) => {
      await this.slow;
      if (this.failing.has(next)) throw errnoError('EIO', `the arc to ${next} fails`);
      if (next === STATE.STOP_COPY) this.state = Uint8Array.of(this.version, ...this.#model.registers);
      const before = this.current;
      if (before === STATE.RESUMING && next === STATE.STOP) this.#load();
      this.#model.isStopped = next !== STATE.RUNNING && next !== STATE.RESUMING;
      return setState(dev, next);
    };
  }

  /** An older version's state is read too. */
  #load(): void {
    const [version, ...registers] = this.state;
    if (version === undefined || version > this.version || registers.length !== MOVABLE.SIZE) {
      this.current = STATE.ERROR;
      throw errnoError('EINVAL', `a state of version ${version}, ${this.version} is the newest known here`);
    }
    this.#model.load(Uint8Array.from(registers));
  }
}

export interface Movable {
  readonly device: VfioPciCoreDevice;
  readonly fn: EmulatedFunction<MovableModel>;
  readonly model: MovableModel;
  readonly migration: MovableMigration;
}

/** A device that can be handed over. */
export async function movable(options: { version?: number; ops?: string; revision?: number } = {}): Promise<Movable> {
  const { version = 1, ops = 'movable', revision = 0 } = options;
  const fn = new EmulatedPciHost().add({
    address: '0000:00:02.0',
    model: (ctx) => new MovableModel(ctx, revision),
  });
  const migration = new MovableMigration(fn.model, version);
  const device = vfioPciCoreAllocDevice(fn, (core) => ({
    ...core,
    name: ops,
    init(dev) {
      core.init(dev);
      dev.migrationFlags = VFIO_MIGRATION_STOP_COPY;
      dev.migrationOps = migration.ops;
      dev.resetDone.push(() => {
        migration.current = STATE.RUNNING;
        fn.model.isStopped = false;
      });
    },
  }));
  await vfioPciCoreRegisterDevice(device);
  return { device, fn, model: fn.model, migration };
}
