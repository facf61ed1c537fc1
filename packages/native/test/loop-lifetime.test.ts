import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { closeFd, LOOP_EVENT, MessageLoop, sendMessage, socketpair } from '@vfio/native';
import { describe, expect, test } from 'vitest';
import { builtAddon, projectWithNative, runModule } from './helpers/child.js';
import { countFds, openFds } from './helpers/fds.js';
import { frame } from './helpers/frames.js';
import { collect, collectUntil } from './helpers/gc.js';

/** Runs a program that serves an echo on `loop`; `peer` is the other end of its first socket. */
function run(source: string, maxFds?: number) {
  return runModule(
    projectWithNative(),
    `import * as native from '@vfio/native';
     const { LOOP_EVENT, LOOP_SLOT } = native;
     const frame = new Uint8Array(16); frame[0] = 1; frame[4] = 16;
     const loop = new native.MessageLoop();
     const [ours, peer] = native.socketpair();
     const id = loop.addSocket(ours).id;
     let onMessage = () => {};
     const serve = () => {
       for (let kind = loop.step(); kind !== LOOP_EVENT.IDLE; kind = loop.step()) {
         if (kind === LOOP_EVENT.MESSAGE) onMessage();
       }
     };
     const send = () => native.sendMessage(peer, [frame]);
     ${source}`,
    {},
    maxFds,
  );
}

describe('a process', () => {
  test('ends with an unreferenced loop, and not with a referenced one', () => {
    const free = run(`loop.start(serve); loop.unref(); console.log('end');`);
    expect(free).toMatchObject({ status: 0, stdout: 'end\n', stderr: '' });
    const before = run(`loop.unref(); loop.start(serve); console.log('end');`);
    expect(before).toMatchObject({ status: 0, stdout: 'end\n', stderr: '' });
    const held = run(`
      loop.unref(); loop.start(serve); loop.ref();
      onMessage = () => { console.log('message'); loop.unref(); };
      setTimeout(send, 50).unref();`);
    expect(held).toMatchObject({ status: 0, stdout: 'message\n', stderr: '' });
  });

  test('ends with a loop that was made, stopped or closed', () => {
    expect(run(`console.log('made');`)).toMatchObject({ status: 0, stdout: 'made\n' });
    expect(run(`loop.start(serve); setTimeout(() => loop.stop(), 5);`)).toMatchObject({ status: 0, stderr: '' });
    expect(run(`loop.start(serve); setTimeout(() => loop.close(), 5);`)).toMatchObject({ status: 0, stderr: '' });
  });

  test('may be ended by a handler', () => {
    const result = run(`
      loop.start(serve);
      process.on('exit', (code) => console.log('exit', code));
      onMessage = () => process.exit(7);
      send();`);
    expect(result).toMatchObject({ status: 7, signal: null, stdout: 'exit 7\n', stderr: '' });
  });

  test('hears a signal while the loop waits', () => {
    const result = run(`
      loop.start(serve);
      process.on('SIGTERM', () => { console.log('SIGTERM'); loop.close(); });
      setTimeout(() => process.kill(process.pid, 'SIGTERM'), 20);`);
    expect(result).toMatchObject({ status: 0, signal: null, stdout: 'SIGTERM\n', stderr: '' });
  });

  test('may start others while the loop is served', () => {
    const result = run(`
      import { execFile, spawnSync } from 'node:child_process';
      import { readlinkSync } from 'node:fs';
      let messages = 0;
      loop.start(serve);
      onMessage = () => { messages++; };
      send();
      execFile('true', () => {
        send();
        // Its descriptors, as a child sees them: none of the loop's.
        const { stdout } = spawnSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
        const own = [ours, peer, loop.wakeFd].map((fd) => readlinkSync('/proc/self/fd/' + fd));
        const inherited = ['eventpoll', 'eventfd', 'timerfd', ...own].filter((name) => stdout.includes(name));
        setTimeout(() => { console.log(messages, stdout.includes(' 0 -> '), inherited); loop.close(); }, 5);
      });`);
    expect(result).toMatchObject({ status: 0, stdout: '2 true []\n', stderr: '' });
  });

  test('gets the error of a handler as an uncaught exception, and the loop goes on', () => {
    const result = run(`
      let count = 0;
      loop.start(serve);
      process.on('uncaughtException', (error, origin) => console.log(error.message, origin));
      onMessage = () => {
        if (++count === 3) return loop.close();
        throw new Error('mistake ' + count);
      };
      for (let n = 0; n < 3; n++) send();`);
    expect(result).toMatchObject({
      status: 0,
      stdout: 'mistake 1 uncaughtException\nmistake 2 uncaughtException\n',
      stderr: '',
    });
  });

  test('dies of the error of a handler that nobody catches', () => {
    const result = run(`loop.start(serve); onMessage = () => { throw new Error('a mistake'); }; send();`);
    expect(result.status).toBe(1);
    expect(result.stderr).toContain('a mistake');
  });

  test('keeps the asynchronous context of what a handler starts', () => {
    const result = run(`
      import { AsyncLocalStorage } from 'node:async_hooks';
      const storage = new AsyncLocalStorage();
      loop.start(serve);
      onMessage = () => storage.run('inside', () => setImmediate(() => {
        console.log(storage.getStore());
        loop.close();
      }));
      send();`);
    expect(result).toMatchObject({ status: 0, stdout: 'inside\n', stderr: '' });
  });

  test('that has no descriptor left learns why a listener cannot accept, and can resume it', () => {
    const result = run(
      `import { rmSync } from 'node:fs';
      const path = process.cwd() + '/s';
      const listener = loop.addListener(native.listenUnix(path));
      const client = native.connectUnix(path);
      const taken = [];
      try { for (;;) taken.push(native.eventfdCreate()); } catch {}
      const seen = [loop.step(0), loop.state[LOOP_SLOT.ERRNO], loop.state[LOOP_SLOT.SOURCE] === listener, loop.step(0)];
      // A message that comes with descriptors now has lost them.
      native.sendMessage(peer, [frame], [client]);
      seen.push(loop.step(0), loop.state[LOOP_SLOT.TRUNCATED], loop.state[LOOP_SLOT.FD_COUNT]);
      for (const fd of taken) native.closeFd(fd);
      loop.resume(listener);
      seen.push(loop.step(0));
      console.log(...seen);`,
      64,
    );
    const { ACCEPT, ACCEPT_FAILED, MESSAGE, IDLE } = LOOP_EVENT;
    expect(result).toMatchObject({
      status: 0,
      stdout: `${[ACCEPT_FAILED, 24, true, IDLE, MESSAGE, 1, 0, ACCEPT].join(' ')}\n`,
      stderr: '',
    });
  });
});

