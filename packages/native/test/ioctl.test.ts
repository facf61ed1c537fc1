import { endianness } from 'node:os';
import { closeFd, eventfdCreate, ioctl, memfdCreate, sendMessage, socketpair, tryIoctl } from '@vfio/native';
import { describe, expect, test } from 'vitest';

/** Bytes that can be read (asm-generic/ioctls.h). */
const FIONREAD = 0x541b;
const FIOCLEX = 0x5451;
const FIONCLEX = 0x5450;

describe('ioctl', () => {
  test('lets the kernel write into the bytes', () => {
    const [a, b] = socketpair();
    sendMessage(a, [new Uint8Array(1234)]);
    const out = new Uint8Array(4);
    expect(ioctl(b, FIONREAD, out)).toBe(0);
    expect(new DataView(out.buffer).getInt32(0, endianness() === 'LE')).toBe(1234);
    closeFd(a);
    closeFd(b);
  });

  test('writes where the view starts', () => {
    const [a, b] = socketpair();
    sendMessage(a, [new Uint8Array(7)]);
    const out = new Uint8Array(12).fill(0xee);
    ioctl(b, FIONREAD, out.subarray(4, 8));
    expect([...out.subarray(0, 4), ...out.subarray(8)]).toEqual(new Array(8).fill(0xee));
    expect(new DataView(out.buffer).getInt32(4, endianness() === 'LE')).toBe(7);
    closeFd(a);
    closeFd(b);
  });

  test('takes an integer, or nothing', () => {
    const fd = eventfdCreate();
    expect(ioctl(fd, FIONCLEX)).toBe(0);
    expect(ioctl(fd, FIOCLEX, 0)).toBe(0);
    closeFd(fd);
  });

  test('that the file does not know throws ENOTTY and names the request', () => {
    const fd = memfdCreate('m', { size: 1 });
    expect(() => ioctl(fd, 0x3b64, 0, 'VFIO_GET_API_VERSION')).toThrow(
      expect.objectContaining({
        code: 'ERR_VFIO_SYSCALL',
        errno: 'ENOTTY',
        op: 'ioctl',
        message: expect.stringContaining('VFIO_GET_API_VERSION'),
      }),
    );
    expect(() => ioctl(fd, 0x3b64)).toThrow(expect.objectContaining({ message: expect.stringContaining('0x3b64') }));
    expect(tryIoctl(fd, 0x3b64)).toBe(-25);
    closeFd(fd);
  });

  test('of a closed descriptor throws EBADF', () => {
    expect(() => ioctl(987_654, FIONREAD, new Uint8Array(4))).toThrow(expect.objectContaining({ errno: 'EBADF' }));
  });

  test('refuses bytes that are gone', () => {
    const bytes = new Uint8Array(4);
    structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
    expect(() => ioctl(0, FIONREAD, bytes)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });
});
