import { readFile } from 'node:fs/promises';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import {
  closeFd,
  EventFd,
  eventfdCreate,
  eventfdWrite,
  LOOP_EVENT,
  LOOP_SLOT,
  MessageLoop,
  type MessageLoopOptions,
  sendMessage,
  socketpair,
} from '@vfio/native';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { BusyClient } from './helpers/client.js';
import { frame } from './helpers/frames.js';
import { fill } from './helpers/test-loop.js';

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

/** A started loop that sends every message back. */
class Echo {
  readonly loop: MessageLoop;
  /** Ids of the messages of each call of `onReady` that had any. */
  readonly bursts: number[][] = [];
  onMessage: (source: number, id: number) => void = () => undefined;
  onEvent: (kind: number, source: number) => void = () => undefined;

  constructor(options?: MessageLoopOptions) {
    this.loop = new MessageLoop(options);
    undo.push(() => this.loop.close());
    this.loop.start(this.run);
  }

  readonly run = (): void => {
    const { state, step } = this.loop;
    const burst: number[] = [];
    for (let kind = step(); kind !== LOOP_EVENT.IDLE; kind = step()) {
      const source = state[LOOP_SLOT.SOURCE] as number;
      if (kind !== LOOP_EVENT.MESSAGE) {
        this.onEvent(kind, source);
        continue;
      }
      burst.push(state[LOOP_SLOT.ID] as number);
      if (burst.length === 1) this.bursts.push(burst);
      this.loop.tx.set(frame(state[LOOP_SLOT.ID] as number, 1));
      this.loop.reply(source, 16);
      this.onMessage(source, burst.at(-1) as number);
    }
  };

  get messages(): number[] {
    return this.bursts.flat();
  }

  connect(): { id: number; peer: number } {
    const [ours, peer] = socketpair();
    undo.push(() => closeFd(peer));
    return { id: this.loop.addSocket(ours).id, peer };
  }

  /** A client thread that keeps the loop busy until it is stopped. */
  busy(): BusyClient {
    const client = new BusyClient(this.connect().peer, frame(1, 1));
    undo.push(() => client.stop());
    return client;
  }
}

/** Turns of Node's loop until `done`. */
async function turnsUntil(done: () => boolean): Promise<void> {
  for (let turn = 0; turn < 5000 && !done(); turn++) await (turn < 100 ? nextTurn() : sleep(1));
  expect(done()).toBe(true);
}

describe('while a client never pauses', () => {
  test('timers, immediates, promises and file reads of Node go on', async () => {
    const echo = new Echo();
    const client = echo.busy();
    await turnsUntil(() => client.replies > 100);
    for (const what of [
      () => nextTurn(),
      () => sleep(5),
      () => readFile('/proc/self/stat'),
      () => new Promise((resolve) => process.nextTick(resolve)),
      () => Promise.all([sleep(1), readFile('/proc/self/stat'), nextTurn()]),
    ]) {
      for (let n = 0; n < 5; n++) await what();
    }
    const before = client.replies;
    await turnsUntil(() => client.replies > before + 100);
  });

  test('an eventfd that libuv watches is heard', async () => {
    const client = new Echo().busy();
    await turnsUntil(() => client.replies > 100);
    const event = EventFd.create();
    for (let n = 1; n <= 5; n++) {
      const waiting = event.wait();
      setTimeout(() => event.signal(n), 1);
      expect(await waiting).toBe(n);
    }
    event.close();
  });

  test('an interval does not drift away', async () => {
    const client = new Echo().busy();
    await turnsUntil(() => client.replies > 100);
    let ticks = 0;
    const interval = setInterval(() => ticks++, 2);
    await sleep(200);
    clearInterval(interval);
    // 100 on a quiet machine; without turns of libuv there would be none.
    expect(ticks).toBeGreaterThan(10);
  });

  test('promises that a handler left behind run when the burst ends', async () => {
    const echo = new Echo();
    let messages = 0;
    let ran = 0;
    let most = 0;
    echo.onMessage = () => {
      const now = ++messages;
      Promise.resolve().then(() => {
        ran++;
        most = Math.max(most, messages - now);
      });
    };
    const client = echo.busy();
    await turnsUntil(() => ran > 500);
    await client.stop();
    expect(most).toBeLessThan(256);
  });
});

