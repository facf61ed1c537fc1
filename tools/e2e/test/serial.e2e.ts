import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deviceOf, OpsRegistry, PciBus } from '@vfio/core';
import { EmulatedPciHost, SerialCard, type Uart } from '@vfio/emulated';
import { VfioUserServer } from '@vfio/vfio-user';
import { driver as serial } from '@vfio-examples/serial-vfio-pci/driver';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Guest } from '../src/guest.js';
import { boot, showLogsOfFailures } from './support.js';

showLogsOfFailures();

/**
 * One direction of a cable. It keeps what the receiver has no room for: a guest under TCG is no machine that takes a character
 * in time. Gives what pulls it out.
 */
function connect(from: Uart, to: Uart): () => void {
  const onTheWay: number[] = [];
  const deliver = (): void => {
    while (onTheWay.length > 0 && to.room > 0) to.receive(onTheWay.shift() ?? 0);
  };
  from.onTransmit = (byte) => {
    onTheWay.push(byte);
    deliver();
  };
  const timer = setInterval(deliver, 1);
  return () => clearInterval(timer);
}

/** On the guest's root bus. */
const ADDRESS = '0000:00:08.0';
/** What is sent. At 115,200 baud a second carries 11,520 of them. */
const BYTES = 8000;

/** What the driver says at its level of warnings and above, and any warning of the kernel itself. */
const COMPLAINTS = `dmesg --level=emerg,alert,crit,err,warn | grep -E 'serial|ttyS|8250|${ADDRESS}|WARNING|BUG|Call Trace' || true`;

describe('a guest with our serial card', () => {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-'));
  const socket = join(folder, 'device');
  let server: VfioUserServer;
  let guest: Guest;
  let pulls: readonly (() => void)[] = [];

  beforeAll(async () => {
    const host = new EmulatedPciHost();
    const fn = host.add({ address: '0000:00:03.0', model: (ctx) => new SerialCard(ctx) });
    const [first, second] = fn.model.ports;
    if (first === undefined || second === undefined) throw new Error('the card has two ports');
    pulls = [connect(first, second), connect(second, first)];
    const bus = new PciBus(host, { ops: new OpsRegistry() });
    await bus.register(serial);
    await bus.bindOverride(fn, serial.name);
    server = new VfioUserServer(deviceOf(bus, fn));
    await server.listen(socket);
    guest = await boot({
      name: 'serial',
      devices: [{ driver: 'vfio-user-pci', socket: { type: 'unix', path: socket }, id: 'serial', addr: '08.0' }],
    });
  });
  afterAll(async () => {
    for (const pull of pulls) pull();
    await guest?.kill();
    await server?.close();
    rmSync(folder, { recursive: true });
  });

  test('finds two 16550A with its stock driver, which asks the FIFOs and tries loopback for that', async () => {
    const said = await guest.ok(`dmesg | grep '${ADDRESS}: ttyS'`);
    expect(said.match(/is a 16550A$/gm)).toHaveLength(2);
    expect(await guest.ok(COMPLAINTS)).toBe('');
  });

  test('sends through a cable from one to the other, by interrupts and without an error', async () => {
    const names = await guest.ok(`dmesg | sed -n 's/.*${ADDRESS}: \\(ttyS[0-9]*\\).*/\\1/p'`);
    const [from, to] = names.trim().split('\n');
    await guest.ok(`for port in ${from} ${to}; do stty -F /dev/$port raw -echo 115200; done`);
    // The interrupt is counted for as long as a port is open.
    const said = await guest.ok(`
      exec 3<>/dev/${from}
      head -c ${BYTES} /dev/urandom > /tmp/sent
      (timeout 40 head -c ${BYTES} /dev/${to} > /tmp/received) &
      sleep 1
      cat /tmp/sent >&3
      wait
      sha256sum < /tmp/sent
      sha256sum < /tmp/received
      grep -w ${from} /proc/interrupts`);
    const [sent, received, interrupts = ''] = said.trim().split('\n');
    expect(received).toBe(sent);
    // How many is the guest's business: its handler takes what has come meanwhile, too.
    expect(Number(interrupts.trim().split(/\s+/)[1])).toBeGreaterThan(10);
    expect(await guest.ok(COMPLAINTS)).toBe('');
  });
});
