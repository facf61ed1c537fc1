import {
  decodeVfioUserMigData,
  encodeVfioUserMigData,
  encodeVfioUserMigDataRead,
  errnoError,
  VFIO_USER_MIG_DATA_READ,
  VFIO_USER_MIG_DATA_WRITE,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { brokenReplyError } from '../connection.js';
import type { Procedure } from './procedure.js';

/** What a read or write of device state is made of; the same for both kinds of client. */
export class MigrationStream {
  readonly #isSaving: boolean;
  readonly #maxData: number;
  #isOver = false;

  constructor(isSaving: boolean, maxData: number) {
    this.#isSaving = isSaving;
    this.#maxData = maxData;
  }

  /** The device has left the states that this stream belongs to. */
  end(): void {
    this.#isOver = true;
  }

  /** Filled up, so that only the end of the state (or of what there is for now) answers short. */
  *read(into: Uint8Array): Procedure<number> {
    let done = 0;
    do {
      this.#check(true);
      const size = Math.min(into.length - done, this.#maxData);
      const reply = yield {
        command: VFIO_USER_MIG_DATA_READ,
        pieces: [encodeVfioUserMigDataRead(size, LITTLE_ENDIAN)],
      };
      const data = decodeVfioUserMigData(reply.payload, LITTLE_ENDIAN);
      if (data.length > size) throw brokenReplyError(VFIO_USER_MIG_DATA_READ, `${data.length} bytes for ${size}`);
      into.set(data, done);
      done += data.length;
      if (data.length < size) break;
    } while (done < into.length);
    return done;
  }

  *write(from: Uint8Array): Procedure<number> {
    for (let done = 0; done < from.length; done += this.#maxData) {
      this.#check(false);
      const part = from.subarray(done, done + this.#maxData);
      yield { command: VFIO_USER_MIG_DATA_WRITE, pieces: [encodeVfioUserMigData(part, LITTLE_ENDIAN)] };
    }
    return from.length;
  }

  #check(isRead: boolean): void {
    if (this.#isOver) throw errnoError('ENODEV', 'the migration stream has ended', { op: 'MIG_DATA' });
    if (isRead !== this.#isSaving) {
      throw errnoError('EINVAL', `the stream is for ${this.#isSaving ? 'reading' : 'writing'}`, { op: 'MIG_DATA' });
    }
  }
}
