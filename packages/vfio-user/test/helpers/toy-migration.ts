import {
  type MigrationData,
  type VfioMigrationOps,
  type VfioPciCoreDevice,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
} from '@vfio/core';
import { Edu, EmulatedPciHost } from '@vfio/emulated';
import { errnoError } from '@vfio/uapi';

export const STATE = { ERROR: 0, STOP: 1, RUNNING: 2, STOP_COPY: 3, RESUMING: 4, PRE_COPY: 6 } as const;

/**
 * A driver whose device's state is some bytes. It hands them out in pieces of `piece` bytes, and takes as many at a time:
 * how a device cuts its state must not show to a client.
 */
export class ToyMigration {
  state = new Uint8Array(0);
  piece = Number.POSITIVE_INFINITY;
  /** While the device runs, nothing more is to be had than this. */
  precopyBytes = 0;
  readonly arcs: string[] = [];
  streams = 0;
  current: number = STATE.RUNNING;
  /** Arcs wait for this. */
  slow: Promise<void> | undefined;

  readonly ops: VfioMigrationOps<VfioPciCoreDevice> = {
    setState: (_dev, next) => (this.slow === undefined ? this.#arc(next) : this.slow.then(() => this.#arc(next))),
    getState: () => this.current,
    getDataSize: () => BigInt(this.state.length),
  };

  #arc(next: number): MigrationData | undefined {
    const before = this.current;
    this.arcs.push(`${before}>${next}`);
    this.current = next;
    if (next === STATE.RESUMING) return this.#loading();
    const opens = next === STATE.PRE_COPY || (next === STATE.STOP_COPY && before !== STATE.PRE_COPY);
    return opens ? this.#saving() : undefined;
  }

  #saving(): MigrationData {
    let at = 0;
    this.streams++;
    return {
      read: (into) => {
        const end = this.current === STATE.PRE_COPY ? this.precopyBytes : this.state.length;
        if (at >= end && this.current === STATE.PRE_COPY) throw errnoError('ENOMSG', 'nothing for now');
        const data = this.state.subarray(at, Math.min(end, at + Math.min(into.length, this.piece)));
        into.set(data);
        at += data.length;
        return data.length;
      },
      write: () => {
        throw errnoError('EINVAL', 'the stream is for reading');
      },
      precopyInfo: () => ({ flags: 0, initialBytes: 0n, dirtyBytes: 0n }),
      close: () => void this.streams--,
    };
  }

  #loading(): MigrationData {
    this.state = new Uint8Array(0);
    this.streams++;
    return {
      read: () => {
        throw errnoError('EINVAL', 'the stream is for writing');
      },
      write: (from) => {
        const part = from.subarray(0, Math.min(from.length, this.piece));
        this.state = Uint8Array.from([...this.state, ...part]);
        return part.length;
      },
      precopyInfo: () => {
        throw errnoError('EINVAL', 'not saving');
      },
      close: () => void this.streams--,
    };
  }
}

/** An edu that can be migrated. */
export async function migratable(flags: number) {
  const toy = new ToyMigration();
  const fn = new EmulatedPciHost().add({ address: '0000:00:02.0', model: (ctx) => new Edu(ctx, { express: true }) });
  const device = vfioPciCoreAllocDevice(fn, (core) => ({
    ...core,
    name: 'toy',
    init(dev) {
      core.init(dev);
      dev.migrationFlags = flags;
      dev.migrationOps = toy.ops;
      dev.resetDone.push(() => {
        toy.current = STATE.RUNNING;
      });
    },
  }));
  await vfioPciCoreRegisterDevice(device);
  return { toy, device };
}
