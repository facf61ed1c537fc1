import { describe, expect, test } from 'vitest';
import { corePciOps, OpsRegistry, VFIO_OPS_API, type VfioDeviceOps, vfioPciCoreAllocDevice } from '../../src/index.js';
import { FakeFunction, FakeHost } from './fake-function.js';
import { errnoOf, plainOps } from './helpers.js';

function without(key: keyof VfioDeviceOps): VfioDeviceOps {
  const { [key]: _gone, ...rest } = { ...corePciOps, name: 'x' };
  return rest as VfioDeviceOps;
}

describe('ops registry', () => {
  test('holds tables by ops name, several of one driver', () => {
    const registry = new OpsRegistry();
    expect(registry.register((core) => ({ ...core, name: 'one' }))).toBe('one');
    expect(registry.register({ ops: (core) => ({ ...core, name: 'two' }) })).toBe('two');
    expect(registry.names()).toEqual(['one', 'two']);
    expect(registry.get('two').ops(corePciOps).name).toBe('two');
    expect(registry.has('one')).toBe(true);
    registry.unregister('one');
    registry.unregister('one');
    expect(registry.has('one')).toBe(false);
    expect(errnoOf(() => registry.get('one'))).toBe('ENOENT');
  });

  const half = { setState: () => undefined } as never;
  test.each([
    [
      'an unknown op',
      { ops: () => ({ ...corePciOps, name: 'x', openDevise() {} }) as VfioDeviceOps },
      /openDevise/,
      'EINVAL',
    ],
    ['a missing op', { ops: () => without('setIrqs') }, /setIrqs/, 'EINVAL'],
    [
      'an op that is no function',
      { ops: () => ({ ...corePciOps, name: 'x', read: 5 }) as unknown as VfioDeviceOps },
      /read/,
      'EINVAL',
    ],
    ['no name', { ops: () => ({ ...corePciOps, name: '' }) }, /name/, 'EINVAL'],
    ['the name of the base', { ops: () => ({ ...corePciOps }) }, /base/, 'EINVAL'],
    ['another api', { ops: () => ({ ...corePciOps, name: 'x', api: VFIO_OPS_API + 1 }) }, /api/, 'EINVAL'],
    ['no api', { ops: () => without('api') }, /api/, 'EINVAL'],
    ['half a migration table', { ops: plainOps, migrationOps: half }, /getState, getDataSize/, 'EINVAL'],
    ['half a log table', { ops: plainOps, logOps: half }, /logStart, logStop, logReadAndClear/, 'EINVAL'],
    ['a name that is taken', { ops: plainOps }, /taken/, 'EEXIST'],
  ])('refuses %s and stays as it was', (_name, entry, message, errno) => {
    const registry = new OpsRegistry();
    if (errno === 'EEXIST') registry.register(plainOps);
    const before = registry.names();
    expect(errnoOf(() => registry.register(entry))).toBe(errno);
    expect(() => registry.register(entry)).toThrow(message);
    expect(() => registry.register(entry)).toThrow(expect.objectContaining({ code: 'ERR_VFIO_BAD_DRIVER' }));
    expect(registry.names()).toEqual(before);
  });

  test('allocation refuses the same tables', () => {
    const fn = new FakeFunction(new FakeHost());
    expect(errnoOf(() => vfioPciCoreAllocDevice(fn, () => without('reset')))).toBe('EINVAL');
  });
});
