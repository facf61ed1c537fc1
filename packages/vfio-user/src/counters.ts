import { COMMAND_NAMES } from './trace.js';

/** What happened to one command. */
export interface CommandCount {
  readonly messages: number;
  /** Of these, answered with an error (or, for a peer that cannot read one, with all ones). */
  readonly errors: number;
}

/** Index under which a command that is not of the protocol is counted. */
const UNKNOWN = COMMAND_NAMES.length;

/** Counts of messages by command. Counting allocates nothing. */
export class Counters {
  /** Messages by command number; the last one counts unknown commands. */
  readonly messages = new Float64Array(UNKNOWN + 1);
  readonly errors = new Float64Array(UNKNOWN + 1);

  countMessage(command: number): void {
    this.messages[Math.min(command, UNKNOWN)]!++;
  }

  countError(command: number): void {
    this.errors[Math.min(command, UNKNOWN)]!++;
  }

  /** The commands that were seen, by name. */
  snapshot(): Record<string, CommandCount> {
    const out: Record<string, CommandCount> = {};
    for (let command = 0; command <= UNKNOWN; command++) {
      const messages = this.messages[command]!;
      if (messages > 0) out[COMMAND_NAMES[command] ?? 'unknown'] = { messages, errors: this.errors[command]! };
    }
    return out;
  }
}
