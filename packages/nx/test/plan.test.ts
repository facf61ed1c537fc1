import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkOptions, FEATURES, type Plan, planMore, planNew, renderVariantDriver } from '../src/index.js';
import { options } from './helpers/arbitrary.js';

const SETTING = { version: '1.2.3' };
const HISI = { name: 'hisi-acc', ids: ['19e5:a251'] };

/** A package as it was generated, changed by its author perhaps. */
function generated(asked = {}, change: Record<string, string | undefined> = {}): Map<string, string> {
  const files = new Map(planNew({ ...HISI, ...asked }, SETTING).created);
  for (const [path, text] of Object.entries(change)) {
    if (text === undefined) files.delete(path);
    else files.set(path, text);
  }
  return files;
}

const more = (files: ReadonlyMap<string, string>, asked: object, setting = SETTING): Plan =>
  planMore({ name: 'hisi-acc', ...asked }, setting, (path) => files.get(path));

const apply = (files: ReadonlyMap<string, string>, { created, updated }: Plan) =>
  new Map([...files, ...created, ...updated]);

describe('a second run', () => {
  test('with nothing new changes nothing', () => {
    for (const asked of [{}, { features: FEATURES }, { classes: ['0108'], requires: ['zpci'] }]) {
      const plan = more(generated(asked), {});
      expect([plan.created.size, plan.updated.size, plan.kept]).toEqual([0, 0, []]);
    }
  });

  test('gives what one run with all features gives, in whatever steps they come', () => {
    fc.assert(
      fc.property(options, fc.shuffledSubarray([...FEATURES]), (asked, added) => {
        let files: Map<string, string> = new Map(planNew(asked, SETTING).created);
        for (const feature of added)
          files = apply(
            files,
            planMore({ name: asked.name, features: [feature] }, SETTING, (path) => files.get(path)),
          );
        const features = [...(asked.features ?? []), ...added];
        expect(files).toEqual(renderVariantDriver(checkOptions({ ...asked, features }), SETTING));
      }),
      { numRuns: 40 },
    );
  });

  test('adds ids and conditions to those that are there', () => {
    const files = apply(generated(), more(generated(), { ids: ['19e5:a256'], requires: ['zpci'] }));
    expect(files).toEqual(generated({ ids: ['19e5:a251', '19e5:a256'], requires: ['zpci'] }));
  });

  test('leaves a file that was changed as it is, and says which lines it lacks', () => {
    const mine = `${generated().get('src/ops.ts')}// mine\n`;
    const plan = more(generated({}, { 'src/ops.ts': mine }), { features: ['regions'] });
    expect([...plan.created.keys()]).toContain('src/regions.ts');
    expect(plan.updated.has('src/ops.ts')).toBe(false);
    expect(plan.kept).toHaveLength(1);
    expect(plan.kept[0]?.path).toBe('src/ops.ts');
    expect(plan.kept[0]?.lines).toContain("import { attachRegions } from './regions.js';");
    expect(plan.kept[0]?.lines).toContain('    attachRegions(dev, core);');
  });

  test('does not speak of a changed file to which the feature adds nothing', () => {
    expect(more(generated({}, { 'src/device.ts': '// mine' }), { features: ['caps'] }).kept).toEqual([]);
  });

  test('touches no file that was changed, whichever they are', () => {
    const all = generated({ features: ['migration'] });
    const rest = [...all.keys()].filter((path) => path !== 'package.json' && path !== 'src/migration.ts');
    fc.assert(
      fc.property(fc.subarray(rest), fc.subarray([...FEATURES]), (mine, features) => {
        const files = new Map(all);
        for (const path of mine) files.set(path, `${files.get(path)}\n`);
        const plan = more(files, { features });
        for (const path of mine) expect(plan.created.has(path) || plan.updated.has(path)).toBe(false);
      }),
      { numRuns: 60 },
    );
  });

  test('does not bring back a file that was removed', () => {
    const plan = more(generated({}, { 'test/match.test.ts': undefined }), { features: ['caps'] });
    expect(plan.created.has('test/match.test.ts')).toBe(false);
    expect(plan.created.has('src/caps.ts')).toBe(true);
  });

  test('takes a table that its author wrote otherwise, and leaves it alone', () => {
    const ids = 'export const ids = [pciDeviceId({ vendor: 0x19e5, classMask: 0xffffff })];\n';
    const plan = more(generated({}, { 'src/ids.ts': ids }), { features: ['caps'] });
    expect(plan.created.has('src/caps.ts')).toBe(true);
    expect(plan.updated.has('src/ids.ts')).toBe(false);
  });

  test('goes on with the release of the packages that the driver was generated for', () => {
    const plan = more(generated(), { features: ['caps'] }, { version: '9.0.0' });
    expect(plan.updated.has('package.json')).toBe(false);
    expect(plan.kept).toEqual([]);
  });

  test('takes a package whose author says more of it than the generator would', () => {
    const manifest = {
      ...JSON.parse(generated().get('package.json') ?? ''),
      description: 'x'.repeat(400),
      version: '3.0.0',
    };
    const plan = more(generated({}, { 'package.json': JSON.stringify(manifest) }), { features: ['caps'] });
    expect(plan.created.has('src/caps.ts')).toBe(true);
    expect(plan.updated.has('package.json')).toBe(false);
  });

  test.each([
    ['no package.json', { 'package.json': undefined }, 'it has no package.json'],
    ['a package.json that is none', { 'package.json': '{' }, 'it has no package.json with a "vfio" field'],
    ['another package', { 'package.json': '{"name":"x"}' }, 'it has no package.json with a "vfio" field'],
    ['a field that is broken', { 'package.json': '{"name":"x","vfio":{"drivers":[]}}' }, 'it has no package.json'],
    ['a field that is a number', { 'package.json': '{"name":"x","vfio":7}' }, 'it has no package.json'],
    [
      'another driver',
      { 'package.json': '{"name":"x","vfio":{"drivers":[{"name":"y_vfio_pci"}]}}' },
      'names y_vfio_pci',
    ],
  ])('is refused where the folder has %s', (_what, change, says) => {
    expect(() => more(generated({}, change), {})).toThrow(says);
  });

  test('is refused with another scope', () => {
    expect(() => more(generated(), { scope: '@acme' })).toThrow('its package is hisi-acc-vfio-pci');
  });
});
