import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { ERRNO, type ErrnoName, errnoName, errnoNumber } from './errno.js';
import { errnoError, hex, isVfioError, messageOf, systemError, VFIO_ERROR_CODES, VfioError } from './errors.js';

describe('errno', () => {
  test('names and numbers go both ways', () => {
    for (const name of Object.keys(ERRNO) as ErrnoName[]) {
      expect(errnoName(errnoNumber(name))).toBe(name);
    }
    expect(errnoNumber('EINVAL')).toBe(22);
    expect(errnoName(25)).toBe('ENOTTY');
    expect(errnoName(0)).toBeUndefined();
    expect(errnoName(4095)).toBeUndefined();
  });

  test('are those of this system, and there is no gap but the two that Linux has', () => {
    const system = Object.entries(constants.errno).filter(([name]) => name !== 'EWOULDBLOCK' && name !== 'ENOTSUP');
    expect(system.length).toBeGreaterThan(70);
    expect(system.filter(([name, number]) => ERRNO[name as ErrnoName] !== number)).toEqual([]);
    const unnamed = Array.from({ length: 133 }, (_, at) => at + 1).filter((number) => errnoName(number) === undefined);
    expect(unnamed).toEqual([41, 58]);
  });

  test('each number has one name', () => {
    expect(new Set(Object.values(ERRNO)).size).toBe(Object.keys(ERRNO).length);
  });
});

describe('VfioError', () => {
  test('carries what it is told', () => {
    const cause = new Error('why');
    const options = { errno: 'EBUSY', op: 'reset', device: '0000:3b:00.0', details: { a: 1 }, cause } as const;
    const error = new VfioError('ERR_VFIO_BUSY', 'in use', options);
    expect(error).toMatchObject({ name: 'VfioError', code: 'ERR_VFIO_BUSY', message: 'in use', ...options });
    expect(error.errnoNumber).toBe(16);
  });

  test('has EINVAL as its number where it has no errno', () => {
    expect(new VfioError('ERR_VFIO_PROTOCOL', 'odd').errnoNumber).toBe(22);
    expect('cause' in new VfioError('ERR_VFIO_PROTOCOL', 'odd')).toBe(false);
  });

  test.each([
    ['an errno of the system', Object.assign(new Error('long'), { code: 'EACCES' }), 'EACCES', 'open /f: EACCES'],
    ['a code of Node', Object.assign(new Error('too big'), { code: 'ERR_OUT_OF_RANGE' }), 'EIO', 'open /f: too big'],
    ['no code', new Error('plain'), 'EIO', 'open /f: plain'],
    ['no error', 'thrown', 'EIO', 'open /f: thrown'],
    ['a name that every object has', Object.assign(new Error('odd'), { code: 'toString' }), 'EIO', 'open /f: odd'],
  ] as const)('tells a failed call of Node’s: %s', (_, cause, errno, message) => {
    const error = systemError('open /f', 'open', cause);
    expect(error).toMatchObject({ code: 'ERR_VFIO_SYSCALL', errno, op: 'open', message, cause });
  });

  test('is known by its brand, which another copy of the package has too', () => {
    const other = Object.assign(new Error('other'), { code: 'ERR_VFIO_IO', [Symbol.for('@vfio/error')]: true });
    expect(isVfioError(other)).toBe(true);
    expect(isVfioError(other, 'ERR_VFIO_IO')).toBe(true);
    expect(isVfioError(other, 'ERR_VFIO_BUSY')).toBe(false);
    for (const value of [new Error('plain'), undefined, null, 'text', 3, { code: 'ERR_VFIO_IO' }]) {
      expect(isVfioError(value)).toBe(false);
    }
  });

  test('does not show its brand among its properties', () => {
    expect(Object.getOwnPropertySymbols(new VfioError('ERR_VFIO_IO', 'x')).length).toBe(1);
    expect(JSON.parse(JSON.stringify(new VfioError('ERR_VFIO_IO', 'x')))).toMatchObject({ code: 'ERR_VFIO_IO' });
  });

  test.each<[ErrnoName, keyof typeof VFIO_ERROR_CODES]>([
    ['EINVAL', 'ERR_VFIO_INVALID_ARGUMENT'],
    ['EFAULT', 'ERR_VFIO_FAULT'],
    ['ENOTTY', 'ERR_VFIO_NOT_SUPPORTED'],
    ['EOPNOTSUPP', 'ERR_VFIO_NOT_SUPPORTED'],
    ['ENODEV', 'ERR_VFIO_NO_DEVICE'],
    ['EBUSY', 'ERR_VFIO_BUSY'],
    ['EACCES', 'ERR_VFIO_ACCESS'],
    ['EEXIST', 'ERR_VFIO_EXISTS'],
    ['E2BIG', 'ERR_VFIO_LIMIT'],
    ['EIO', 'ERR_VFIO_IO'],
    ['EAGAIN', 'ERR_VFIO_AGAIN'],
    ['ENOMSG', 'ERR_VFIO_STATE'],
  ])('%s goes with the code %s', (errno, code) => {
    expect(errnoError(errno, 'x', { op: 'y' })).toMatchObject({ errno, code, op: 'y' });
  });

  test('every code has a sentence', () => {
    for (const [code, sentence] of Object.entries(VFIO_ERROR_CODES)) {
      expect(code).toMatch(/^ERR_VFIO_[A-Z_]+$/);
      expect(sentence).toMatch(/^[A-Z].*\.$/);
    }
  });
});

test('numbers are shown in lower-case hex', () => {
  expect(hex(255)).toBe('0xff');
  expect(hex(-1)).toBe('-0x1');
  expect(hex(2n ** 64n - 1n)).toBe('0xffffffffffffffff');
  expect(hex(-16n)).toBe('-0x10');
});

test('whatever was thrown has a sentence', () => {
  const thrown = [new RangeError('too far'), 'a text', null, undefined, 7, Symbol('x'), {}, Object.create(null)];
  expect(thrown.map(messageOf)).toEqual([
    'too far',
    'a text',
    'null',
    'undefined',
    '7',
    'Symbol(x)',
    '[object Object]',
    '[object Object]',
  ]);
});
