/** Where a server listens. */
import { existsSync, lstatSync, mkdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { closeFd, connectUnix, listenUnix, socketpair } from '@vfio/native';
import { expect, test } from 'vitest';
import { VfioUserServer } from '../src/index.js';
import { FakeDevice } from './helpers/fake-device.js';
import { RawClient, socketPath, u32, until } from './helpers/raw-client.js';
import { cleanup, openFds, serve } from './helpers/serve.js';

function path(): string {
  const socket = socketPath();
  cleanup(socket.remove);
  return socket.path;
}

function makeServer(options: ConstructorParameters<typeof VfioUserServer>[1] = {}): VfioUserServer {
  const server = new VfioUserServer(new FakeDevice(), options);
  cleanup(() => server.close());
  return server;
}

/** A socket file that nobody listens on: what a server leaves that was killed. */
function stale(where: string): void {
  closeFd(listenUnix(where));
  expect(lstatSync(where).isSocket()).toBe(true);
}

test('[vfio-user 7.22] a socket file that a dead server left is replaced', async () => {
  const where = path();
  stale(where);
  const server = makeServer();
  await server.listen(where);
  const client = RawClient.connect(where);
  cleanup(() => client.close());
  await client.negotiate();
});

test('[vfio-user 7.22] a live server’s path is not stolen, busy or not, and stays in use', async () => {
  const { path: where, attached } = await serve(new FakeDevice());
  const server = makeServer();
  await expect(server.listen(where)).rejects.toMatchObject({ code: 'ERR_VFIO_BUSY', errno: 'EADDRINUSE' });
  const client = await attached();
  await expect(makeServer().listen(where)).rejects.toMatchObject({ errno: 'EADDRINUSE' });
  await client.ok(4, u32(16, 0, 0, 0));
  // The probe was a connection that nobody waits for any more.
  client.close();
  await attached();
});

test('[vfio-user 7.22] a server whose backlog is full is alive', async () => {
  const where = path();
  const fd = listenUnix(where, { backlog: 0 });
  cleanup(() => closeFd(fd));
  const waiting = connectUnix(where);
  cleanup(() => closeFd(waiting));
  await expect(makeServer().listen(where)).rejects.toMatchObject({ errno: 'EADDRINUSE' });
});

test.each([
  ['a file', (where: string) => writeFileSync(where, 'mine')],
  ['a folder', (where: string) => mkdirSync(where)],
  [
    'a link to a socket',
    (where: string) => {
      stale(`${where}2`);
      symlinkSync(`${where}2`, where);
    },
  ],
])('[vfio-user 7.22] %s at the path is not taken for a stale socket', async (_name, make) => {
  const where = path();
  make(where);
  await expect(makeServer().listen(where)).rejects.toMatchObject({ errno: 'EADDRINUSE' });
  expect(existsSync(where)).toBe(true);
});

test('[vfio-user 7.22] a path of 107 bytes is the longest', async () => {
  const folder = dirname(path());
  const longest = join(folder, 'x'.repeat(107 - folder.length - 1));
  const server = makeServer();
  await server.listen(longest);
  expect(server.path).toBe(longest);
  await expect(makeServer().listen(`${longest}y`)).rejects.toMatchObject({
    code: 'ERR_VFIO_LIMIT',
    errno: 'ENAMETOOLONG',
  });
  // Bytes, not characters.
  await expect(makeServer().listen(join(folder, 'é'.repeat(60)))).rejects.toMatchObject({ errno: 'ENAMETOOLONG' });
});

test('the file is its owner’s alone unless something else is said, and gone when the server is', async () => {
  const where = path();
  const server = makeServer();
  await server.listen(where);
  expect(statSync(where).mode & 0o777).toBe(0o600);
  await server.close();
  expect(existsSync(where)).toBe(false);
  const open = makeServer();
  await open.listen({ path: where, mode: 0o666 });
  expect(statSync(where).mode & 0o777).toBe(0o666);
  const grouped = path();
  await makeServer().listen({ path: grouped, group: process.getgid?.() ?? 0 });
  expect(statSync(grouped).mode & 0o777).toBe(0o660);
  const before = openFds();
  const unknown = path();
  for (const group of ['no such group', -1, 1.5, 2 ** 32 - 1, '4294967295', '99999999999999999999']) {
    await expect(makeServer().listen({ path: unknown, group }), String(group)).rejects.toMatchObject({
      code: 'ERR_VFIO_INVALID_ARGUMENT',
      errno: 'EINVAL',
    });
  }
  expect([existsSync(unknown), openFds()]).toEqual([false, before]);
});

test('a server that closes late does not remove the file of the one that took its path', async () => {
  const where = path();
  const first = makeServer();
  await first.listen(where);
  const { unlinkSync } = await import('node:fs');
  unlinkSync(where);
  const second = makeServer();
  await second.listen(where);
  await first.close();
  expect(existsSync(where)).toBe(true);
});

test('an inherited listening socket is served, also a client that waits on it', async () => {
  const where = path();
  const fd = listenUnix(where);
  const client = RawClient.connect(where);
  cleanup(() => client.close());
  const server = makeServer();
  await server.listen({ fd });
  await client.negotiate();
  client.close();
  await until(() => !server.isBusy);
  const next = RawClient.connect(where);
  cleanup(() => next.close());
  await next.negotiate();
  expect(server.path).toBeUndefined();
});

test('an inherited connection is served, and then there is nothing left to do', async () => {
  const [ours, theirs] = socketpair();
  const details: string[] = [];
  const server = makeServer({ onDetach: (reason) => details.push(reason) });
  await server.listen({ fd: ours });
  const client = new RawClient(theirs);
  await client.negotiate();
  client.close();
  await until(() => details.length === 1);
  await expect(server.listen(path())).rejects.toMatchObject({ code: 'ERR_VFIO_STATE', errno: 'EINVAL' });
});

test('a descriptor that is no socket is refused, and is still the caller’s', async () => {
  const { openSync } = await import('node:fs');
  const fd = openSync('/dev/null', 'r');
  const before = openFds();
  await expect(makeServer().listen({ fd })).rejects.toMatchObject({ code: 'ERR_VFIO_SYSCALL', errno: 'ENOTSOCK' });
  expect(openFds()).toBe(before);
  closeFd(fd);
});
