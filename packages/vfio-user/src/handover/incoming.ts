import { closeFd } from '@vfio/native';
import { VfioError } from '@vfio/uapi';
import { type ListenPath, makeSocketFile, removeSocketFile, type SocketFile } from '../listen-socket.js';
import type { LoopSource, ServiceLoop } from '../service-loop.js';
import { HandoverTarget, type TargetOptions } from './target.js';

/** The socket on which a server waits for a client of another one. Those that come have their turn one after the other. */
export class Incoming implements LoopSource {
  readonly #loop: ServiceLoop;
  readonly #file: SocketFile;
  readonly #listener: number;
  readonly #options: TargetOptions;
  #target: HandoverTarget | undefined;
  #isClosed = false;

  /** @throws as `makeSocketFile` */
  constructor(where: ListenPath, options: TargetOptions) {
    this.#loop = options.loop;
    this.#options = options;
    this.#file = makeSocketFile(where);
    this.#listener = this.#loop.messages.addListener(this.#file.fd);
    this.#loop.attach(this.#listener, this);
  }

  onAccept(fd: number): void {
    this.#loop.messages.pause(this.#listener);
    const { onFailed, onTaken } = this.#options;
    try {
      this.#target = new HandoverTarget(fd, {
        ...this.#options,
        onFailed: (error) => {
          this.#again();
          onFailed(error);
        },
        onTaken: (taken) => {
          onTaken(taken);
          this.#remove();
        },
      });
    } catch (error) {
      closeFd(fd);
      this.onAcceptFailed();
      throw error;
    }
  }

  onAcceptFailed(): void {
    this.#options.onFailed(
      new VfioError('ERR_VFIO_LIMIT', 'the other server could not be accepted', { errno: 'EMFILE', op: 'handover' }),
    );
    this.#again();
  }

  #again(): void {
    this.#target = undefined;
    if (!this.#isClosed) this.#loop.messages.resume(this.#listener);
  }

  /** Nobody else can come. */
  #remove(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    removeSocketFile(this.#file);
    this.#loop.remove(this.#listener);
  }

  /** Ends what is under way and removes the socket. */
  async close(): Promise<void> {
    this.#remove();
    await this.#target?.close();
  }
}
