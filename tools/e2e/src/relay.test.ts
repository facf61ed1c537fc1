import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FdStrippingRelay, MessageCutter } from './relay.js';

function message(bytes: readonly number[]): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(16 + bytes.length, 4);
  return Buffer.concat([header, Buffer.from(bytes)]);
}

test('whatever the pieces, whole messages come out, in order and with nothing added', () => {
  const bodies = fc.array(fc.array(fc.nat(255), { maxLength: 40 }), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(bodies, fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }), (contents, steps) => {
      const sent = contents.map(message);
      const stream = Buffer.concat(sent);
      const cutter = new MessageCutter();
      const received: Buffer[] = [];
      for (let at = 0, step = 0; at < stream.length; step++) {
        const next = at + steps[step % steps.length]!;
        received.push(...cutter.push(stream.subarray(at, next)));
        at = next;
      }
      expect(received).toEqual(sent);
    }),
  );
});

test('a message shorter than its own header is an error, not an endless loop', () => {
  const bad = Buffer.alloc(16);
  bad.writeUInt32LE(15, 4);
  expect(() => new MessageCutter().push(bad)).toThrow(/15 bytes/);
});

test('messages pass both ways, and when the server goes the client is told', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'relay-'));
  const target = join(folder, 'target');
  const peers: Socket[] = [];
  const server = createServer((socket) => {
    peers.push(socket);
    socket.on('data', (data) => socket.write(data));
  }).listen(target);
  const relay = await FdStrippingRelay.listen(join(folder, 'relay'), target);
  try {
    const client = connect(join(folder, 'relay'));
    const echoed = await new Promise<Buffer>((resolve) => {
      client.once('data', resolve);
      client.write(message([1, 2, 3]));
    });
    expect(echoed).toEqual(message([1, 2, 3]));
    const ended = new Promise<string>((resolve) => client.once('close', () => resolve('ended')));
    peers[0]!.destroy();
    expect(await ended).toBe('ended');
  } finally {
    await relay.close();
    server.close();
    rmSync(folder, { recursive: true, force: true });
  }
});