describe('the garbage collector', () => {
  test('closes a loop that nobody can reach, with its sockets', async () => {
    const peers: number[] = [];
    const before = openFds().size;
    for (let n = 0; n < 5; n++) {
      const [ours, peer] = socketpair();
      new MessageLoop({ maxMessageSize: 4096 }).addSocket(ours);
      peers.push(peer);
    }
    expect(await collectUntil(() => openFds().size === before + peers.length)).toBe(true);
    for (const peer of peers) {
      expect(() => sendMessage(peer, [frame(1, 1)])).toThrow(expect.objectContaining({ errno: 'EPIPE' }));
      closeFd(peer);
    }
  });

  test('leaves a loop that is started, whoever holds it', async () => {
    const [ours, peer] = socketpair();
    const got: number[] = [];
    const make = () => {
      const loop = new MessageLoop({ maxMessageSize: 4096 });
      loop.addSocket(ours);
      loop.start(() => {
        for (let kind = loop.step(); kind !== LOOP_EVENT.IDLE; kind = loop.step()) {
          got.push(kind);
          if (kind === LOOP_EVENT.CLOSED) loop.close();
        }
      });
    };
    make();
    await collect();
    sendMessage(peer, [frame(1, 1)]);
    expect(await collectUntil(() => got.length === 1)).toBe(true);
    closeFd(peer);
    expect(await collectUntil(() => got.length === 2)).toBe(true);
    expect(got).toEqual([LOOP_EVENT.MESSAGE, LOOP_EVENT.CLOSED]);
  });

  test('may come between any two messages: the step function and the buffers outlive the object', async () => {
    const make = () => {
      const loop = new MessageLoop({ maxMessageSize: 4096 });
      const { rx } = loop.addSocket(socketpair()[0]);
      return { step: loop.step, rx, tx: loop.tx };
    };
    const left = make();
    await collectUntil(() => left.rx.length === 0);
    expect(left.step(0)).toBe(LOOP_EVENT.IDLE);
    expect(left.step()).toBe(LOOP_EVENT.IDLE);
    left.tx[0] = 1;
  });

  // ArrayBuffer.transfer came with Node 21.
  test.skipIf(!('transfer' in ArrayBuffer.prototype))(
    'keeps a buffer that was given another owner (ArrayBuffer.transfer, Node 21)',
    async () => {
      const make = () => {
        const loop = new MessageLoop({ maxMessageSize: 4096 });
        const { id, rx } = loop.addSocket(socketpair()[0]);
        rx[0] = 9;
        const other = (rx.buffer as unknown as { transfer(): ArrayBuffer }).transfer();
        return { loop, id, other };
      };
      const { loop, id, other } = make();
      await collect();
      loop.remove(id);
      loop.close();
      expect(new Uint8Array(other)[0]).toBe(9);
    },
  );
});

