import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Qmp, QmpError } from './qmp.js';

let folder: string;
let server: Server;
let qemu: Socket;
let qmp: Qmp;

/** Answers like QEMU: what `answers` says for a command, an empty return value otherwise. */
const answers = new Map<string, object>();
function behave(socket: Socket): void {
  let rest = '';
  socket.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      const { execute, id } = JSON.parse(line) as { execute: string; id: number };
      if (execute !== 'never')
        socket.write(`${JSON.stringify({ ...(answers.get(execute) ?? { return: {} }), id })}\r\n`);
    }
  });
  socket.write('{"QMP": {"version": {}, "capabilities": []}}\r\n');
}

beforeEach(async () => {
  answers.clear();
  folder = mkdtempSync(join(tmpdir(), 'qmp-'));
  server = createServer().listen(join(folder, 's'));
  const connected = new Promise<Socket>((resolve) => server.once('connection', resolve));
  qemu = connect(join(folder, 's'));
  behave(qemu);
  qmp = await Qmp.attach(await connected);
});
afterEach(() => {
  qemu.destroy();
  qmp.close();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

test('a command gives its return value', async () => {
  answers.set('query-status', { return: { status: 'running' } });
  expect(await qmp.execute('query-status')).toEqual({ status: 'running' });
});

test("an error carries QEMU's class and sentence", async () => {
  answers.set('device_del', { error: { class: 'DeviceNotFound', desc: "Device 'x' not found" } });
  const error = await qmp.execute('device_del', { id: 'x' }).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(QmpError);
  expect(error).toMatchObject({ qemuClass: 'DeviceNotFound', message: "device_del: Device 'x' not found" });
});

test('an event is found whether it came before or comes later', async () => {
  const wanted = { event: 'DEVICE_DELETED', data: { device: 'a' } };
  const waiting = qmp.waitFor(({ event }) => event === 'DEVICE_DELETED', { timeoutMs: 2000 });
  qemu.write(`{"event": "RESET"}\n${JSON.stringify(wanted).slice(0, 10)}`);
  qemu.write(`${JSON.stringify(wanted).slice(10)}\n`);
  expect(await waiting).toEqual(wanted);
  expect(await qmp.waitFor(({ event }) => event === 'RESET', { timeoutMs: 0 })).toEqual({ event: 'RESET', data: {} });
  await expect(
    qmp.waitFor(({ event }) => event === 'RESET', { after: qmp.events.length, timeoutMs: 50 }),
  ).rejects.toThrow('seen so far: RESET, DEVICE_DELETED');
});

test('when QEMU goes, what waits fails', async () => {
  const command = qmp.execute('never');
  const event = qmp.waitFor(() => false, { timeoutMs: 5000 });
  qemu.destroy();
  await expect(command).rejects.toThrow('never: QEMU closed the connection');
  await expect(event).rejects.toThrow('QEMU ended');
  await expect(qmp.execute('query-status')).rejects.toThrow('connection to QEMU is closed');
});
