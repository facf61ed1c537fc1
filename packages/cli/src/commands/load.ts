import { resolve } from 'node:path';
import { isVfioError } from '@vfio/core';
import { ENGINE_IOVA, ServedPlace } from '../demo/engine-place.js';
import { EngineProgram } from '../demo/engine-program.js';
import { InterruptLatch } from '../demo/interrupt-latch.js';
import type { Io } from '../io.js';
import { paint } from '../output.js';

/**
 * `vfio demo load`: keeps a ConnectX function of the emulated host at work, wherever it is moved among the sockets, until it
 * is stopped; whenever it has moved, and at the end, everything is checked. Resolves to whether all was right.
 */
export async function load(sockets: readonly string[], io: Io): Promise<boolean> {
  const latch = new InterruptLatch();
  const places: ServedPlace[] = [];
  try {
    for (const socket of sockets) places.push(await ServedPlace.attach(resolve(io.cwd, socket), latch.signal));
    const [first] = places;
    if (first === undefined) return true;
    const program = new EngineProgram(first, ENGINE_IOVA, latch);
    await program.start();
    io.out(`at work at ${first.path}; move it, or stop it: Ctrl-C or SIGTERM ends it\n`);
    const check = async (): Promise<boolean> => {
      const expected = JSON.stringify(program.expected());
      const right = {
        'data and checksums': program.wrong() === 0,
        counters: JSON.stringify(await program.counters()) === expected,
        interrupts: latch.count === program.turns,
      };
      const words = Object.entries(right).map(([what, ok]) => `${what} ${ok ? 'right' : paint(io, 'red', 'WRONG')}`);
      io.out(`${program.turns} turns: ${words.join(', ')}\n`);
      return Object.values(right).every((ok) => ok);
    };
    let at = 0;
    let isRight = true;
    while (!io.signal.aborted) {
      let arrivedAt: number | undefined;
      await program.run(
        () => io.signal.aborted || (arrivedAt !== undefined && program.turns > arrivedAt),
        async (error) => {
          // The server says so once the other one runs.
          if (!isVfioError(error) || error.errno !== 'ENODEV' || places.length === 1) throw error;
          await places[at]?.renew();
          at = (at + 1) % places.length;
          arrivedAt = program.turns;
          io.out(`moved to ${places[at]?.path}\n`);
          return places[at] as ServedPlace;
        },
      );
      isRight = (await check()) && isRight;
    }
    return isRight;
  } finally {
    for (const place of places) await place.device.close();
  }
}
