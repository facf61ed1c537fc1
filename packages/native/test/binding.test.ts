import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { nativeBinding } from '@vfio/native';
import ts from 'typescript';
import { describe, expect, test } from 'vitest';
import { builtAddon, installNative, runModule } from './helpers/child.js';
import { tempDir } from './helpers/temp.js';

/** Prints what a use of the package gives: the error, or the size of a page. */
const USE = `
  import { pageSize } from '@vfio/native';
  try { console.log(JSON.stringify({ page: pageSize() })); }
  catch (error) { console.log(JSON.stringify({ name: error.name, code: error.code, errno: error.errno, message: error.message, details: error.details })); }
`;

interface Outcome {
  page?: number;
  name?: string;
  code?: string;
  errno?: string;
  message?: string;
  details?: unknown;
}

function use(dir: string, env: NodeJS.ProcessEnv = {}): Outcome {
  const result = runModule(dir, USE, env);
  expect(result.status, result.stderr).toBe(0);
  return JSON.parse(result.stdout) as Outcome;
}

/** Names of an interface's members, as the TypeScript parser sees them. */
function membersOf(name: string): string[] {
  const file = new URL('../src/binding.ts', import.meta.url);
  const source = ts.createSourceFile('binding.ts', readFileSync(file, 'utf8'), ts.ScriptTarget.ES2022);
  const found = source.statements.find((node) => ts.isInterfaceDeclaration(node) && node.name.text === name);
  return (found as ts.InterfaceDeclaration).members.map((member) => (member.name as ts.Identifier).text).sort();
}

describe('the typed interface and the addon', () => {
  test('have the same functions', () => {
    expect(Object.keys(nativeBinding()).sort()).toEqual(membersOf('NativeBinding'));
  });

  test('have the same members of a loop', () => {
    const loop = nativeBinding().createLoop(4096, 1, 1, 0, false);
    if (typeof loop === 'number') throw new Error(`createLoop: ${loop}`);
    const names = [...Object.keys(loop), ...Object.getOwnPropertyNames(Object.getPrototypeOf(loop))];
    expect(names.filter((name) => name !== 'constructor').sort()).toEqual(membersOf('NativeLoop'));
    loop.close();
  });

  test('have the same members of a watcher', () => {
    const watcher = nativeBinding().watchFd(nativeBinding().eventfd(0, 0), () => undefined);
    if (typeof watcher === 'number') throw new Error(`watchFd: ${watcher}`);
    const names = Object.getOwnPropertyNames(Object.getPrototypeOf(watcher));
    expect(names.filter((name) => name !== 'constructor').sort()).toEqual(membersOf('NativeWatcher'));
    watcher.close();
  });

  test('give no way to make a loop or watcher by its constructor', () => {
    const loop = nativeBinding().createLoop(4096, 1, 1, 0, false);
    if (typeof loop === 'number') throw new Error(`createLoop: ${loop}`);
    const Loop = loop.constructor as new () => unknown;
    expect(() => new Loop()).toThrow(TypeError);
    loop.close();
  });

  test('answer -EINVAL for arguments of a wrong type, whatever the function', () => {
    const native = nativeBinding() as unknown as Record<string, unknown>;
    const without = new Set(['fence', 'pageSize', 'mappingCount']);
    // Loads answer all ones, as from nowhere.
    const loads = new Set(['read8', 'read16', 'read32', 'loadAcquire32']);
    for (const [name, value] of Object.entries(native)) {
      if (typeof value !== 'function' || without.has(name)) continue;
      for (const bad of [
        [],
        [{}, {}, {}, {}, {}, {}, {}, {}, {}],
        ['a\0b', 'a\0b', 'a\0b'],
        [Number.NaN, 1.5, -1, 2 ** 60],
      ]) {
        expect(value(...bad), `${name}(${bad.map(String).join()})`).toBe(loads.has(name) ? -1 : -22);
      }
    }
  });
});

