import { existsSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  acceptUnix,
  closeFd,
  connectUnix,
  dupFd,
  isCloseOnExec,
  isFdOpen,
  listenUnix,
  memfdCreate,
  peerCredentials,
  recvMessage,
  SUN_PATH_MAX,
  sendMessage,
  setNonBlocking,
  setSendBuffer,
  shutdownSocket,
  socketpair,
  statFd,
  transact,
} from '@vfio/native';
import { afterEach, describe, expect, test } from 'vitest';
import { leakedFds } from './helpers/fds.js';
import { announce, concat, frame } from './helpers/frames.js';
import { tempDir } from './helpers/temp.js';
import { fill } from './helpers/test-loop.js';

const open: number[] = [];
afterEach(() => {
  for (const fd of open.splice(0)) if (isFdOpen(fd)) closeFd(fd);
});

function own(fd: number): number {
  open.push(fd);
  return fd;
}

function pair(): [number, number] {
  const ends = socketpair();
  open.push(...ends);
  return ends;
}

function file(name = 'file'): number {
  return own(memfdCreate(name, { size: 1 }));
}

function receive(fd: number, most: number, room = 16) {
  const bytes = new Uint8Array(most);
  const fds = new Int32Array(room);
  const got = recvMessage(fd, bytes, 0, most, fds);
  if (got === undefined) return undefined;
  return {
    text: Buffer.from(bytes.subarray(0, got.bytes)).toString(),
    fds: [...fds.subarray(0, got.fdCount)],
    truncated: got.truncated,
  };
}

const bytes = (text: string) => new Uint8Array(Buffer.from(text));
const inode = (fd: number) => statFd(fd).ino;

describe('a message', () => {
  test('of several pieces goes out as one stretch of bytes', () => {
    const [a, b] = pair();
    expect(sendMessage(a, [bytes('ab'), new Uint8Array(), bytes('cde').subarray(1)])).toBe(4);
    expect(receive(b, 100)).toEqual({ text: 'abde', fds: [], truncated: false });
  });

  test('is read to the place and length asked for', () => {
    const [a, b] = pair();
    sendMessage(a, [bytes('abcdef')]);
    const room = new Uint8Array(8).fill(0x2e);
    expect(recvMessage(b, room, 2, 3, new Int32Array(0))).toMatchObject({ bytes: 3 });
    expect(Buffer.from(room).toString()).toBe('..abc...');
    expect(() => recvMessage(b, room, 7, 2, new Int32Array(0))).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });

  test('is undefined where a non-blocking socket has none, and of no bytes at the end', () => {
    const [a, b] = pair();
    setNonBlocking(b, true);
    expect(receive(b, 10)).toBeUndefined();
    closeFd(a);
    expect(receive(b, 10)).toMatchObject({ text: '' });
  });

  test('to a full socket goes in part, then throws EAGAIN, and what waits is still whole', () => {
    const [a, b] = pair();
    setNonBlocking(a, true);
    setSendBuffer(a, 8192);
    const sent = sendMessage(a, [new Uint8Array(1 << 20).fill(7)]);
    expect(sent).toBeGreaterThan(0);
    expect(sent).toBeLessThan(1 << 20);
    expect(() => sendMessage(a, [bytes('x')])).toThrow(expect.objectContaining({ errno: 'EAGAIN', op: 'sendmsg' }));
    let got = 0;
    setNonBlocking(b, true);
    for (let part = receive(b, 4096); part !== undefined; part = receive(b, 4096)) got += part.text.length;
    expect(got).toBe(sent);
  });

  test('to a peer that has closed throws EPIPE and sends no signal', () => {
    const [a, b] = pair();
    closeFd(b);
    expect(() => sendMessage(a, [bytes('x')])).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_SYSCALL', errno: 'EPIPE' }),
    );
  });

  test('is not sent after the sending side was shut down, but still received', () => {
    const [a, b] = pair();
    shutdownSocket(a, 1);
    expect(() => sendMessage(a, [bytes('x')])).toThrow(expect.objectContaining({ errno: 'EPIPE' }));
    sendMessage(b, [bytes('y')]);
    expect(receive(a, 5)?.text).toBe('y');
    expect(receive(b, 5)?.text).toBe('');
  });
});

