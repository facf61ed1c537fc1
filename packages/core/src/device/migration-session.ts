import { VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_PRECOPY_INFO_REINIT } from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { chain, type MaybePromise } from './maybe-promise.js';
import { migrationStateName } from './migration-fsm.js';
import type { MigrationData, PrecopyInfo } from './migration-types.js';

/**
 * A driver's data stream as users hold it: dead (ENODEV) once the session that it belongs to has ended, whether by an arc,
 * a reset or the close of the device.
 */
export class MigrationSession implements MigrationData {
  readonly #dev: VfioPciCoreDevice;
  readonly #data: MigrationData;
  #ended = false;

  constructor(dev: VfioPciCoreDevice, data: MigrationData) {
    this.#dev = dev;
    this.#data = data;
  }

  read(into: Uint8Array): MaybePromise<number> {
    this.#checkAlive('read');
    return this.#data.read(into);
  }

  write(from: Uint8Array): MaybePromise<number> {
    this.#checkAlive('write');
    return this.#data.write(from);
  }

  precopyInfo(): MaybePromise<PrecopyInfo> {
    this.#checkAlive('precopyInfo');
    const state = this.#dev.migrationOps?.getState(this.#dev) ?? -1;
    if (state !== VFIO_DEVICE_STATE_PRE_COPY && state !== VFIO_DEVICE_STATE_PRE_COPY_P2P) {
      throw this.#dev.error(
        'EINVAL',
        'MIG_GET_PRECOPY_INFO',
        `allowed in the PRE_COPY states, the device is in ${migrationStateName(state)}`,
      );
    }
    // A user who did not opt in does not expect initial bytes to rise again, nor the flag that says so.
    return chain(this.#data.precopyInfo(), (info) =>
      this.#dev.precopyInfoV2 ? info : { ...info, flags: info.flags & ~VFIO_PRECOPY_INFO_REINIT },
    );
  }

  /** The user lets go of the stream. */
  close(): void {
    this.end();
  }

  /** The session is over. Idempotent. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#data.close();
  }

  #checkAlive(op: string): void {
    if (this.#ended) throw this.#dev.error('ENODEV', op, 'the migration session of this stream has ended');
  }
}
