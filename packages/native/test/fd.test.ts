import { linkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  closeFd,
  dupFd,
  EventFd,
  eventfdCreate,
  fdSize,
  isCloseOnExec,
  isFdOpen,
  isSameFile,
  memfdCreate,
  O_CREAT,
  O_RDONLY,
  O_RDWR,
  openFd,
  POLLIN,
  POLLOUT,
  pollFd,
  preadFd,
  pwriteFd,
  setNonBlocking,
  socketpair,
  statFd,
  truncateFd,
} from '@vfio/native';
import { describe, expect, test } from 'vitest';
import { tempDir } from './helpers/temp.js';

describe('descriptors', () => {
  test('are closed on exec, however they came about', () => {
    const path = join(tempDir(), 'file');
    const [a, b] = socketpair();
    const fds = [openFd(path, O_RDWR | O_CREAT), memfdCreate('m', { size: 1 }), eventfdCreate(), a, b, dupFd(a)];
    for (const fd of fds) {
      expect(isCloseOnExec(fd)).toBe(true);
      closeFd(fd);
    }
  });

  test('are open until they are closed', () => {
    const fd = eventfdCreate();
    expect(isFdOpen(fd)).toBe(true);
    closeFd(fd);
    expect(isFdOpen(fd)).toBe(false);
  });

  test('refuse to be closed twice with EBADF', () => {
    const fd = eventfdCreate();
    closeFd(fd);
    expect(() => closeFd(fd)).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_SYSCALL', errno: 'EBADF', op: 'close' }),
    );
  });

  test('that do not exist give the errno and the system call', () => {
    expect(() => openFd('/nowhere/at/all', O_RDONLY)).toThrow(
      expect.objectContaining({
        code: 'ERR_VFIO_SYSCALL',
        errno: 'ENOENT',
        op: 'open',
        message: expect.stringContaining('/nowhere/at/all'),
      }),
    );
    expect(() => statFd(987_654)).toThrow(expect.objectContaining({ errno: 'EBADF', op: 'fstat' }));
    expect(() => dupFd(-1)).toThrow(expect.objectContaining({ errno: 'EBADF' }));
  });

  test('with a NUL in the path are refused, not cut', () => {
    expect(() => openFd('/dev/null\0x', O_RDONLY)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });
});

describe('the same file', () => {
  test('is seen through a copy of the descriptor and through another open of the file', () => {
    const dir = tempDir();
    writeFileSync(join(dir, 'a'), 'x');
    linkSync(join(dir, 'a'), join(dir, 'b'));
    const a = openFd(join(dir, 'a'), O_RDONLY);
    const b = openFd(join(dir, 'b'), O_RDONLY);
    const copy = dupFd(a);
    expect(isSameFile(a, copy)).toBe(true);
    expect(isSameFile(a, b)).toBe(true);
    for (const fd of [a, b, copy]) closeFd(fd);
  });

  test('is not seen in two memfds, nor in two eventfds, which share one inode', () => {
    const pairs = [
      [memfdCreate('same', { size: 1 }), memfdCreate('same', { size: 1 })],
      [eventfdCreate(), eventfdCreate()],
    ] as const;
    for (const [a, b] of pairs) {
      expect(isSameFile(a, b)).toBe(false);
      closeFd(a);
      closeFd(b);
    }
  });

  test('needs open descriptors', () => {
    const fd = eventfdCreate();
    expect(() => isSameFile(fd, 987_654)).toThrow(expect.objectContaining({ errno: 'EBADF' }));
    closeFd(fd);
  });
});

describe('files', () => {
  test('are read and written at offsets above 4 GiB, given as number or bigint', () => {
    const fd = memfdCreate('sparse', { size: 0, seals: 0 });
    truncateFd(fd, 0x2_0000_1000n);
    expect(fdSize(fd)).toBe(0x2_0000_1000n);
    expect(pwriteFd(fd, Uint8Array.of(1, 2, 3), 0x1_0000_0000)).toBe(3);
    const back = new Uint8Array(3);
    expect(preadFd(fd, back, 0x1_0000_0000n)).toBe(3);
    expect([...back]).toEqual([1, 2, 3]);
    expect(preadFd(fd, back, 0x2_0000_1000n)).toBe(0);
    closeFd(fd);
  });

  test('refuse a negative or fractional offset', () => {
    const fd = memfdCreate('m', { size: 10 });
    for (const offset of [-1, 0.5, Number.NaN, -1n, 1n << 63n]) {
      expect(() => preadFd(fd, new Uint8Array(1), offset)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    }
    closeFd(fd);
  });

  test('tell their kind and page size', () => {
    const fd = memfdCreate('m', { size: 10 });
    expect(statFd(fd)).toMatchObject({ size: 10n, isHugetlb: false });
    expect(statFd(fd).mode & 0o170000).toBe(0o100000);
    closeFd(fd);
  });
});

describe('polling', () => {
  test('answers what is ready and 0 on timeout', () => {
    const event = EventFd.create();
    expect(pollFd(event.fd, POLLIN, 0)).toBe(0);
    expect(pollFd(event.fd, POLLIN | POLLOUT, 0)).toBe(POLLOUT);
    event.signal();
    expect(pollFd(event.fd, POLLIN, -1)).toBe(POLLIN);
    event.close();
  });

  test('of a closed descriptor throws EBADF', () => {
    expect(() => pollFd(987_654, POLLIN, 0)).toThrow(expect.objectContaining({ errno: 'EBADF', op: 'poll' }));
  });

  test('does not see O_NONBLOCK of another open file', () => {
    const [a, b] = socketpair();
    setNonBlocking(a, true);
    setNonBlocking(a, false);
    expect(pollFd(b, POLLIN, 0)).toBe(0);
    closeFd(a);
    closeFd(b);
  });
});