describe('a burst', () => {
  test('gives the thread back after the messages that were agreed', async () => {
    const echo = new Echo({ burstMessages: 50, burstUs: 1_000_000 });
    const { peer } = echo.connect();
    const sent = fill(peer, frame(1, 1)) / 16;
    expect(sent).toBeGreaterThan(150);
    await turnsUntil(() => echo.messages.length === sent);
    // libuv may have had something to do in between.
    expect(Math.max(...echo.bursts.map(({ length }) => length))).toBe(50);
  });

  test('gives the thread back soon after its time, whatever a handler takes', async () => {
    const echo = new Echo({ burstUs: 1000 });
    echo.onMessage = () => {
      for (const end = performance.now() + 0.6; performance.now() < end; );
    };
    const { peer } = echo.connect();
    for (let n = 0; n < 60; n++) sendMessage(peer, [frame(n, 1)]);
    await turnsUntil(() => echo.messages.length === 60);
    // Two fill the time; the clock is looked at every few events.
    for (const { length } of echo.bursts) expect(length).toBeLessThanOrEqual(6);
  });

  test('does not wait for messages while promises are pending', async () => {
    const echo = new Echo({ burstUs: 10_000_000, denseUs: 10_000_000 });
    echo.loop.state[LOOP_SLOT.PENDING] = 1;
    const { peer } = echo.connect();
    for (let n = 0; n < 10; n++) sendMessage(peer, [frame(n, 1)]);
    await turnsUntil(() => echo.messages.length === 10);
    await nextTurn();
  });

  test('tells how long the handler before took, where that is measured', async () => {
    const echo = new Echo({ measureHandlers: true });
    const took: number[] = [];
    echo.onMessage = () => {
      took.push(echo.loop.state[LOOP_SLOT.HANDLER_US] as number);
      for (const end = performance.now() + 3; performance.now() < end; );
    };
    const { peer } = echo.connect();
    sendMessage(peer, [frame(1, 1), frame(2, 1)]);
    await turnsUntil(() => took.length === 2);
    expect(took[1]).toBeGreaterThanOrEqual(3000);
  });

  test('that was kept waiting by Node has not lost what came meanwhile', async () => {
    const echo = new Echo();
    const { peer } = echo.connect();
    await nextTurn();
    sendMessage(peer, [frame(1, 1)]);
    for (const end = performance.now() + 5; performance.now() < end; );
    sendMessage(peer, [frame(2, 1)]);
    await turnsUntil(() => echo.messages.length === 2);
    expect(echo.messages).toEqual([1, 2]);
  });
});

describe('a blocking step of a started loop', () => {
  test('sleeps although libuv has something to do', async () => {
    const echo = new Echo();
    const event = EventFd.create();
    const waiting = event.wait();
    await nextTurn();
    event.signal();
    const before = echo.loop.stats().waits;
    expect(echo.loop.step(20_000)).toBe(LOOP_EVENT.IDLE);
    expect(echo.loop.stats().waits - before).toBeLessThan(10);
    // And libuv is heard again afterwards.
    expect(await waiting).toBe(1);
    event.close();
  });
});

describe('handlers may', () => {
  test('remove their own socket, or another that is ready', async () => {
    const echo = new Echo();
    const ends = Array.from({ length: 6 }, () => echo.connect());
    const alive = new Set(ends.map(({ id }) => id));
    echo.onMessage = (source) => {
      expect(alive.has(source)).toBe(true);
      const other = [...alive].find((id) => id !== source) as number;
      for (const id of [source, other]) {
        alive.delete(id);
        echo.loop.remove(id);
      }
    };
    await nextTurn();
    for (const { peer } of ends) sendMessage(peer, [frame(1, 1), frame(2, 1)]);
    await turnsUntil(() => alive.size === 0);
    expect(echo.messages).toEqual([1, 1, 1]);
  });

  test('add sockets, timers and eventfds', async () => {
    const echo = new Echo();
    const kinds: number[] = [];
    echo.onEvent = (kind) => kinds.push(kind);
    echo.onMessage = (_, id) => {
      if (id !== 1) return;
      sendMessage(echo.connect().peer, [frame(2, 1)]);
      echo.loop.setTimer(echo.loop.addTimer(), 1);
      echo.loop.addEventFd(eventfdCreate(1));
    };
    sendMessage(echo.connect().peer, [frame(1, 1)]);
    await turnsUntil(() => kinds.length === 2 && echo.messages.length === 2);
    expect(kinds.sort()).toEqual([LOOP_EVENT.EVENTFD, LOOP_EVENT.TIMER]);
  });

  test('close the loop', async () => {
    const echo = new Echo();
    const { peer } = echo.connect();
    echo.onMessage = () => echo.loop.close();
    sendMessage(peer, [frame(1, 1), frame(2, 1)]);
    await turnsUntil(() => echo.loop.isClosed);
    await nextTurn();
    expect(echo.messages).toEqual([1]);
    expect(() => sendMessage(peer, [frame(3, 1)])).toThrow(expect.objectContaining({ errno: 'EPIPE' }));
  });

  test('close the loop in a promise that runs when the burst ends', async () => {
    const echo = new Echo();
    echo.onMessage = () => void Promise.resolve().then(() => echo.loop.close());
    sendMessage(echo.connect().peer, [frame(1, 1)]);
    await turnsUntil(() => echo.loop.isClosed);
    await nextTurn();
  });

  test('stop the loop, and start it with another callback', async () => {
    const echo = new Echo();
    const { peer } = echo.connect();
    const calls: string[] = [];
    echo.onMessage = (_, id) => {
      if (id !== 1) return;
      echo.loop.stop();
      echo.loop.stop();
      echo.loop.start(() => {
        calls.push('second');
        echo.loop.stop();
        echo.loop.start(echo.run);
        echo.loop.stop();
      });
      expect(() => echo.loop.start(echo.run)).toThrow(expect.objectContaining({ errno: 'EALREADY' }));
    };
    sendMessage(peer, [frame(1, 1)]);
    await turnsUntil(() => calls.length > 0);
    sendMessage(peer, [frame(2, 1)]);
    await sleep(5);
    expect([calls, echo.messages]).toEqual([['second'], [1]]);
    echo.loop.start(echo.run);
    await turnsUntil(() => echo.messages.length === 2);
  });

  test('make a setImmediate before their first step', async () => {
    const loop = new MessageLoop();
    undo.push(() => loop.close());
    // Would block the thread for ever if the loop did not ask libuv again before it waits.
    const rescue = loop.addTimer();
    loop.setTimer(rescue, 3_000_000);
    const immediate = vi.fn();
    let rescued = false;
    loop.start(() => {
      if (immediate.mock.calls.length < 3) setImmediate(immediate);
      for (let kind = loop.step(); kind !== LOOP_EVENT.IDLE; kind = loop.step()) rescued ||= kind === LOOP_EVENT.TIMER;
    });
    await turnsUntil(() => immediate.mock.calls.length >= 3);
    expect(rescued).toBe(false);
  });
});

