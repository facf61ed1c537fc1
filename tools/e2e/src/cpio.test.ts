import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type CpioEntry, packCpio } from './cpio.js';

/** Reads an archive back by the format's description alone. */
function read(archive: Uint8Array) {
  const bytes = Buffer.from(archive);
  const entries: { path: string; mode: number; data: string; major: number; minor: number }[] = [];
  for (let at = 0; ; ) {
    expect(at % 4).toBe(0);
    expect(bytes.toString('latin1', at, at + 6)).toBe('070701');
    const field = (index: number) =>
      Number.parseInt(bytes.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const nameSize = field(11);
    const path = bytes.toString('utf8', at + 110, at + 110 + nameSize - 1);
    expect(bytes[at + 110 + nameSize - 1]).toBe(0);
    const data = (at + 110 + nameSize + 3) & ~3;
    const size = field(6);
    if (path === 'TRAILER!!!') {
      expect(data).toBe(bytes.length);
      return entries;
    }
    const content = bytes.toString('base64', data, data + size);
    entries.push({ path, mode: field(1), data: content, major: field(9), minor: field(10) });
    at = (data + size + 3) & ~3;
  }
}

test('an empty archive is the trailer alone', () => {
  const zero = '00000000';
  const header = `070701${zero.repeat(4)}00000001${zero.repeat(6)}0000000b${zero}`;
  expect(Buffer.from(packCpio([])).toString('latin1')).toBe(`${header}TRAILER!!!\0\0\0\0`);
});

test('every kind of entry carries its type, mode and contents', () => {
  const entries: CpioEntry[] = [
    { kind: 'directory', path: 'dev' },
    { kind: 'character-device', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'file', path: 'init', data: Buffer.from('#!/bin/sh\n'), mode: 0o755 },
    { kind: 'symlink', path: 'bin', target: 'usr/bin' },
  ];
  expect(read(packCpio(entries))).toEqual([
    { path: 'dev', mode: 0o040755, data: '', major: 0, minor: 0 },
    { path: 'dev/console', mode: 0o020600, data: '', major: 5, minor: 1 },
    { path: 'init', mode: 0o100755, data: Buffer.from('#!/bin/sh\n').toString('base64'), major: 0, minor: 0 },
    { path: 'bin', mode: 0o120777, data: Buffer.from('usr/bin').toString('base64'), major: 0, minor: 0 },
  ]);
});

test('names and contents of any length come back as they were', () => {
  const file = fc.record({ path: fc.stringMatching(/^[a-z/]{1,20}[a-z]$/), data: fc.uint8Array({ maxLength: 50 }) });
  fc.assert(
    fc.property(fc.array(file, { maxLength: 6 }), (files) => {
      const relative = files.filter(({ path }) => !path.startsWith('/'));
      const found = read(packCpio(relative.map(({ path, data }) => ({ kind: 'file', path, data }))));
      expect(found.map(({ path, data }) => ({ path, data }))).toEqual(
        relative.map(({ path, data }) => ({ path, data: Buffer.from(data).toString('base64') })),
      );
    }),
  );
});

test('an absolute path is refused', () => {
  expect(() => packCpio([{ kind: 'directory', path: '/dev' }])).toThrow(RangeError);
});
