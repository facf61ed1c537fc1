import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { codeBlocks, commands, pages, ROOT } from '../src/markdown.js';

/** Commands that are run here, from the root of the repository. Every other one in a `sh` block of a page is run elsewhere. */
const RUN_HERE = /^(npx vfio (?!doctor)|npm create @vfio\/variant-driver |npx nx g @vfio\/nx:variant-driver )/;

/** What this would install is here, if it is a package of this workspace. */
function installsOurs(command: string): boolean {
  const [, name] = /^npm install @vfio\/([a-z0-9-]+)$/.exec(command) ?? [];
  return name !== undefined && existsSync(join(ROOT, 'packages', name, 'package.json'));
}

/** What runs the others: a file, and what must be in it. */
const ELSEWHERE: Readonly<Record<string, readonly [file: string, says: string]>> = {
  'npm ci': ['.ci/run', 'must npm ci'],
  'npm ci && npm start': ['.ci/run', 'must npm start'],
  'npm ci && npm test': ['.ci/run', 'may npm test'],
  'npm test': ['.ci/run', 'may npm test'],
  'npm test -w @vfio-examples/serial-vfio-pci': ['docs/examples/serial-vfio-pci/package.json', '"test": "vitest run"'],
  'npm run check': ['.ci/run', 'may npm run check'],
  'npm run e2e': ['.ci/run', 'may npm run e2e'],
  // They change the machine that they run on.
  'sudo npx vfio bind 0000:01:00.0': ['packages/cli/test/bind.test.ts', "vfio(['bind', '01:00.0']"],
  'sudo npx vfio unbind 0000:01:00.0': ['packages/cli/test/bind.test.ts', "vfio(['unbind', DISK]"],
  // Its exit code depends on the machine.
  'npx vfio doctor': ['packages/cli/test/doctor.test.ts', "vfio(['doctor']"],
  'sudo npx vfio restore': ['packages/cli/test/bind.test.ts', "vfio(['restore', "],
  // It measures, which says something on an idle machine only; what it starts is tested in tools/bench.
  'npm run bench': ['package.json', '"bench":'],
};

/** A command without what it hands on to a script. */
const scriptOf = (command: string): string => command.replace(/ -- .*$/, '');

/** A command that runs while those below it do. */
const IN_BACKGROUND = / &$/;

const blocks = pages().flatMap(({ path, text }) =>
  codeBlocks(text)
    .filter(({ language }) => language === 'sh')
    .map(({ code, line }) => ({ commands: commands(code), where: `${path}:${line}` })),
);
/** The pages that are gone through from their beginning to their end, servers in the background; elsewhere that is one block. */
const WALKED = ['docs/guides/migrate.md', 'docs/guides/handover.md'];
const walked = WALKED.map((page) => {
  const parts = blocks.filter(({ where }) => where.startsWith(`${page}:`));
  return { commands: parts.flatMap((part) => part.commands), where: page, parts };
});
/** Commands that are run one after the other, beside those that go on. */
const sessions = [
  ...walked,
  ...blocks
    .filter((block) => block.commands.some((command) => IN_BACKGROUND.test(command)))
    .filter((block) => !walked.some(({ parts }) => parts.includes(block)))
    .map((block) => ({ ...block, parts: [block] })),
];
const shown = blocks.flatMap(({ commands: all, where }) => all.map((command) => ({ command, where })));

const work = mkdtempSync(join(tmpdir(), 'vfio-docs-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** Starts a command of a page; its sockets and other files in /tmp go to a folder of this test. */
function start(command: string): ChildProcess & { output: string } {
  const script = command
    .replaceAll('/tmp/', `${work}/`)
    .replace(/^npx vfio/, `exec ${process.execPath} packages/cli/bin/vfio.js`)
    .replace(
      /^npm create @vfio\/variant-driver (\S+) --/,
      `cd ${work} && exec ${process.execPath} ${ROOT}/packages/create-variant-driver/bin/create-variant-driver.js $1`,
    )
    // The repository stays as it is: Nx runs the generator, and writes nothing.
    .replace(/^npx nx g .*$/, '$& --dry-run');
  // Whatever runs the tests may ask for colours.
  const { FORCE_COLOR: _, ...env } = process.env;
  const child = Object.assign(
    spawn('sh', ['-c', script], {
      cwd: ROOT,
      env: { ...env, VFIO_CACHE: join(work, 'cache'), NX_DAEMON: 'false' },
      stdio: ['ignore', 'pipe', 'pipe'],
    }),
    { output: '' },
  );
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (piece: string) => {
      child.output += piece;
    });
  }
  return child;
}

