/** After traffic the way of an access is kept warm for a while; nobody but the loop's own numbers tells. */
import { readdirSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { ServiceLoop, type ServiceLoopOptions } from '../src/index.js';
import { FakeDevice } from './helpers/fake-device.js';
import { bytes, message, u32, u64, until } from './helpers/raw-client.js';
import { cleanup, serve } from './helpers/serve.js';

const readRegister = (id: number) => message(id, 9, bytes(u64(0x10), u32(0, 4)));

async function served(loopOptions: ServiceLoopOptions, trace?: (line: string) => void) {
  const loop = new ServiceLoop(loopOptions);
  cleanup(() => loop.close());
  const made = await serve(new FakeDevice(), { loop, trace });
  return { ...made, loop, messages: () => loop.messages.stats().messages };
}

/** Until the loop has been silent for a tenth of a second. */
async function rest(messages: () => number): Promise<number> {
  for (;;) {
    const before = messages();
    await delay(100);
    if (messages() === before) return before;
  }
}

test('a message is followed by rehearsals, and some time after it there are none', async () => {
  const { attached, messages } = await served({ keepWarmMs: 200 });
  const client = await attached();
  const before = await rest(messages);
  await client.send(readRegister(1));
  await client.receive();
  // The read, then a request and its reply for each rehearsal.
  await until(() => messages() >= before + 1 + 2 * 5);
  const after = await rest(messages);
  expect((after - before - 1) % 2).toBe(0);
});

test('the client’s counters, its trace and its device see nothing of it', async () => {
  const lines: string[] = [];
  const { attached, messages, server, loop } = await served({ keepWarmMs: 100 }, (line) => lines.push(line));
  const client = await attached();
  await client.send(readRegister(1));
  await client.receive();
  const seen = lines.length;
  const before = messages();
  await until(() => messages() >= before + 10);
  await rest(messages);
  expect(lines).toHaveLength(seen);
  expect(server.stats().commands).toMatchObject({
    VERSION: { messages: 1, errors: 0 },
    REGION_READ: { messages: 1, errors: 0 },
  });
  expect(loop.messages.isClosed).toBe(false);
});

test('with keepWarmMs 0 there is none', async () => {
  const { attached, messages } = await served({ keepWarmMs: 0 });
  const client = await attached();
  await client.send(readRegister(1));
  await client.receive();
  await delay(50);
  expect(messages()).toBe(2);
});

test('nothing is left of it when the loop is closed', async () => {
  const count = () => readdirSync('/proc/self/fd').length;
  const once = async () => {
    const loop = new ServiceLoop();
    const { attached, server } = await serve(new FakeDevice(), { loop });
    const client = await attached();
    client.close();
    await server.close();
    loop.close();
  };
  await once();
  const before = count();
  await once();
  expect(count()).toBe(before);
});
