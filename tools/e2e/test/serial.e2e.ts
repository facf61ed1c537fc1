import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deviceOf, OpsRegistry, PciBus } from '@vfio/core';
import { EmulatedPciHost, SerialCard, type Uart } from '@vfio/emulated';
import { VfioUserServer } from '@vfio/vfio-user';
import { serialVfioPciDriver } from '@vfio-examples/serial-vfio-pci/driver';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Guest } from '../src/guest.js';
import { boot, showLogsOfFailures } from './support.js';

showLogsOfFailures();

/**
 * A cable from the first port of a card to the second. It keeps what there is no room for, or no card: a guest under TCG does not
 * take each character in time, and a card that is being moved takes none.
 */
class Cable {
  /** Characters that it has brought to the other end. */
  carried = 0;
  readonly #onTheWay: number[] = [];
  readonly #timer = setInterval(() => this.#deliver(), 1);
  #to: Uart | undefined;

  /** What a card sends goes into the cable from now on. */
  connect(card: SerialCard): void {
    const [from] = card.ports;
    if (from === undefined) throw new Error('the card has no port');
    from.onTransmit = (byte) => {
      this.#onTheWay.push(byte);
      this.#deliver();
    };
  }

  /** What comes out goes to a card; undefined: to none. */
  leadTo(card: SerialCard | undefined): void {
    this.#to = card?.ports[1];
  }

  pull(): void {
    clearInterval(this.#timer);
  }

  #deliver(): void {
    while (this.#to !== undefined && this.#onTheWay.length > 0 && this.#to.room > 0) {
      this.#to.receive(this.#onTheWay.shift() ?? 0);
      this.carried += 1;
    }
  }
}

/** A card with its driver, on a host of its own, and a server for it. */
async function newCard(minor?: 0) {
  const host = new EmulatedPciHost();
  const fn = host.add({ address: '0000:00:03.0', model: (ctx) => new SerialCard(ctx) });
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  const driver = serialVfioPciDriver(minor === undefined ? {} : { minor });
  await bus.register(driver);
  await bus.bindOverride(fn, driver.name);
  return { model: fn.model, server: new VfioUserServer(deviceOf(bus, fn)) };
}

/** On the guest's root bus. */
const ADDRESS = '0000:00:08.0';
/** What is sent. At 115,200 baud a second carries 11,520 of them. */
const BYTES = 8000;
const HANDOVERS = 8;

/** What the driver says at its level of warnings and above, and any warning of the kernel itself. */
const COMPLAINTS = `dmesg --level=emerg,alert,crit,err,warn | grep -E 'serial|ttyS|8250|${ADDRESS}|WARNING|BUG|Call Trace' || true`;

describe('a guest with our serial card', () => {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-e2e-'));
  const socket = join(folder, 'device');
  const cable = new Cable();
  let server: VfioUserServer;
  let guest: Guest;

  beforeAll(async () => {
    const card = await newCard();
    cable.connect(card.model);
    cable.leadTo(card.model);
    ({ server } = card);
    await server.listen(socket);
    guest = await boot({
      name: 'serial',
      devices: [{ driver: 'vfio-user-pci', socket: { type: 'unix', path: socket }, id: 'serial', addr: '08.0' }],
    });
  });
  afterAll(async () => {
    cable.pull();
    await guest?.kill();
    await server?.close();
    rmSync(folder, { recursive: true });
  });

  /** Sends through the cable; nothing is to be lost. Gives how many interrupts that took. */
  async function send(): Promise<number> {
    const names = await guest.ok(`dmesg | sed -n 's/.*${ADDRESS}: \\(ttyS[0-9]*\\).*/\\1/p'`);
    const [from, to] = names.trim().split('\n');
    // The interrupt is counted for as long as a port is open.
    const said = await guest.ok(`
      for port in ${from} ${to}; do stty -F /dev/$port raw -echo 115200; done
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
    expect(await guest.ok(COMPLAINTS)).toBe('');
    return Number(interrupts.trim().split(/\s+/)[1]);
  }

  test('finds two 16550A with its stock driver, which asks the FIFOs and tries loopback for that', async () => {
    const said = await guest.ok(`dmesg | grep '${ADDRESS}: ttyS'`);
    expect(said.match(/is a 16550A$/gm)).toHaveLength(2);
    expect(await guest.ok(COMPLAINTS)).toBe('');
  });

  test('sends through a cable from one to the other, by interrupts and without an error', async () => {
    // How many is the guest's business: its handler takes what has come meanwhile, too.
    expect(await send()).toBeGreaterThan(10);
  });

  test('goes on sending while its card becomes another, again and again, at last one with an older driver', async () => {
    const before = cable.carried;
    const sending = send();
    // Where a handover fails it is that what the test says.
    sending.catch(() => undefined);
    for (let n = 1; n <= HANDOVERS; n++) {
      await expect
        .poll(() => cable.carried - before, { timeout: 60_000 })
        .toBeGreaterThan((n * BYTES) / (HANDOVERS + 2));
      const next = await newCard(n === HANDOVERS ? 0 : undefined);
      cable.connect(next.model);
      const path = join(folder, `next-${n}`);
      await next.server.listen({ incoming: { path } });
      cable.leadTo(undefined);
      await server.handover(path);
      cable.leadTo(next.model);
      ({ server } = next);
    }
    await sending;
    expect(cable.carried - before).toBe(BYTES);
  });
});
