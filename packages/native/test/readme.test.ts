import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as native from '@vfio/native';
import { describe, expect, test, vi } from 'vitest';
import { frame } from './helpers/frames.js';
import { tempDir } from './helpers/temp.js';

const readme = readFileSync(join(import.meta.dirname, '../README.md'), 'utf8');
const examples = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code = '']) => code);

/** Runs a piece of the README; what it prints. Its top-level names that are listed are answered too. */
async function run(
  code: string,
  names: readonly string[] = [],
): Promise<{ printed: string[]; [name: string]: unknown }> {
  const plain = code.replace(/import (\{[^}]*\}) from '@vfio\/native';/, 'const $1 = native;');
  expect(plain).not.toContain('import');
  const printed: string[] = [];
  const body = `return (async () => { ${plain}; return { ${names.join(', ')} }; })();`;
  const made = new Function('native', 'console', body) as (
    module: typeof native,
    log: { log(value: unknown): void },
  ) => Promise<Record<string, unknown>>;
  return { ...(await made(native, { log: (value) => printed.push(String(value)) })), printed };
}

test('the first example prints what it says', async () => {
  const promised = [...(examples[0] ?? '').matchAll(/console\.log\(.*\); \/\/ (.*)/g)].map(([, text]) => text);
  expect(promised.length).toBeGreaterThan(0);
  expect((await run(examples[0] ?? '')).printed).toEqual(promised);
});

test('the echo server serves one client after the other', async () => {
  const path = join(tempDir(), 's');
  const code = (examples[1] ?? '').replace("'/tmp/echo.sock'", JSON.stringify(path));
  expect(code).toContain(path);
  const { loop } = (await run(code, ['loop'])) as unknown as { loop: native.MessageLoop };
  const received = new Uint8Array(64);
  const read = (fd: number) => native.recvMessage(fd, received, 0, 64, new Int32Array(1));
  for (let client = 1; client <= 2; client++) {
    const fd = native.connectUnix(path);
    const waiting = native.connectUnix(path);
    native.setNonBlocking(fd, true);
    for (let n = 1; n <= 3; n++) {
      native.sendMessage(fd, [frame(n, client, 5)]);
      await vi.waitFor(() => expect(read(fd)?.bytes).toBe(21));
      expect(received.slice(0, 21)).toEqual(frame(n, client, 5));
    }
    native.closeFd(fd);
    native.closeFd(waiting);
  }
  loop.close();
});

describe('the table of the API', () => {
  const rows = [...readme.matchAll(/^\| `([a-z-]+)` +\| (.*) \|$/gm)].map(([, file = '', text = '']) => ({
    file,
    spans: [...text.matchAll(/`([^`]+)`/g)].map(([, span = '']) => span),
  }));
  /** `call(arguments)` and `Class { members }` are named by what comes before; other spans are lists of names. */
  const named = rows.flatMap(({ spans }) =>
    spans.flatMap((span) => (/^(\w+)(\(| \{)/.exec(span)?.[1] ?? span).split(' ')),
  );

  test('names every function and class of the package once, and nothing that it does not have', () => {
    expect(named.length).toBe(new Set(named).size);
    expect(Object.keys(native)).toEqual(expect.arrayContaining(named.filter((name) => name !== 'VfioError')));
    const functions = Object.entries(native).filter(([, value]) => typeof value === 'function');
    expect(named).toEqual(expect.arrayContaining(functions.map(([name]) => name)));
  });

  test.each([
    ['EventFd', () => native.EventFd.create()],
    ['Mapping', () => native.mmap(-1, 0, 1, native.PROT_READ, native.MAP_PRIVATE | native.MAP_ANONYMOUS)],
  ])('says what an object of %s has', (name, make) => {
    const object = make();
    const members = rows.flatMap(({ spans }) => spans).find((span) => span.startsWith(`${name} {`));
    const promised = (members ?? '')
      .replace(/^\w+ \{ | \}$/g, '')
      .replaceAll('()', '')
      .split(' ');
    for (const member of promised) {
      expect(member === '[Symbol.asyncIterator]' ? Symbol.asyncIterator in object : member in object, member).toBe(
        true,
      );
    }
    const own = Object.getOwnPropertyNames(Object.getPrototypeOf(object)).filter((member) => member !== 'constructor');
    expect(promised).toEqual(expect.arrayContaining(own));
    if (object instanceof native.EventFd) object.close();
    else object.unmap();
  });
});