test('every command of a page is run, here or elsewhere', () => {
  const isRun = (command: string) => RUN_HERE.test(command) || installsOurs(command) || scriptOf(command) in ELSEWHERE;
  expect(shown.filter(({ command }) => !isRun(command))).toEqual([]);
});

const alone = blocks
  .filter((block) => !sessions.some(({ parts }) => parts.includes(block)))
  .flatMap(({ commands: all, where }) => all.map((command) => ({ command, where })));
const here = [...new Map(alone.map((one) => [one.command, one])).values()].filter(({ command }) =>
  RUN_HERE.test(command),
);

test.each(here)(
  '$where: $command',
  async ({ command }) => {
    const child = start(command);
    const closed = once(child, 'close');
    if (command.startsWith('npx vfio serve')) {
      // It runs until it is asked to end, which it may be once it has said all.
      child.stdout?.on('data', () => {
        if (child.output.includes('SIGTERM ends it')) child.kill();
      });
    }
    const [code] = await closed;
    expect({ code, output: child.output }).toMatchObject({ code: 0, output: expect.stringMatching(/\S/) });
  },
  60_000,
);

test.each(sessions)(
  '$where: commands beside a server',
  async ({ commands: all }) => {
    const running: ReturnType<typeof start>[] = [];
    for (const command of all) {
      const child = start(command.replace(IN_BACKGROUND, ''));
      if (IN_BACKGROUND.test(command)) {
        // Ended in the order of this list: those who use a server before it.
        if (command.startsWith('npx vfio serve')) running.push(child);
        else running.unshift(child);
        await new Promise<void>((ready, failed) => {
          child.once('exit', () => failed(new Error(`${command} ended: ${child.output}`)));
          child.stdout?.on('data', () => {
            if (child.output.includes('SIGTERM ends it')) ready();
          });
        });
        child.removeAllListeners('exit');
        continue;
      }
      const [code] = await once(child, 'close');
      expect({ command, code, output: child.output }).toMatchObject({ code: 0, output: expect.stringMatching(/\S/) });
    }
    for (const child of running) {
      // One whose device another server took has ended in order.
      const closed = child.exitCode === null ? once(child, 'close') : [child.exitCode, child.signalCode];
      child.kill();
      expect({ exit: await closed, output: child.output }).toMatchObject({ exit: [0, null] });
    }
  },
  60_000,
);

test.each(Object.entries(ELSEWHERE))('run elsewhere: %s', (command, [file, says]) => {
  expect(shown.map((one) => one.command)).toContain(command);
  expect(readFileSync(join(ROOT, file), 'utf8')).toContain(says);
});

test('what the guide shows of `vfio serve` is what it prints', async () => {
  const guide = readFileSync(join(ROOT, 'docs/guides/serve-to-qemu.md'), 'utf8');
  const [first, printed] = codeBlocks(guide);
  const child = start(commands(first?.code ?? '')[0] ?? '');
  child.stdout?.on('data', () => {
    if (child.output.includes('SIGTERM ends it')) child.kill();
  });
  await once(child, 'close');
  expect(child.output.replaceAll(`${work}/`, '/tmp/')).toContain(printed?.code);
});

const cliPage = readFileSync(join(ROOT, 'docs/reference/cli.md'), 'utf8');
const METHODS = ['info', 'state', 'metrics', 'trace'].map((method) => ['control', method]);
const COMMANDS = [
  ...['list', 'match', 'depmod', 'info', 'bind', 'unbind', 'doctor', 'serve', 'migrate', 'handover', 'demo'].map(
    (name) => [name],
  ),
  ['demo', 'load'],
  ...METHODS,
];

test.each([[[]], ...COMMANDS.map((words) => [words])])('the reference has every option of `vfio %s`', async (words) => {
  const child = start(`npx vfio ${words.join(' ')} --help`);
  await once(child, 'close');
  const options = [...child.output.matchAll(/^ {2}(?:-\w, )?(--[\w-]+(?: <[\w.=]+>)?)/gm)].map(([, option]) => option);
  expect(options.length).toBeGreaterThan(0);
  // By section, as far as it has some of its own.
  const section = words.length === 0 ? '## For all commands' : `## vfio ${words[0]}`;
  const text = cliPage.slice(cliPage.indexOf(section)).split(/\n## /)[0] ?? '';
  const general = cliPage.slice(cliPage.indexOf('## For all commands')).split(/\n## /)[0] ?? '';
  for (const option of options) expect(`${general}${text}`).toContain(`\`${option}\``);
});
