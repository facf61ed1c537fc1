import {
  addSeals,
  closeFd,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  F_SEAL_WRITE,
  fdSize,
  getSeals,
  memfdCreate,
  mmap,
  truncateFd,
} from '@vfio/native';
import { describe, expect, test } from 'vitest';
import { leakedFds } from './helpers/fds.js';

describe('a memfd', () => {
  test('has its size and is sealed against cutting and growing', () => {
    const fd = memfdCreate('ram', { size: 8192 });
    expect(fdSize(fd)).toBe(8192n);
    expect(getSeals(fd)).toBe(F_SEAL_SHRINK | F_SEAL_GROW);
    for (const size of [0, 4096, 16384]) {
      expect(() => truncateFd(fd, size)).toThrow(expect.objectContaining({ errno: 'EPERM', op: 'ftruncate' }));
    }
    closeFd(fd);
  });

  test('starts as zeroes', () => {
    const fd = memfdCreate('ram', { size: 4096 });
    const map = mmap(fd, 0, 4096);
    expect(map.bytes.every((byte) => byte === 0)).toBe(true);
    map.unmap();
    closeFd(fd);
  });

  test('takes the seals that are asked for, and none after F_SEAL_SEAL', () => {
    const fd = memfdCreate('ram', { size: 4096, seals: 0 });
    expect(getSeals(fd)).toBe(0);
    addSeals(fd, F_SEAL_SHRINK | F_SEAL_SEAL);
    expect(getSeals(fd)).toBe(F_SEAL_SHRINK | F_SEAL_SEAL);
    expect(() => addSeals(fd, F_SEAL_GROW)).toThrow(expect.objectContaining({ errno: 'EPERM', op: 'fcntl' }));
    closeFd(fd);
  });

  test('cannot be sealed against writing while it is mapped for it', () => {
    const fd = memfdCreate('ram', { size: 4096, seals: 0 });
    const map = mmap(fd, 0, 4096);
    expect(() => addSeals(fd, F_SEAL_WRITE)).toThrow(expect.objectContaining({ errno: 'EBUSY' }));
    map.unmap();
    addSeals(fd, F_SEAL_WRITE);
    expect(() => mmap(fd, 0, 4096)).toThrow(expect.objectContaining({ errno: 'EPERM', op: 'mmap' }));
    closeFd(fd);
  });

  test('leaves no descriptor behind where it cannot be made', async () => {
    expect(
      await leakedFds(10, () => {
        expect(() => memfdCreate('ram', { size: -1 })).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
        expect(() => memfdCreate('x'.repeat(300), { size: 1 })).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
      }),
    ).toBe(0);
  });
});