describe('loading', () => {
  test('does not happen on import', () => {
    const dir = tempDir();
    installNative(dir);
    const result = runModule(dir, `import * as native from '@vfio/native'; console.log(typeof native.mmap);`);
    expect(result).toMatchObject({ status: 0, stdout: 'function\n' });
  });

  test('fails with an error that says what was tried and what to do', () => {
    const dir = tempDir();
    const target = installNative(dir);
    const error = use(dir);
    expect(error).toMatchObject({
      name: 'VfioError',
      code: 'ERR_VFIO_NATIVE_UNAVAILABLE',
      errno: 'ENOSYS',
      details: {
        platform: 'linux',
        arch: process.arch,
        node: process.version,
        tried: [join(target, 'build', 'Release'), join(target, 'prebuilds', `linux-${process.arch}`)],
      },
    });
    expect(error.message).toMatch(/glibc|musl/);
    expect(error.message).toContain('npm run build:native');
    expect(error.message).toContain('VFIO_NATIVE_PATH');
  });

  test('takes the local build', () => {
    const dir = tempDir();
    const target = installNative(dir);
    mkdirSync(join(target, 'build', 'Release'), { recursive: true });
    cpSync(builtAddon, join(target, 'build', 'Release', 'vfio_native.node'));
    expect(use(dir)).toEqual({ page: nativeBinding().pageSize() });
  });

  test('takes a prebuilt binary, and only one with PREBUILDS_ONLY', () => {
    const dir = tempDir();
    const target = installNative(dir);
    mkdirSync(join(target, 'build', 'Release'), { recursive: true });
    writeFileSync(join(target, 'build', 'Release', 'vfio_native.node'), 'a broken build');
    expect(use(dir).message).toContain('was found but could not be loaded');
    expect(use(dir, { PREBUILDS_ONLY: '1' }).code).toBe('ERR_VFIO_NATIVE_UNAVAILABLE');
    const prebuilds = join(target, 'prebuilds', `linux-${process.arch}`);
    mkdirSync(prebuilds, { recursive: true });
    cpSync(builtAddon, join(prebuilds, '@vfio+native.glibc.node'));
    cpSync(builtAddon, join(prebuilds, '@vfio+native.musl.node'));
    expect(use(dir, { PREBUILDS_ONLY: '1' })).toEqual({ page: nativeBinding().pageSize() });
  });

  test('takes the file that VFIO_NATIVE_PATH names, and nothing else then', () => {
    const dir = tempDir();
    const target = installNative(dir);
    expect(use(dir, { VFIO_NATIVE_PATH: builtAddon })).toEqual({ page: nativeBinding().pageSize() });
    mkdirSync(join(target, 'build', 'Release'), { recursive: true });
    cpSync(builtAddon, join(target, 'build', 'Release', 'vfio_native.node'));
    const error = use(dir, { VFIO_NATIVE_PATH: '/nowhere/at-all.node' });
    expect(error.code).toBe('ERR_VFIO_NATIVE_UNAVAILABLE');
    expect(error.details).toMatchObject({ tried: ['/nowhere/at-all.node (VFIO_NATIVE_PATH)'] });
  });

  test('refuses an addon with another interface', () => {
    const dir = tempDir();
    installNative(dir);
    writeFileSync(join(dir, 'other.cjs'), 'module.exports = { abi: 999 };');
    expect(use(dir, { VFIO_NATIVE_PATH: join(dir, 'other.cjs') }).message).toContain('interface 999');
  });

  test('works in several worker threads, also when the main thread never loads it, and after they ended', () => {
    const dir = tempDir();
    installNative(dir);
    const result = runModule(
      dir,
      `import { Worker } from 'node:worker_threads';
       const once = () => new Promise((resolve, reject) => {
         const worker = new Worker(\`
           const native = require(process.env.VFIO_NATIVE_PATH);
           const fd = native.memfdCreate('w', 2); native.ftruncate(fd, 4096);
           const map = native.mmap(fd, 0, 4096, 3, 1); native.close(fd);
           new Uint8Array(map.buffer)[1] = 7;
           const loop = native.createLoop(4096, 256, 1000, 200, false);
           loop.start(() => { while (loop.step() !== undefined && new Int32Array(loop.shared)[0] !== 0); });
           require('node:worker_threads').parentPort.postMessage(new Uint8Array(map.buffer)[1]);
           loop.unref();
         \`, { eval: true });
         let got; worker.on('message', (value) => { got = value; }); worker.on('error', reject); worker.on('exit', (code) => resolve([code, got]));
       });
       for (let round = 0; round < 5; round++) console.log(JSON.stringify(await Promise.all([once(), once()])));`,
      { VFIO_NATIVE_PATH: builtAddon },
    );
    expect(result.stderr).toBe('');
    expect(result).toMatchObject({ status: 0, stdout: '[[0,7],[0,7]]\n'.repeat(5) });
  });
});

describe('loading in this process', () => {
  test('gives the same object each time', () => {
    expect(nativeBinding()).toBe(nativeBinding());
    expect(createRequire(import.meta.url)(builtAddon)).toBe(nativeBinding());
  });
});
