/** The rules that every driver keeps, for this one: called directly, and at the other end of a socket. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deviceOf, OpsRegistry, PciBus, toClient } from '@vfio/core';
import { EmulatedPciHost, SerialCard } from '@vfio/emulated';
import { type DeviceState, describeVariantDriver, subject } from '@vfio/testing';
import { VfioUserClient, VfioUserServer } from '@vfio/vfio-user';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { driver, serialVfioPciDriver } from '../src/index.js';

/** A card on a host of its own, with the driver. */
async function newCard(driver = serialVfioPciDriver()) {
  const host = new EmulatedPciHost();
  const card = host.add({ address: '0000:00:03.0', model: (ctx) => new SerialCard(ctx) });
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(driver);
  await bus.bindOverride(card, driver.name);
  return deviceOf(bus, card);
}

/** What a migration must carry, as far as the suite is told: the scratch registers of both ports. */
const state: DeviceState = {
  async put(device, seed) {
    for (const port of [0, 1]) await device.write(port, 7, Uint8Array.of(seed + port));
  },
  async get(device) {
    const found = new Uint8Array(2);
    for (const port of [0, 1]) await device.read(port, 7, found.subarray(port, port + 1));
    return found;
  },
};

const runner = { describe, test, skip: test.skip };
const [one, other, served] = await Promise.all([newCard(), newCard(), newCard()]);
const older = await newCard(serialVfioPciDriver({ minor: 0 }));

describeVariantDriver(runner, {
  name: 'called directly',
  driver: { driver, function: one.function },
  state,
  open: async () => subject(toClient(await one.open())),
  peer: async () => subject(toClient(await other.open())),
  otherVersion: async () => subject(toClient(await older.open())),
});

describe('through a socket', () => {
  const server = new VfioUserServer(served);
  let folder: string;
  let path: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'serial-'));
    path = join(folder, 'socket');
    await server.listen(path);
  });
  afterAll(async () => {
    await server.close();
    await rm(folder, { recursive: true });
  });
  describeVariantDriver(runner, { name: 'each', state, open: async () => subject(await VfioUserClient.connect(path)) });
});