describe('a worker thread', () => {
  const SOURCE = `
    const { parentPort, workerData } = require('node:worker_threads');
    const native = require(workerData.addon);
    const loops = Array.from({ length: workerData.loops }, () => {
      const loop = native.createLoop(4096, 256, 1000, 200, false);
      const state = new Int32Array(loop.shared, 0, 32);
      const out = new Int32Array(2);
      native.socketpair(out);
      const id = loop.addSocket(out[0], 4096, 16, 100000);
      const rx = loop.buffer(id);
      loop.addTimer();
      if (workerData.started) loop.start(() => {
        for (loop.step(); state[0] !== 0; loop.step()) {
          if (workerData.exit) process.exit(3);
          state[12] = id; state[13] = 16;
        }
      });
      native.setNonBlocking(out[1], true);
      return { loop, rx, peer: out[1] };
    });
    const frame = new Uint8Array(16); frame[4] = 16;
    globalThis.keep = loops;
    if (workerData.traffic) setInterval(() => {
      for (const { peer } of loops) { native.sendmsg(peer, [frame], null, 0); native.recvmsg(peer, new Uint8Array(64), 0, 64, new Int32Array(0), new Int32Array(4)); }
    }, 1);
    parentPort.on('message', () => {});
    parentPort.postMessage('ready');
  `;

  test.each([
    ['with a loop that waits in native code', { loops: 1, started: true }],
    ['with a loop in traffic', { loops: 1, started: true, traffic: true }],
    ['with several loops in traffic', { loops: 3, started: true, traffic: true }],
    ['with a loop that was never started', { loops: 1 }],
  ])('%s can be terminated and leaves only the descriptors that were its own to close', async (_, data) => {
    const epolls = countFds('eventpoll');
    const timers = countFds('timerfd');
    const sockets = countFds('socket');
    await Promise.all(
      [1, 2, 3].map(async () => {
        const worker = new Worker(SOURCE, { eval: true, workerData: { addon: builtAddon, ...data } });
        await once(worker, 'message');
        await new Promise((resolve) => setTimeout(resolve, 10));
        await worker.terminate();
      }),
    );
    expect([countFds('eventpoll'), countFds('timerfd')]).toEqual([epolls, timers]);
    // The peers' ends: plain numbers that nobody closed.
    expect(countFds('socket') - sockets).toBe(3 * data.loops);
  });

  test('may be ended by a handler', async () => {
    const workerData = { addon: builtAddon, loops: 2, started: true, traffic: true, exit: true };
    const worker = new Worker(SOURCE, { eval: true, workerData });
    expect(await once(worker, 'exit')).toEqual([3]);
  });

  test('that ends does not disturb the loops of others', async () => {
    const [ours, peer] = socketpair();
    const loop = new MessageLoop({ maxMessageSize: 4096 });
    loop.addSocket(ours);
    const got: number[] = [];
    loop.start(() => {
      for (let kind = loop.step(); kind !== LOOP_EVENT.IDLE; kind = loop.step()) got.push(kind);
    });
    for (let n = 1; n <= 3; n++) {
      const worker = new Worker(SOURCE, { eval: true, workerData: { addon: builtAddon, loops: 1, started: true } });
      await once(worker, 'message');
      await worker.terminate();
      sendMessage(peer, [frame(n, 1)]);
      expect(await collectUntil(() => got.length === n)).toBe(true);
    }
    loop.close();
    closeFd(peer);
  });
});
