import { EventEmitter, once } from 'node:events';
import type { Socket } from 'node:net';

export interface QmpEvent {
  event: string;
  data: { /** The id of the device that the event is about. */ device?: string; [key: string]: unknown };
}

/** QEMU's answer that a command failed. */
export class QmpError extends Error {
  /** QEMU's error class, for example `GenericError` or `DeviceNotFound`. */
  readonly qemuClass: string;

  constructor(command: string, qemuClass: string, description: string) {
    super(`${command}: ${description}`);
    this.name = 'QmpError';
    this.qemuClass = qemuClass;
  }
}

interface Message {
  QMP?: unknown;
  id?: number;
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
  data?: Record<string, unknown>;
}

/** QEMU's machine protocol over a connected socket: commands with their answers, and the events in between. */
export class Qmp {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, { command: string; resolve(value: unknown): void; reject(error: Error): void }>();
  readonly #changes = new EventEmitter();
  /** Every event so far, in order. */
  readonly events: QmpEvent[] = [];
  #rest = '';
  #nextId = 1;
  #closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#changes.setMaxListeners(0);
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => this.#take(text));
    socket.on('error', () => undefined);
    socket.on('close', () => this.#end());
  }

  /** Waits for the greeting and leaves negotiation mode. */
  static async attach(socket: Socket): Promise<Qmp> {
    const qmp = new Qmp(socket);
    await once(qmp.#changes, 'greeting');
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  /** Runs a command and gives its return value. */
  execute<T = unknown>(command: string, args?: Record<string, unknown>): Promise<T> {
    if (this.#closed) return Promise.reject(new Error(`${command}: the connection to QEMU is closed`));
    const id = this.#nextId++;
    return new Promise<T>((resolve, reject) => {
      this.#waiting.set(id, { command, resolve: (value) => resolve(value as T), reject });
      this.#socket.write(`${JSON.stringify({ execute: command, ...(args && { arguments: args }), id })}\n`);
    });
  }

  /** Waits for an event, not counting the first `after` ones. By default one that was already seen counts too. */
  async waitFor(
    matches: (event: QmpEvent) => boolean,
    options: { after?: number; timeoutMs: number },
  ): Promise<QmpEvent> {
    const deadline = Date.now() + options.timeoutMs;
    let from = options.after ?? 0;
    for (;;) {
      for (; from < this.events.length; from++) {
        const event = this.events[from]!;
        if (matches(event)) return event;
      }
      if (this.#closed) throw new Error('QEMU ended while an event was awaited');
      const left = deadline - Date.now();
      if (left <= 0) {
        const seen = this.events.map((event) => event.event).join(', ') || 'none';
        throw new Error(`no such event within ${options.timeoutMs} ms; seen so far: ${seen}`);
      }
      await once(this.#changes, 'event', { signal: AbortSignal.timeout(left) }).catch(() => undefined);
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines) if (line.trim() !== '') this.#message(JSON.parse(line) as Message);
  }

  #message(message: Message): void {
    if (message.QMP !== undefined) {
      this.#changes.emit('greeting');
    } else if (message.event !== undefined) {
      this.events.push({ event: message.event, data: message.data ?? {} });
      this.#changes.emit('event');
    } else if (message.id !== undefined) {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error) waiting?.reject(new QmpError(waiting.command, message.error.class, message.error.desc));
      else waiting?.resolve(message.return);
    }
  }

  #end(): void {
    this.#closed = true;
    for (const { command, reject } of this.#waiting.values())
      reject(new Error(`${command}: QEMU closed the connection`));
    this.#waiting.clear();
    this.#changes.emit('event');
  }
}
