import { closeSync, openSync, writeSync } from 'node:fs';
import { messageOf, systemError } from '@vfio/core';

/** A file to which traced messages are appended, by several threads if need be: one write a line. */
export class TraceFile {
  readonly #warn: (message: string) => void;
  #fd: number | undefined;

  /** @throws where the file cannot be opened */
  constructor(path: string, warn: (message: string) => void) {
    this.#warn = warn;
    try {
      this.#fd = openSync(path, 'a', 0o600);
    } catch (cause) {
      throw systemError(`trace file ${path}`, 'open', cause);
    }
  }

  /** Never throws: a disk that is full ends the trace, not the device. */
  write(line: string): void {
    if (this.#fd === undefined) return;
    try {
      writeSync(this.#fd, `${line}\n`);
    } catch (error) {
      this.close();
      this.#warn(`the trace ends here: ${messageOf(error)}`);
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}