describe('descriptors', () => {
  test('arrive as descriptors of the same files, closed on exec; the sender’s stay open', () => {
    const [a, b] = pair();
    const files = [file(), file(), file()];
    sendMessage(a, [bytes('x')], files);
    const { fds } = receive(b, 10) as { fds: number[] };
    open.push(...fds);
    expect(fds.map(inode)).toEqual(files.map(inode));
    expect(fds.map(isCloseOnExec)).toEqual([true, true, true]);
    expect(files.map(isFdOpen)).toEqual([true, true, true]);
  });

  test('of a stream come with the last message of a read, as measured with the kernel', () => {
    const [a, b] = pair();
    const one = file();
    for (const [text, count] of [
      ['A', 0],
      ['B', 0],
      ['C', 1],
      ['D', 0],
      ['E', 2],
      ['F', 1],
      ['G', 0],
    ] as const) {
      sendMessage(a, [bytes(text)], new Array(count).fill(one));
    }
    const reads = Array.from({ length: 4 }, () => receive(b, 100));
    for (const read of reads) open.push(...(read?.fds ?? []));
    expect(reads.map((read) => [read?.text, read?.fds.length])).toEqual([
      ['ABC', 1],
      ['DE', 2],
      ['F', 1],
      ['G', 0],
    ]);
  });

  test('come with the first byte of their message', () => {
    const [a, b] = pair();
    sendMessage(a, [bytes('abc')], [file()]);
    const first = receive(b, 1);
    open.push(...(first?.fds ?? []));
    expect(first).toMatchObject({ text: 'a', fds: [expect.any(Number)] });
    expect(receive(b, 10)).toEqual({ text: 'bc', fds: [], truncated: false });
  });

  test.each([0, 1, 2])('for which there are only %i places are all closed and reported', async (room) => {
    const [a, b] = pair();
    const files = [file(), file(), file()];
    expect(
      await leakedFds(10, () => {
        sendMessage(a, [bytes('x')], files);
        expect(receive(b, 10, room)).toEqual({ text: 'x', fds: [], truncated: true });
      }),
    ).toBe(0);
    sendMessage(a, [bytes('y')], files.slice(0, room));
    const next = receive(b, 10, room);
    open.push(...(next?.fds ?? []));
    expect(next?.fds.length).toBe(room);
  });

  test('up to 253 go with one message; one more is refused before anything is sent', () => {
    const [a, b] = pair();
    const one = file();
    sendMessage(a, [bytes('x')], new Array(253).fill(one));
    const { fds } = receive(b, 10, 253) as { fds: number[] };
    open.push(...fds);
    expect(fds.length).toBe(253);
    expect(() => sendMessage(a, [bytes('x')], new Array(254).fill(one))).toThrow(
      expect.objectContaining({ errno: 'EINVAL' }),
    );
    setNonBlocking(b, true);
    expect(receive(b, 10)).toBeUndefined();
  });

  test('that are not open are refused with EBADF before anything is sent', () => {
    const [a, b] = pair();
    expect(() => sendMessage(a, [bytes('x')], [file(), 987_654])).toThrow(expect.objectContaining({ errno: 'EBADF' }));
    setNonBlocking(b, true);
    expect(receive(b, 10)).toBeUndefined();
  });
});

