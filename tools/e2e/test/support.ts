import { afterEach, inject } from 'vitest';
import { DeviceServer, type DeviceServerOptions } from '../src/device-server.js';
import { Guest, type GuestOptions } from '../src/guest.js';

/** What this file started and still runs, or ran in the current test, for the logs. */
const running = new Set<Guest | DeviceServer>();

/** Boots a guest from what the preparation made; a failing test prints the last lines of its logs. */
export async function boot(options: GuestOptions): Promise<Guest> {
  const guest = await Guest.boot(inject('artifacts'), options);
  running.add(guest);
  return guest;
}

/** Starts `vfio serve`; a failing test prints what it said last. */
export async function serve(options: DeviceServerOptions): Promise<DeviceServer> {
  const server = await DeviceServer.start(inject('artifacts').logs, options);
  running.add(server);
  return server;
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

/** Prints what guests and servers said last when a test fails. Call it once in each suite. */
export function showLogsOfFailures(): void {
  afterEach((context) => {
    for (const one of running) {
      if (context.task.result?.state === 'fail') console.error(one.lastWords());
      if (!one.running) running.delete(one);
    }
  });
}
