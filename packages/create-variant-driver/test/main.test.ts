import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { main, type Prompts } from '../src/index.js';

let cwd: string;
beforeEach(() => {
  cwd = mkdtempSync(join(tmpdir(), 'vfio-create-'));
});
afterEach(() => rmSync(cwd, { recursive: true }));

async function create(args: string, prompts?: Prompts) {
  let [out, err] = ['', ''];
  const code = await main(args.split(' ').filter(Boolean), {
    cwd,
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    prompts: prompts === undefined ? undefined : async () => prompts,
  });
  return { code, out, err };
}

const read = (path: string) => readFileSync(join(cwd, path), 'utf8');

/** Somebody who answers, and what they were asked. */
function somebody(answers: { name?: string; matches?: string; features?: 'caps'[] }) {
  const asked: string[] = [];
  const refused: (string | undefined)[] = [];
  const prompts: Prompts = {
    async name(refuse) {
      asked.push('name');
      if (answers.name !== undefined) refused.push(refuse(answers.name));
      return answers.name;
    },
    async matches(refuse) {
      asked.push('matches');
      if (answers.matches !== undefined) refused.push(refuse(answers.matches));
      return answers.matches;
    },
    async features() {
      asked.push('features');
      return answers.features;
    },
  };
  return { asked, refused, prompts };
}

describe('the command', () => {
  test('makes a package in a folder of its name, and says what comes next', async () => {
    const { code, out, err } = await create(
      'hisi-acc --id 19e5:a251 --id 19e5:a256 --features migration,caps --scope @acme',
    );
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toContain('CREATE hisi-acc-vfio-pci/src/migration.ts\n');
    expect(out).toContain('@acme/hisi-acc-vfio-pci is there. Next:\n\n  cd hisi-acc-vfio-pci\n');
    expect(JSON.parse(read('hisi-acc-vfio-pci/package.json')).name).toBe('@acme/hisi-acc-vfio-pci');
    expect(read('hisi-acc-vfio-pci/src/ids.ts')).toContain('(0x19e5, 0xa256)');
  });

  test('makes it where it is told, also where it stands', async () => {
    expect((await create('foo --class 0108 --directory drivers/foo --requires zpci')).code).toBe(0);
    expect(read('drivers/foo/src/ids.ts')).toContain('pciDriverOverrideClassVfio(0x010800, 0xffff00)');
    cwd = join(cwd, 'drivers/foo');
    rmSync(cwd, { recursive: true });
    cwd = mkdtempSync(join(tmpdir(), 'vfio-create-'));
    const { out } = await create('foo --class 0108 --directory .');
    expect(out).toContain('CREATE src/ids.ts\n');
    expect(out).not.toContain('cd ');
  });

  test('adds features to a driver that is there, and says what it left alone', async () => {
    await create('hisi-acc --id 19e5:a251');
    writeFileSync(join(cwd, 'hisi-acc-vfio-pci/src/ops.ts'), '// mine\n');
    const { code, out } = await create('hisi-acc --features regions');
    expect(code).toBe(0);
    expect(out).toContain('CREATE hisi-acc-vfio-pci/src/regions.ts\n');
    expect(out).toContain('UPDATE hisi-acc-vfio-pci/README.md\n');
    expect(out).toContain('src/ops.ts has your changes and was left alone. It lacks:\n');
    expect(out).toContain('        attachRegions(dev, core);\n');
    expect(read('hisi-acc-vfio-pci/src/ops.ts')).toBe('// mine\n');
    expect((await create('hisi-acc --features caps --dry-run')).out).toContain('nothing was written');
  });

  test('says so where there is nothing to do', async () => {
    await create('hisi-acc --id 19e5:a251 --features caps');
    expect((await create('hisi-acc --features caps')).out).toBe('hisi-acc-vfio-pci has all of it already.\n');
  });

  test('writes nothing with --dry-run, and says what it would', async () => {
    const { code, out } = await create('hisi-acc --id 19e5:a251 --dry-run');
    expect(code).toBe(0);
    expect(out).toContain('CREATE hisi-acc-vfio-pci/src/ops.ts\n');
    expect(out).toContain('--dry-run: nothing was written.\n');
    expect(readdirSync(cwd)).toEqual([]);
  });

  test('shows every option with --help', async () => {
    const { code, out } = await create('--help');
    expect(code).toBe(0);
    for (const option of ['id', 'class', 'features', 'requires', 'scope', 'directory', 'description', 'dry-run'])
      expect(out).toContain(`--${option}`);
  });

  test.each([
    ['', 2, 'NAME is missing'],
    ['a b --id 1234:5678', 2, 'one NAME at most'],
    ['a --bogus', 2, "Unknown option '--bogus'"],
    ['a --id', 2, "Option '--id <value>' argument missing"],
    ['a', 1, 'say which functions'],
    ['fooBar --id 1234:5678', 1, '"foo-bar" would do'],
    ['../a --id 1234:5678', 1, '"a" would do'],
    ['a --id 0x1234:0x5678', 1, 'the id "0x1234:0x5678"'],
    ['a --id 1234:5678,', 1, 'the id ""'],
    ['a --class 010', 1, 'the class "010"'],
    ['a --id 1234:5678 --features fast', 1, 'no feature "fast"'],
    ['a --id 1234:5678 --requires /', 1, 'the condition "/"'],
    ['a --id 1234:5678 --directory ../b', 1, 'must not lead out'],
    ['a --id 1234:5678 --directory /tmp/b', 1, 'must be relative'],
    ['a --id 1234:5678 --directory taken', 1, 'is not the driver a_vfio_pci'],
    ['a --id 1234:5678 --directory taken/file', 1, 'is a file'],
  ])('with "%s" ends with %i, a sentence, and writes nothing', async (args, code, says) => {
    await create('taken --id 1234:5678 --directory taken');
    writeFileSync(join(cwd, 'taken/file'), '');
    const before = readdirSync(cwd, { recursive: true });
    const ended = await create(args);
    expect(ended).toMatchObject({ code, out: '' });
    expect(ended.err).toMatch(/^create-variant-driver: /);
    expect(ended.err).toContain(says);
    expect(readdirSync(cwd, { recursive: true })).toEqual(before);
  });
});

