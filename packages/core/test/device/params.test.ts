import { describe, expect, test } from 'vitest';
import { isDenylisted, VfioPciModuleParams } from '../../src/index.js';
import { FakeFunction, FakeHost } from './fake-function.js';
import { errnoOf, plainOps, rig } from './helpers.js';

describe('module parameters', () => {
  test("have the kernel's defaults", () => {
    const params = new VfioPciModuleParams();
    expect(params.ids).toBe('');
    for (const name of ['nointxmask', 'disableVga', 'disableIdleD3', 'enableSriov', 'disableDenylist'] as const) {
      expect(params.get(name)).toBe(false);
    }
    expect(params.latch()).toEqual({ nointxmask: false, disableIdleD3: false, disableVga: false });
  });

  test.each([
    ['nointxmask', 'none'],
    ['disableIdleD3', 'none'],
    ['enableSriov', 'none'],
    ['disableVga', 'EACCES'],
    ['disableDenylist', 'EACCES'],
    ['ids', 'ENOENT'],
    ['toString', 'ENOENT'],
    ['__proto__', 'ENOENT'],
  ])('%s written later gives %s', (name, errno) => {
    const params = new VfioPciModuleParams();
    expect(errnoOf(() => params.set(name, true))).toBe(errno);
  });

  test.each([
    ['Y', true],
    ['y\n', true],
    ['1', true],
    ['on', true],
    ['On', true],
    ['t', true],
    ['N', false],
    ['0', false],
    ['off', false],
    ['F', false],
    ['o', 'EINVAL'],
    ['', 'EINVAL'],
    ['2', 'EINVAL'],
    [' 1', 'EINVAL'],
  ])('read the text "%s" as %s', (text, value) => {
    const params = new VfioPciModuleParams({ enableSriov: value !== true });
    const errno = errnoOf(() => params.set('enableSriov', text));
    if (typeof value === 'string') expect(errno).toBe(value);
    else expect(params.get('enableSriov')).toBe(value);
  });

  test('latched for a device do not follow later writes', () => {
    const params = new VfioPciModuleParams({ nointxmask: true });
    const latched = params.latch();
    params.set('nointxmask', false);
    params.set('disableIdleD3', 'Y');
    expect(latched).toEqual({ nointxmask: true, disableIdleD3: false, disableVga: false });
    expect(params.latch()).toEqual({ nointxmask: false, disableIdleD3: true, disableVga: false });
  });

  test('ids of more than 1023 characters are ENOSPC', () => {
    expect(new VfioPciModuleParams({ ids: 'x'.repeat(1023) }).ids).toHaveLength(1023);
    expect(errnoOf(() => new VfioPciModuleParams({ ids: 'x'.repeat(1024) }))).toBe('ENOSPC');
  });

  test('are not seen by a driver that does not pass them', async () => {
    const { dev } = await rig({}, plainOps);
    expect(dev.params).toEqual({ nointxmask: false, disableIdleD3: false, disableVga: false });
  });
});

describe('denylist', () => {
  test.each([0x19e2, 0x19e3, 0x37c8, 0x37c9, 0x0435, 0x0443, 0x0b25, 0x0cfe])('has Intel 0x%s', (device) => {
    expect(isDenylisted(new FakeFunction(new FakeHost(), { vendor: 0x8086, device }))).toBe(true);
    expect(isDenylisted(new FakeFunction(new FakeHost(), { vendor: 0x1234, device }))).toBe(false);
  });

  test('has nobody else', () => {
    expect(isDenylisted(new FakeFunction(new FakeHost(), { vendor: 0x8086, device: 0x19e4 }))).toBe(false);
  });
});
