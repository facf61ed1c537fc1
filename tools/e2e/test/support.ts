import { afterEach, inject } from 'vitest';
import { Guest, type GuestOptions } from '../src/guest.js';

/** Guests of this file that still run or ran in the current test, for their logs. */
const guests = new Set<Guest>();

/** Boots a guest from what the preparation made; a failing test prints the last lines of its logs. */
export async function boot(options: GuestOptions): Promise<Guest> {
  const guest = await Guest.boot(inject('artifacts'), options);
  guests.add(guest);
  return guest;
}

/** Boots a guest for the time of `body`. */
export async function withGuest<T>(options: GuestOptions, body: (guest: Guest) => Promise<T>): Promise<T> {
  const guest = await boot(options);
  try {
    return await body(guest);
  } finally {
    await guest.kill();
  }
}

/** Prints what guests said last when a test fails. Call it once in each suite. */
export function showLogsOfFailures(): void {
  afterEach((context) => {
    for (const guest of guests) {
      if (context.task.result?.state === 'fail') console.error(guest.lastWords());
      if (!guest.running) guests.delete(guest);
    }
  });
}
