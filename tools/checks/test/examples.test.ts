import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { codeBlocks, pages, ROOT } from '../src/markdown.js';

/** Within the workspace, so that its packages are found. */
const CACHE = join(import.meta.dirname, '../.cache');
mkdirSync(CACHE, { recursive: true });
const folder = mkdtempSync(join(CACHE, 'examples-'));
const cwd = process.cwd();
beforeAll(() => process.chdir(ROOT));
afterAll(() => {
  process.chdir(cwd);
  rmSync(folder, { recursive: true, force: true });
});

/** Whether a package runs the examples of its README itself: some need what only its tests bring. */
function runsItsOwn(page: string): boolean {
  const tests = join(ROOT, dirname(page), 'test');
  if (!page.endsWith('/README.md') || !existsSync(tests)) return false;
  const files = readdirSync(tests).filter((name) => name.endsWith('.test.ts'));
  return files.some((name) => readFileSync(join(tests, name), 'utf8').includes('README.md'));
}

const examples = pages()
  .filter(({ path }) => !runsItsOwn(path))
  .flatMap(({ path, text }) =>
    codeBlocks(text)
      .filter(({ language, file }) => language === 'ts' && file === undefined)
      .map(({ code, line }) => ({ where: `${path}:${line}`, code })),
  )
  .map((example, index) => ({ ...example, file: join(folder, `example-${index}.ts`) }));
for (const { file, code } of examples) writeFileSync(file, `${code}\nexport {};\n`);

/** What the comments beside its `console.log` and the comment lines below say that an example prints. */
function promised(code: string): string[] {
  const lines: string[] = [];
  let follows = false;
  for (const line of code.split('\n')) {
    const beside = /console\.log\(.*\);\s*\/\/ (.*)$/.exec(line);
    const below = /^\/\/ (.*)$/.exec(line);
    if (beside !== null) lines.push(beside[1] ?? '');
    else if (follows && below !== null) lines.push(below[1] ?? '');
    follows = /console\.log/.test(line) || (follows && below !== null);
  }
  return lines;
}

test.each(examples)('the example at $where runs and prints what it says', async ({ file, code }) => {
  const { formatWithOptions } = await import('node:util');
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  try {
    await import(/* @vite-ignore */ file);
    const printed = log.mock.calls.map((words) =>
      formatWithOptions({ breakLength: Number.POSITIVE_INFINITY }, ...words),
    );
    expect(printed).toEqual(promised(code));
  } finally {
    log.mockRestore();
  }
});

test('every example is right by its types', () => {
  const config = join(folder, 'tsconfig.json');
  // As in a program of a user who has `strict` on, and no more than that.
  const compilerOptions = { noEmit: true, noUncheckedIndexedAccess: false, exactOptionalPropertyTypes: false };
  writeFileSync(
    config,
    JSON.stringify({ extends: join(ROOT, 'tsconfig.base.json'), compilerOptions, include: ['*.ts'] }),
  );
  const run = spawnSync(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', config], {
    encoding: 'utf8',
  });
  const named = run.stdout.replaceAll(/\S*example-(\d+)\.ts/g, (_, index) => examples[Number(index)]?.where ?? '');
  expect(named).toBe('');
});
