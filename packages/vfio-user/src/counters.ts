import { COMMAND_NAMES } from './trace.js';

/** What happened to one command. */
export interface CommandCount {
  readonly messages: number;
  /** Of these, answered with an error (or, for a peer that cannot read one, with all ones). */
  readonly errors: number;
  /** Bytes of these messages, headers included. */
  readonly bytes: number;
}

/** Index under which a command that is not of the protocol is counted. */
const UNKNOWN = COMMAND_NAMES.length;

/** Counts of messages by command, and of all bytes. Counting allocates nothing. */
export class Counters {
  /** Messages by command number; the last one counts unknown commands. */
  readonly messages = new Float64Array(UNKNOWN + 1);
  readonly errors = new Float64Array(UNKNOWN + 1);
  readonly bytes = new Float64Array(UNKNOWN + 1);
  readonly #total = new Float64Array(2);

  countMessage(command: number, length: number): void {
    const index = Math.min(command, UNKNOWN);
    this.messages[index]!++;
    this.bytes[index]! += length;
  }

  countError(command: number): void {
    this.errors[Math.min(command, UNKNOWN)]!++;
  }

  /** Bytes of a message that came, whatever it is. */
  countReceived(length: number): void {
    this.#total[0]! += length;
  }

  /** Bytes of a message that was sent. */
  countSent(length: number): void {
    this.#total[1]! += length;
  }

  /** Bytes of all messages that came: commands, and replies to commands of ours. */
  get received(): number {
    return this.#total[0]!;
  }

  /** Bytes of all messages that were sent. */
  get sent(): number {
    return this.#total[1]!;
  }

  /** The commands that were seen, by name. */
  snapshot(): Record<string, CommandCount> {
    const out: Record<string, CommandCount> = {};
    for (let command = 0; command <= UNKNOWN; command++) {
      const messages = this.messages[command]!;
      if (messages === 0) continue;
      out[COMMAND_NAMES[command] ?? 'unknown'] = {
        messages,
        errors: this.errors[command]!,
        bytes: this.bytes[command]!,
      };
    }
    return out;
  }
}
