import { closeFd, type LoopSocket, socketpair } from '@vfio/native';
import {
  VFIO_USER_F_TYPE_COMMAND,
  VFIO_USER_HEADER_SIZE,
  VFIO_USER_MAJOR,
  VFIO_USER_REGION_READ,
  VFIO_USER_VERSION,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from './byte-order.js';
import { Counters } from './counters.js';
import {
  DEFAULT_DEADLINE_MS,
  DEFAULT_WATCHDOG_MS,
  DMA_PAGE_SIZE,
  MIN_DATA_XFER_SIZE,
  maxMessageSize,
} from './limits.js';
import { type LoopSource, PULSE, type ServiceLoop } from './service-loop.js';
import { ServerSession } from './session.js';
import { SilentDevice } from './silent-device.js';

/** Microseconds between two rehearsals. Twice as long, and a busy machine has the caches full of other things. */
const PERIOD_US = 5000;

/** Events of one rehearsal: the timer's, the request's and the reply's. */
const EVENTS = 3;

/** What an event adds to the pulse: its handler starts, and ends. */
const COUNTS_PER_EVENT = 2;

/** Payload of REGION_READ: u64 offset, u32 region, u32 count. */
const READ_FOUR_BYTES = [0, 0, 0, 4];

/**
 * Keeps the way of a register access warm. A guest that is idle looks at a register a few times a second, and by then the
 * code that answers has left the caches: a read takes twice as long as one that follows another. So for a while after
 * each message a message of our own goes the same way, through a socket, the loop and a session, to a device that is
 * nobody's, and its reply comes back. Real clients and their devices take no part in it.
 */
class Rehearsal implements LoopSource {
  readonly #loop: ServiceLoop;
  /** Periods without a real message, after which it is over. */
  readonly #most: number;
  readonly #timer: number;
  readonly #client: LoopSocket;
  #quiet = 0;
  /** The pulse when the timer last fired, and what rehearsing alone has added since. */
  #count = 0;
  #added = 0;

  /** @throws ERR_VFIO_SYSCALL */
  constructor(loop: ServiceLoop) {
    this.#loop = loop;
    this.#most = Math.ceil((loop.keepWarmMs * 1000) / PERIOD_US);
    this.#timer = loop.messages.addTimer();
    try {
      this.#client = connect(loop);
    } catch (error) {
      loop.remove(this.#timer);
      throw error;
    }
    loop.attach(this.#timer, this);
    this.#rest();
    this.#request(VFIO_USER_VERSION, [VFIO_USER_MAJOR]);
  }

  /** Time for the next one. */
  onTimer(): void {
    const count = this.#loop.pulse[PULSE.COUNT]!;
    const isQuiet = count - this.#count === this.#added;
    this.#count = count;
    this.#added = COUNTS_PER_EVENT;
    this.#quiet = isQuiet ? this.#quiet + 1 : 0;
    if (this.#quiet > this.#most) this.#rest();
    // Where there is traffic, that keeps the way warm.
    else if (isQuiet) this.#rehearse();
  }

  #rehearse(): void {
    this.#added = EVENTS * COUNTS_PER_EVENT;
    this.#request(VFIO_USER_REGION_READ, READ_FOUR_BYTES);
  }

  #request(command: number, payload: readonly number[]): void {
    const { messages } = this.#loop;
    const { txView } = messages;
    const size = VFIO_USER_HEADER_SIZE + payload.length * 4;
    txView.setUint16(0, 0, LITTLE_ENDIAN);
    txView.setUint16(2, command, LITTLE_ENDIAN);
    txView.setUint32(4, size, LITTLE_ENDIAN);
    txView.setUint32(8, VFIO_USER_F_TYPE_COMMAND, LITTLE_ENDIAN);
    txView.setUint32(12, 0, LITTLE_ENDIAN);
    for (let index = 0; index < payload.length; index++) {
      txView.setUint32(VFIO_USER_HEADER_SIZE + index * 4, payload[index]!, LITTLE_ENDIAN);
    }
    messages.trySendTx(this.#client.id, size);
  }

  #begin(): void {
    this.#loop.onMessage = undefined;
    this.#quiet = 0;
    this.#loop.messages.setTimer(this.#timer, PERIOD_US, PERIOD_US);
  }

  /** Until the next message of somebody else. */
  #rest(): void {
    this.#loop.messages.setTimer(this.#timer, 0);
    this.#loop.onMessage = () => this.#begin();
  }
}

/** A session for the silent device, and the socket of its client. */
function connect(loop: ServiceLoop): LoopSocket {
  const [server, client] = socketpair();
  try {
    new ServerSession({
      loop,
      fd: server,
      provider: { open: async () => new SilentDevice() },
      vfToken: undefined,
      compat: 'strict',
      abilities: {
        maxMsgFds: 1,
        maxDataXferSize: MIN_DATA_XFER_SIZE,
        maxDmaMaps: 1,
        pgsizes: DMA_PAGE_SIZE,
        twinSocket: false,
        writeMultiple: false,
      },
      deadlineMs: DEFAULT_DEADLINE_MS,
      versionTimeoutMs: 0,
      watchdogMs: DEFAULT_WATCHDOG_MS,
      counters: new Counters(),
      tracer: undefined,
      deferred: undefined,
      onAttached() {},
      // What blocks the thread is said of the device that does.
      warn() {},
    });
  } catch (error) {
    closeFd(server);
    closeFd(client);
    throw error;
  }
  try {
    const socket = loop.messages.addSocket(client, { maxMessageSize: maxMessageSize(MIN_DATA_XFER_SIZE), maxFds: 0 });
    // A reply has done its work when it comes.
    loop.attach(socket.id, { onMessage() {} });
    return socket;
  } catch (error) {
    // The session ends with its connection.
    closeFd(client);
    throw error;
  }
}

const warm = new WeakSet<ServiceLoop>();

/** Keeps the way of an access warm on a loop that serves, where the loop's options want it. Once a loop. @throws ERR_VFIO_SYSCALL */
export function keepWarm(loop: ServiceLoop): void {
  if (loop.keepWarmMs === 0 || warm.has(loop)) return;
  new Rehearsal(loop);
  warm.add(loop);
}