describe('several loops of one thread', () => {
  test('are all served, whichever was started first or is closed', async () => {
    const loops = [new Echo(), new Echo(), new Echo()];
    const ends = loops.map((echo) => echo.connect());
    const round = async (id: number, alive: readonly Echo[]) => {
      for (const echo of alive) sendMessage(ends[loops.indexOf(echo)]!.peer, [frame(id, 1)]);
      await turnsUntil(() => alive.every(({ messages }) => messages.at(-1) === id));
    };
    await round(1, loops);
    await round(2, loops);
    loops[0]!.loop.close();
    await round(3, loops.slice(1));
    loops[2]!.loop.stop();
    // Alone again.
    await round(4, loops.slice(1, 2));
    await round(5, loops.slice(1, 2));
    loops[2]!.loop.start(loops[2]!.run);
    await round(6, loops.slice(1));
  });

  test('do not starve each other while one has a client that never pauses', async () => {
    const [one, two] = [new Echo(), new Echo()];
    const client = one.busy();
    await turnsUntil(() => client.replies > 100);
    const { peer } = two.connect();
    for (let n = 1; n <= 20; n++) {
      sendMessage(peer, [frame(n, 1)]);
      await turnsUntil(() => two.messages.length === n);
    }
  });

  test('may be made and closed in handlers of each other', async () => {
    const one = new Echo();
    const { peer } = one.connect();
    let inner: Echo | undefined;
    let innerPeer = -1;
    one.onMessage = (_, id) => {
      if (id === 1) {
        inner = new Echo();
        innerPeer = inner.connect().peer;
        inner.onMessage = (_source, innerId) => {
          if (innerId === 2) one.loop.close();
        };
        sendMessage(innerPeer, [frame(1, 1)]);
      }
      if (id === 2) sendMessage(innerPeer, [frame(2, 1)]);
    };
    sendMessage(peer, [frame(1, 1)]);
    await turnsUntil(() => inner?.messages.length === 1);
    sendMessage(peer, [frame(2, 1)]);
    await turnsUntil(() => one.loop.isClosed);
    sendMessage(innerPeer, [frame(3, 1)]);
    await turnsUntil(() => inner?.messages.length === 3);
  });

  test('hear a resume that came from outside of any burst', async () => {
    for (const count of [1, 2]) {
      const loops = Array.from({ length: count }, () => new Echo());
      const echo = loops[0] as Echo;
      const { id, peer } = echo.connect();
      echo.onMessage = () => echo.loop.pause(id);
      for (let n = 1; n <= 3; n++) sendMessage(peer, [frame(n, 1)]);
      for (let n = 1; n <= 3; n++) {
        await turnsUntil(() => echo.messages.length === n);
        await sleep(2);
        expect(echo.messages.length).toBe(n);
        echo.loop.resume(id);
      }
      for (const { loop } of loops) loop.close();
    }
  });
});

describe('another thread', () => {
  test('wakes a loop that waits', async () => {
    const echo = new Echo();
    const kinds: number[] = [];
    echo.onEvent = (kind) => kinds.push(kind);
    await sleep(2);
    eventfdWrite(echo.loop.wakeFd);
    await turnsUntil(() => kinds.length === 1);
    expect(kinds).toEqual([LOOP_EVENT.WAKE]);
  });
});
