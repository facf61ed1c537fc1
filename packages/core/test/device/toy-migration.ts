import { errnoError } from '@vfio/uapi';
import type {
  MaybePromise,
  MigrationData,
  PrecopyInfo,
  VfioDeviceOps,
  VfioMigrationOps,
  VfioOpsFactory,
  VfioPciCoreDevice,
} from '../../src/index.js';

export const STATE = {
  ERROR: 0,
  STOP: 1,
  RUNNING: 2,
  STOP_COPY: 3,
  RESUMING: 4,
  RUNNING_P2P: 5,
  PRE_COPY: 6,
  PRE_COPY_P2P: 7,
} as const;

/** A stream that says who closed it. */
export class ToyStream implements MigrationData {
  closes = 0;
  info: PrecopyInfo = { flags: 1, initialBytes: 3n, dirtyBytes: 0n };

  read(into: Uint8Array): number {
    into.fill(7);
    return into.length;
  }

  write(from: Uint8Array): number {
    return from.length;
  }

  precopyInfo(): PrecopyInfo {
    return this.info;
  }

  close(): void {
    this.closes++;
  }
}

/** A migratable device without hardware: it keeps a record of its arcs. */
export class ToyMigration {
  state: number = STATE.RUNNING;
  arcs: string[] = [];
  streams: ToyStream[] = [];
  resets = 0;
  /** Arcs `from>to` that fail, and how. */
  failing: Record<string, string> = {};
  /** Arcs wait for this. */
  slow: Promise<void> | undefined;
  /** Arcs `from>to` that wrongly open a stream. */
  wrongStreams = new Set<string>();
  readonly flags: number;

  constructor(flags: number) {
    this.flags = flags;
  }

  readonly ops: VfioMigrationOps<VfioPciCoreDevice> = {
    setState: (_dev, next) => this.#arc(next),
    getState: () => this.state,
    getDataSize: () => 0x1234n,
  };

  /** The driver's table and what it attaches. */
  readonly factory: VfioOpsFactory = (core): VfioDeviceOps => ({
    ...core,
    name: 'toy',
    init: (dev) => {
      core.init(dev);
      dev.migrationFlags = this.flags;
      dev.migrationOps = this.ops;
      dev.resetDone.push(() => {
        this.resets++;
        this.state = STATE.RUNNING;
      });
    },
  });

  #arc(next: number): MaybePromise<MigrationData | undefined> {
    const name = `${this.state}>${next}`;
    this.arcs.push(name);
    const finish = () => {
      if (this.failing[name] !== undefined) throw errnoError('EIO', `arc ${name} failed`);
      const before = this.state;
      this.state = next;
      const wasSaving = before === STATE.PRE_COPY || before === STATE.PRE_COPY_P2P || before === STATE.STOP_COPY;
      const opens =
        next === STATE.RESUMING ||
        (!wasSaving && (next === STATE.STOP_COPY || next === STATE.PRE_COPY || next === STATE.PRE_COPY_P2P)) ||
        this.wrongStreams.has(name);
      if (!opens) return undefined;
      const stream = new ToyStream();
      this.streams.push(stream);
      return stream;
    };
    return this.slow === undefined ? finish() : this.slow.then(finish);
  }
}
