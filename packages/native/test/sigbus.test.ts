import { describe, expect, test } from 'vitest';
import { projectWithNative, runModule } from './helpers/child.js';

/** Runs a program whose mappings are cut; each in a process of its own, which a fault may kill. */
function run(source: string) {
  return runModule(
    projectWithNative(),
    `import * as native from '@vfio/native';
     const PAGE = native.pageSize();
     const make = (pages) => {
       const fd = native.memfdCreate('guest', { size: pages * PAGE, seals: 0 });
       return { fd, map: native.mmap(fd, 0, pages * PAGE) };
     };
     const say = (...values) => console.log(JSON.stringify(values));
     ${source}`,
  );
}

describe('memory that the peer took away', () => {
  test('reads as zeroes, takes writes, and is counted, page by page and then at once', () => {
    const result = run(`
      const { fd, map } = make(64);
      map.bytes.fill(0x55);
      say(map.isPoisoned, map.poisonedPages);
      native.truncateFd(fd, 2 * PAGE);
      say(map.bytes[0], map.bytes[2 * PAGE - 1], map.isPoisoned);
      say(map.bytes[2 * PAGE], map.poisonedPages);
      map.bytes[5 * PAGE] = 9;
      say(map.bytes[5 * PAGE], map.poisonedPages);
      let sum = 0;
      for (let at = 2 * PAGE; at < 64 * PAGE; at += 64) sum += map.bytes[at];
      say(sum, map.poisonedPages >= 16, map.bytes[0]);
      map.unmap();
      say(map.poisonedPages >= 16);
      const fresh = make(1);
      say(fresh.map.isPoisoned);`);
    expect(result).toMatchObject({ status: 0, signal: null, stderr: '' });
    expect(result.stdout).toBe('[false,0]\n[85,85,false]\n[0,1]\n[9,2]\n[9,true,85]\n[true]\n[false]\n');
  });

  test('signals the eventfd that was named, once, and not one that was taken back', () => {
    const result = run(`
      const events = [native.EventFd.create(), native.EventFd.create()];
      const maps = [make(4), make(4)];
      for (const n of [0, 1]) maps[n].map.notifyPoison(events[n].fd);
      maps[1].map.notifyPoison(-1);
      for (const { fd, map } of maps) { native.truncateFd(fd, 0); map.bytes[0] = 1; map.bytes[PAGE] = 1; }
      say(...events.map((event) => event.read()));`);
    expect(result).toMatchObject({ status: 0, stdout: '[1,0]\n' });
  });

  test('does not stop registers, bitmaps, copies or system calls', () => {
    const result = run(`
      const { fd, map } = make(8);
      native.truncateFd(fd, 0);
      say(native.readRegister32(map.bytes, 0), native.bitmapCount(map.bytes, PAGE * 8, 640));
      native.writeRegister64(map.bytes, 3 * PAGE, 1, 2);
      native.storeRelease32(map.bytes, 4 * PAGE, 5);
      map.bytes.copyWithin(0, 5 * PAGE, 6 * PAGE);
      const [a, b] = native.socketpair();
      let error;
      try { native.sendMessage(a, [map.bytes.subarray(7 * PAGE, 7 * PAGE + 16)]); } catch (caught) { error = caught; }
      say(error.errno, map.isPoisoned);`);
    expect(result).toMatchObject({ status: 0, stdout: '[0,0]\n["EFAULT",true]\n' });
  });

  test('is replaced by zeroes that stay read-only where the mapping was', () => {
    const result = run(`
      const fd = native.memfdCreate('rom', { size: PAGE, seals: 0 });
      const map = native.mmap(fd, 0, PAGE, native.PROT_READ);
      native.truncateFd(fd, 0);
      say(map.bytes[0], map.isPoisoned);
      const copy = map.bytes.slice();
      say(copy.length === PAGE);`);
    expect(result).toMatchObject({ status: 0, stdout: '[0,true]\n[true]\n' });
  });

  test('may be touched by several threads at the same time', () => {
    const result = run(`
      import { deflate } from 'node:zlib';
      import { promisify } from 'node:util';
      // The pool's threads read the mapping in user space while this one does.
      const pack = promisify(deflate);
      for (let round = 0; round < 20; round++) {
        const { fd, map } = make(256);
        map.bytes.fill(1);
        native.truncateFd(fd, PAGE);
        const jobs = Array.from({ length: 4 }, () => pack(map.bytes, { level: 1 }));
        let sum = 0;
        for (let at = 0; at < map.bytes.length; at += 512) sum += map.bytes[at];
        const sizes = await Promise.all(jobs);
        if (sum !== PAGE / 512 || !map.isPoisoned || new Set(sizes.map((part) => part.length)).size !== 1) say('bad', sum);
        map.unmap();
        native.closeFd(fd);
      }
      say(native.mappingCount());`);
    expect(result).toMatchObject({ status: 0, signal: null, stdout: '[0]\n' });
  });

  test('may be cut in two threads at once, each with mappings of its own', () => {
    const result = run(`
      import { isMainThread, parentPort, Worker } from 'node:worker_threads';
      if (isMainThread) {
        const once = () => new Promise((resolve, reject) => {
          const worker = new Worker(new URL(import.meta.url));
          worker.once('message', resolve); worker.once('error', reject);
        });
        say(...await Promise.all([once(), once(), once()]));
      } else {
        let poisoned = 0;
        for (let round = 0; round < 200; round++) {
          const { fd, map } = make(32);
          native.truncateFd(fd, 0);
          for (let page = 0; page < 32; page++) map.bytes[page * PAGE] = page;
          if (map.isPoisoned && map.bytes[31 * PAGE] === 31) poisoned++;
          map.unmap();
          native.closeFd(fd);
        }
        parentPort.postMessage(poisoned);
      }`);
    expect(result).toMatchObject({ status: 0, signal: null, stdout: '[200,200,200]\n' });
  });
});

describe('a fault that is not ours', () => {
  test('kills the process as ever', () => {
    const result = run(`
      make(1);
      process.kill(process.pid, 'SIGBUS');
      setTimeout(() => {}, 5000);`);
    expect(result.signal).toBe('SIGBUS');
  });
});
