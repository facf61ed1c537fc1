import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { tempDir } from './temp.js';

const packages = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));

/** The addon that `npm run build:native` made. */
export const builtAddon: string = join(packages, 'native', 'build', 'Release', 'vfio_native.node');

let compiled: string | undefined;

/** JavaScript of this package and of @vfio/uapi, made once, as a consumer would have it in node_modules/@vfio. */
function compile(): string {
  if (compiled !== undefined) return compiled;
  const root = mkdtempSync(join(tmpdir(), 'vn-js-'));
  process.on('exit', () => rmSync(root, { recursive: true, force: true }));
  for (const name of ['uapi', 'native']) {
    const source = join(packages, name, 'src');
    for (const entry of readdirSync(source, { recursive: true, encoding: 'utf8' })) {
      if (!entry.endsWith('.ts') || entry.endsWith('.test.ts')) continue;
      const file = join(root, name, 'dist', entry.replace(/\.ts$/, '.js'));
      mkdirSync(dirname(file), { recursive: true });
      const compilerOptions = {
        module: ts.ModuleKind.ESNext,
        target: ts.ScriptTarget.ES2022,
        verbatimModuleSyntax: true,
      };
      writeFileSync(
        file,
        ts.transpileModule(readFileSync(join(source, entry), 'utf8'), { compilerOptions }).outputText,
      );
    }
    cpSync(join(packages, name, 'package.json'), join(root, name, 'package.json'));
  }
  compiled = root;
  return root;
}

/** A project folder with @vfio/native installed, without any build of the addon; answers where the package is. */
export function installNative(dir: string): string {
  const scope = join(dir, 'node_modules', '@vfio');
  mkdirSync(scope, { recursive: true });
  // A copy: where the package lies decides where it looks for the addon. The others may be links.
  cpSync(join(compile(), 'native'), join(scope, 'native'), { recursive: true });
  symlinkSync(join(compile(), 'uapi'), join(scope, 'uapi'));
  const loader = dirname(fileURLToPath(import.meta.resolve('node-gyp-build/package.json')));
  symlinkSync(loader, join(dir, 'node_modules', 'node-gyp-build'));
  writeFileSync(join(dir, 'package.json'), '{"type":"module"}');
  return join(scope, 'native');
}

/** A project folder with @vfio/native installed and built; removed when the test ends. */
export function projectWithNative(): string {
  const dir = tempDir();
  const release = join(installNative(dir), 'build', 'Release');
  mkdirSync(release, { recursive: true });
  symlinkSync(builtAddon, join(release, 'vfio_native.node'));
  return dir;
}

/** What a child process did. */
export interface ChildResult {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs an ES module in a new Node process with `dir` as its folder, with at most `maxFds` descriptors where given. */
export function runModule(dir: string, source: string, env: NodeJS.ProcessEnv = {}, maxFds?: number): ChildResult {
  const file = join(dir, `run-${Math.random().toString(36).slice(2)}.mjs`);
  writeFileSync(file, source);
  const clean = { ...process.env };
  for (const name of ['NODE_OPTIONS', 'VFIO_NATIVE_PATH', 'PREBUILDS_ONLY', 'FORCE_COLOR']) delete clean[name];
  const limit = maxFds === undefined ? '' : `ulimit -n ${maxFds} && `;
  const result = spawnSync('sh', ['-c', `${limit}exec "$0" "$@"`, process.execPath, file], {
    cwd: dir,
    env: { ...clean, ...env },
    encoding: 'utf8',
    timeout: 15_000,
  });
  return { status: result.status, signal: result.signal, stdout: result.stdout, stderr: result.stderr };
}