describe('a listening socket', () => {
  test('accepts what connects; the mode of its file is the one asked for', () => {
    const path = join(tempDir(), 's');
    const listener = own(listenUnix(path, { mode: 0o666 }));
    expect(statSync(path).mode & 0o777).toBe(0o666);
    expect(acceptUnix(listener)).toBeUndefined();
    const client = own(connectUnix(path));
    const server = own(acceptUnix(listener) as number);
    expect([listener, client, server].map(isCloseOnExec)).toEqual([true, true, true]);
    sendMessage(client, [bytes('hello')]);
    expect(receive(server, 10)?.text).toBe('hello');
    expect(peerCredentials(server)).toEqual({ pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() });
  });

  test('is for its owner alone unless told otherwise', () => {
    const path = join(tempDir(), 's');
    own(listenUnix(path));
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test('replaces a file that a dead server left behind, and only such', () => {
    const dir = tempDir();
    const path = join(dir, 's');
    closeFd(listenUnix(path));
    const live = own(listenUnix(path));
    expect(() => listenUnix(path)).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_BUSY', errno: 'EADDRINUSE', message: expect.stringContaining(path) }),
    );
    expect(own(connectUnix(path))).toBeGreaterThan(0);
    closeFd(live);
    writeFileSync(join(dir, 'file'), 'precious');
    symlinkSync(path, join(dir, 'link'));
    for (const name of ['file', 'link']) {
      expect(() => listenUnix(join(dir, name))).toThrow(expect.objectContaining({ code: 'ERR_VFIO_BUSY' }));
      expect(existsSync(join(dir, 'file'))).toBe(true);
    }
  });

  test('that is too busy to answer is not taken for dead', () => {
    const path = join(tempDir(), 's');
    own(listenUnix(path, { backlog: 0 }));
    own(connectUnix(path));
    expect(() => connectUnix(path)).toThrow(expect.objectContaining({ errno: 'EAGAIN', op: 'connect' }));
    expect(() => listenUnix(path)).toThrow(expect.objectContaining({ code: 'ERR_VFIO_BUSY' }));
  });

  test('has a path of at most 107 bytes', () => {
    const dir = tempDir();
    const path = join(dir, 'ü'.repeat(60));
    expect(Buffer.byteLength(path)).toBeGreaterThan(SUN_PATH_MAX);
    for (const use of [() => listenUnix(path), () => connectUnix(path)]) {
      expect(use).toThrow(expect.objectContaining({ code: 'ERR_VFIO_LIMIT', errno: 'ENAMETOOLONG' }));
    }
    for (const bad of ['', join(dir, 'a\0b')]) {
      expect(() => listenUnix(bad)).toThrow(
        expect.objectContaining({ code: 'ERR_VFIO_INVALID_ARGUMENT', errno: 'EINVAL' }),
      );
    }
    const longest = join(dir, 'x'.repeat(SUN_PATH_MAX - dir.length - 1));
    own(listenUnix(longest));
    expect(own(connectUnix(longest))).toBeGreaterThan(0);
  });

  test('that cannot be made leaves no descriptor and no file', async () => {
    const dir = tempDir();
    expect(
      await leakedFds(5, () => {
        expect(() => listenUnix(join(dir, 'missing', 's'))).toThrow(expect.objectContaining({ errno: 'ENOENT' }));
        expect(() => connectUnix(join(dir, 's'))).toThrow(expect.objectContaining({ errno: 'ENOENT' }));
      }),
    ).toBe(0);
  });
});

describe('a transaction', () => {
  const reply = new Uint8Array(4096);
  const fds = new Int32Array(4);

  test('sends, then receives exactly one message; the next stays in the socket', () => {
    const [a, b] = pair();
    sendMessage(b, [frame(1, 5, 10), frame(2, 5, 3)]);
    expect(transact(a, { bytes: frame(1, 5) }, reply, 1000, fds)).toEqual({ length: 26, fdCount: 0, truncated: false });
    expect(reply.subarray(0, 26)).toEqual(frame(1, 5, 10));
    expect(transact(a, undefined, reply, 1000, fds)).toMatchObject({ length: 19 });
    const sent = new Uint8Array(100);
    expect(recvMessage(b, sent, 0, 100, fds)?.bytes).toBe(16);
    expect(sent.subarray(0, 16)).toEqual(frame(1, 5));
  });

  test('brings descriptors both ways', () => {
    const [a, b] = pair();
    const [one, two] = [file(), file()];
    sendMessage(b, [frame(1, 5, 200)], [one, two]);
    const got = transact(a, { bytes: frame(1, 5), fds: [two] }, reply, 1000, fds);
    expect(got.fdCount).toBe(2);
    const received = [...fds.subarray(0, 2)];
    open.push(...received);
    expect(received.map(inode)).toEqual([one, two].map(inode));
    const there = receive(b, 100);
    open.push(...(there?.fds ?? []));
    expect(there?.fds.map(inode)).toEqual([inode(two)]);
  });

  test('loses all descriptors where there is no place for one, and says so', async () => {
    const [a, b] = pair();
    const one = file();
    expect(
      await leakedFds(5, () => {
        sendMessage(b, [frame(1, 5)], new Array(5).fill(one));
        expect(transact(a, undefined, reply, 1000, fds)).toEqual({ length: 16, fdCount: 0, truncated: true });
      }),
    ).toBe(0);
  });

  test('ends after its time with ERR_VFIO_TIMEOUT, also within a message', () => {
    const [a, b] = pair();
    const late = () => transact(a, undefined, reply, 5, fds);
    expect(late).toThrow(expect.objectContaining({ code: 'ERR_VFIO_TIMEOUT', errno: 'ETIMEDOUT' }));
    sendMessage(b, [frame(1, 5, 100).subarray(0, 50)]);
    expect(late).toThrow(expect.objectContaining({ code: 'ERR_VFIO_TIMEOUT' }));
  });

  test('ends after its time where the peer does not read', () => {
    const [a] = pair();
    fill(a);
    expect(() => transact(a, { bytes: frame(1, 1, 1000) }, reply, 5, fds)).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_TIMEOUT' }),
    );
  });

  test('ends with ERR_VFIO_DISCONNECTED where the peer is gone, before, within or instead of a reply', () => {
    for (const before of [new Uint8Array(), frame(1, 1).subarray(0, 7), frame(1, 1, 9).subarray(0, 20)]) {
      const [a, b] = pair();
      if (before.length > 0) sendMessage(b, [before]);
      closeFd(b);
      for (const request of [undefined, { bytes: frame(1, 1) }]) {
        expect(() => transact(a, request, reply, 1000, fds)).toThrow(
          expect.objectContaining({ code: 'ERR_VFIO_DISCONNECTED', errno: 'ECONNRESET' }),
        );
      }
    }
  });

  test.each([0, 15, 4097, 0xffff_ffff])(
    'refuses a message that announces %i bytes, and keeps none of its descriptors',
    async (size) => {
      const one = file();
      expect(
        await leakedFds(3, () => {
          const [a, b] = socketpair();
          sendMessage(b, [announce(frame(1, 1), size)], [one]);
          expect(() => transact(a, undefined, reply, 1000, fds)).toThrow(
            expect.objectContaining({
              code: 'ERR_VFIO_PROTOCOL',
              errno: 'EPROTO',
              message: expect.stringContaining(`${size} bytes`),
            }),
          );
          closeFd(a);
          closeFd(b);
        }),
      ).toBe(0);
    },
  );

  test('of a message larger than the socket’s buffer goes out in parts, with its descriptors once', () => {
    const [a, b] = pair();
    setSendBuffer(a, 8192);
    const big = frame(1, 1, 300_000);
    setNonBlocking(b, true);
    // Nobody reads while it is sent, so it ends after its time; what went out must be the message's first part.
    expect(() => transact(a, { bytes: big, fds: [file()] }, reply, 5, fds)).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_TIMEOUT' }),
    );
    const parts: Uint8Array[] = [];
    let received = 0;
    for (;;) {
      const part = new Uint8Array(65_536);
      const got = recvMessage(b, part, 0, part.length, fds);
      if (got === undefined) break;
      for (const fd of fds.subarray(0, got.fdCount)) closeFd(fd);
      received += got.fdCount;
      parts.push(part.subarray(0, got.bytes));
    }
    const stream = concat(parts);
    expect(stream.length).toBeGreaterThan(8192);
    expect(Buffer.compare(stream, big.subarray(0, stream.length))).toBe(0);
    expect(received).toBe(1);
  });
});

test('no use of sockets leaks a descriptor', async () => {
  const dir = tempDir();
  expect(
    await leakedFds(30, () => {
      const path = join(dir, 's');
      const listener = listenUnix(path);
      const client = connectUnix(path);
      const server = acceptUnix(listener) as number;
      const copy = dupFd(server);
      for (const fd of [listener, client, server, copy]) closeFd(fd);
    }),
  ).toBe(0);
});
