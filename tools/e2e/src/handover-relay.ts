import { rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { isVfioError } from '@vfio/core';
import { acceptUnix, closeFd, connectUnix, listenUnix, recvMessage, sendMessage, setNonBlocking } from '@vfio/native';
import { MessageCutter } from './relay.js';

const COMMAND_AT = 2;
const FLAGS_AT = 8;
const IS_REPLY = 1;

/**
 * Stands between two servers of which one hands its client over, passes their messages on with the descriptors, and can do
 * something at one of them: kill a server, for instance.
 */
export class HandoverRelay {
  readonly #path: string;
  readonly #listener: number;
  #isOver = false;
  readonly #done: Promise<void>;

  /** @param before called with the command of each message of the first server, before it is passed on */
  constructor(path: string, target: string, before: (command: number) => Promise<void>) {
    this.#path = path;
    this.#listener = listenUnix(path);
    this.#done = this.#run(target, before);
  }

  async close(): Promise<void> {
    this.#isOver = true;
    await this.#done;
    closeFd(this.#listener);
    rmSync(this.#path, { force: true });
  }

  async #run(target: string, before: (command: number) => Promise<void>): Promise<void> {
    let first = acceptUnix(this.#listener);
    for (; first === undefined && !this.#isOver; first = acceptUnix(this.#listener)) await delay(1);
    if (first === undefined) return;
    const second = connectUnix(target);
    for (const fd of [first, second]) setNonBlocking(fd, true);
    await Promise.all([this.#pass(first, second, before), this.#pass(second, first, async () => {})]);
    // Where one has gone the other one hears of it.
    for (const fd of [first, second]) closeFd(fd);
  }

  async #pass(from: number, to: number, before: (command: number) => Promise<void>): Promise<void> {
    const buffer = new Uint8Array(1 << 16);
    const fds = new Int32Array(253);
    const cutter = new MessageCutter();
    let waiting: number[] = [];
    while (!this.#isOver) {
      const got = attempt(() => recvMessage(from, buffer, 0, buffer.length, fds));
      if (got === undefined) {
        await delay(1);
        continue;
      }
      if (got === 'gone' || got.bytes === 0) break;
      // A read ends behind the message that descriptors came with, and each of these servers waits for an answer to it.
      waiting.push(...fds.subarray(0, got.fdCount));
      for (const message of cutter.push(buffer.subarray(0, got.bytes))) {
        if ((message.readUInt32LE(FLAGS_AT) & IS_REPLY) === 0) await before(message.readUInt16LE(COMMAND_AT));
        await this.#send(to, message, waiting);
        for (const fd of waiting) closeFd(fd);
        waiting = [];
      }
    }
    this.#isOver = true;
    for (const fd of waiting) closeFd(fd);
  }

  async #send(to: number, message: Uint8Array, fds: readonly number[]): Promise<void> {
    for (let at = 0; at < message.length && !this.#isOver; ) {
      const sent = attempt(() => sendMessage(to, [message.subarray(at)], at === 0 ? fds : []));
      if (sent === 'gone') this.#isOver = true;
      else if (sent === undefined) await delay(1);
      else at += sent;
    }
  }
}

/** Undefined: not now. */
function attempt<T>(call: () => T): T | undefined | 'gone' {
  try {
    return call();
  } catch (error) {
    if (isVfioError(error) && error.errno === 'EAGAIN') return undefined;
    return 'gone';
  }
}
