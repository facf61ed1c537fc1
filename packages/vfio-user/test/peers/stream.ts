import { closeFd, connectUnix, recvMessage, sendMessage, setNonBlocking } from '@vfio/native';
import { isVfioError } from '@vfio/uapi';
import { turn } from '../helpers/raw-client.js';
import { cleanup } from '../helpers/serve.js';

/** What a client dies of: an assertion of its own, or a wait without end. */
export class PeerDied extends Error {}

/** What came of a read of exactly so many bytes. */
export interface Read {
  readonly data: Buffer;
  /** Descriptors that came with its bytes. */
  readonly fds: readonly number[];
  /** Bytes of the first system call that had any. */
  readonly first: number;
}

/**
 * A socket that is read as C and Rust clients do it: exactly the bytes that they expect next, never more. What is left in
 * the stream is taken for the start of the next reply.
 */
export class PeerStream {
  readonly #fd: number;
  readonly #patienceMs: number;
  #isOpen = true;

  /** @param patienceMs after which the peer counts as hanging: real ones may have no timeout at all */
  constructor(path: string, patienceMs = 3000) {
    this.#patienceMs = patienceMs;
    this.#fd = connectUnix(path);
    setNonBlocking(this.#fd, true);
    cleanup(() => this.close());
  }

  async send(message: Uint8Array, fds: readonly number[] = []): Promise<void> {
    let rest = message;
    let withRest = fds;
    while (rest.length > 0) {
      try {
        rest = rest.subarray(sendMessage(this.#fd, [rest], withRest));
        withRest = [];
      } catch (error) {
        if (!isVfioError(error) || error.errno !== 'EAGAIN') throw error;
        await turn();
      }
    }
  }

  /**
   * Exactly `length` bytes.
   * @throws PeerDied where they do not come, or the server closed
   */
  async read(length: number): Promise<Read> {
    const until = Date.now() + this.#patienceMs;
    for (;;) {
      const read = await this.tryRead(length);
      if (read !== undefined) return read;
      if (Date.now() > until) throw new PeerDied(`waits for ever: 0 of ${length} bytes came`);
    }
  }

  /** {@link read}, where at least one of the bytes is there already; else others get a turn. */
  async tryRead(length: number): Promise<Read | undefined> {
    const data = Buffer.alloc(length);
    const fds: number[] = [];
    const room = new Int32Array(253);
    const until = Date.now() + this.#patienceMs;
    let first = 0;
    for (let done = 0; done < length; ) {
      const got = recvMessage(this.#fd, data, done, length - done, room);
      if (got === undefined) {
        await turn();
        if (done === 0) return undefined;
        if (Date.now() > until) throw new PeerDied(`waits for ever: ${done} of ${length} bytes came`);
        continue;
      }
      if (got.bytes === 0) throw new PeerDied('the server closed the connection');
      if (first === 0) first = got.bytes;
      fds.push(...room.subarray(0, got.fdCount));
      done += got.bytes;
    }
    return { data, fds, first };
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    closeFd(this.#fd);
  }
}
