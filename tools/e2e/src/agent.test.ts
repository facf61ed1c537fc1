import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Agent } from './agent.js';

let folder: string;
let server: Server;
let agent: Agent;
/** The guest's end of the channel. */
let port: Socket;
let received: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'agent-'));
  server = createServer().listen(join(folder, 's'));
  const connected = new Promise<Socket>((resolve) => server.once('connection', resolve));
  port = connect(join(folder, 's'));
  agent = new Agent(await connected);
  received = '';
  port.setEncoding('utf8').on('data', (text: string) => {
    received += text;
  });
});
afterEach(() => {
  port.destroy();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

async function request(): Promise<{ id: string; seconds: string; script: string }> {
  await expect.poll(() => received).toMatch(/\n$/);
  const [word, id = '', seconds = '', script = ''] = received.trim().split(' ');
  expect(word).toBe('RUN');
  received = '';
  return { id, seconds, script: Buffer.from(script, 'base64').toString() };
}

test('a script goes out as one line and its result comes back byte for byte', async () => {
  const result = agent.run('echo "a b"\nfalse', 7);
  const sent = await request();
  expect(sent).toMatchObject({ seconds: '7', script: 'echo "a b"\nfalse' });
  // Output that looks like the protocol, cut at every byte.
  const out = 'READY x\nRES 1 0 0 0\n';
  const answer = `RES ${sent.id} 3 ${out.length} 2\n${out}é`;
  for (const byte of Buffer.from(answer)) port.write(Buffer.of(byte));
  expect(await result).toEqual({ code: 3, stdout: out, stderr: 'é' });
  expect(agent.boots).toBe(0);
});

test('boots are counted, and a script that a reboot swallowed fails', async () => {
  port.write('READY one\n');
  await agent.booted(1);
  const lost = agent.run('sleep 1', 10);
  port.write('READY two\n');
  await expect(lost).rejects.toThrow('booted again');
  await agent.booted(2);
  expect(agent.boots).toBe(2);
});

test('an answer that comes after it was given up is not taken for the next one', async () => {
  const first = agent.run('slow', 1);
  const { id } = await request();
  agent.abandon(new Error('given up'));
  await expect(first).rejects.toThrow('given up');
  const second = agent.run('quick', 1);
  const next = await request();
  port.write(`RES ${id} 1 4 0\nlateRES ${next.id} 0 4 0\ngood`);
  expect(await second).toEqual({ code: 0, stdout: 'good', stderr: '' });
});

test('scripts run one at a time', async () => {
  const first = agent.run('one', 1);
  await expect(agent.run('two', 1)).rejects.toThrow('one script at a time');
  const { id } = await request();
  port.write(`RES ${id} 0 0 0\n`);
  await first;
});

test('when the channel goes, everything that waits fails', async () => {
  const run = agent.run('x', 1);
  const boot = agent.booted(1);
  port.destroy();
  await expect(run).rejects.toThrow('closed the channel');
  await expect(boot).rejects.toThrow('closed the channel');
  await expect(agent.run('y', 1)).rejects.toThrow('closed the channel');
  expect(agent.closed).toBe(true);
});