describe('where somebody can be asked', () => {
  test('all that was not said is asked for', async () => {
    const { prompts, asked, refused } = somebody({ name: 'foo', matches: '1234:5678, class 0108', features: ['caps'] });
    expect((await create('', prompts)).code).toBe(0);
    expect(asked).toEqual(['name', 'matches', 'features']);
    expect(refused).toEqual([undefined, undefined]);
    expect(read('foo-vfio-pci/src/ids.ts')).toContain('pciDriverOverrideClassVfio(0x010800, 0xffff00)');
    expect(existsSync(join(cwd, 'foo-vfio-pci/src/caps.ts'))).toBe(true);
  });

  test('what was said is not asked for', async () => {
    const { prompts, asked } = somebody({});
    expect((await create('foo --id 1234:5678', prompts)).code).toBe(0);
    expect((await create('foo --features caps', prompts)).code).toBe(0);
    expect(asked).toEqual([]);
  });

  test('an answer that is wrong is refused with the sentence of the command line', async () => {
    const { prompts, refused } = somebody({ name: 'Foo', matches: '1234' });
    await create('', prompts);
    await create('foo', prompts);
    expect(refused).toEqual([
      expect.stringContaining('"foo" would do'),
      expect.stringContaining('the id "1234" must be vendor:device'),
    ]);
  });

  test.each([{}, { name: 'foo' }, { name: 'foo', matches: '1234:5678' }])(
    'who stops at %j gets nothing',
    async (answers) => {
      const { code, err } = await create('', somebody(answers).prompts);
      expect({ code, err }).toEqual({ code: 1, err: 'create-variant-driver: stopped; nothing was written\n' });
      expect(readdirSync(cwd)).toEqual([]);
    },
  );
});
