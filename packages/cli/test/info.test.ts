import { join } from 'node:path';
import { deviceOf, OpsRegistry, PciBus } from '@vfio/core';
import { createDemoHost, DEMO } from '@vfio/emulated';
import { vfioPciDriver } from '@vfio/vfio-pci';
import { VfioUserClient, VfioUserServer } from '@vfio/vfio-user';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { InfoReport } from '../src/commands/info.js';
import { folder, vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

const socket = join(folder, 'edu.sock');
const host = createDemoHost();
const bus = new PciBus(host, { ops: new OpsRegistry() });
let server: VfioUserServer;

beforeAll(async () => {
  const edu = host.find(DEMO.edu);
  if (edu === undefined) throw new Error('the demo host has an edu');
  await bus.register(vfioPciDriver());
  await bus.bindOverride(edu, 'vfio-pci');
  server = new VfioUserServer(deviceOf(bus, edu), { onWarning: () => {} });
  await server.listen(socket);
});

afterAll(async () => {
  await server.close();
  await bus.close();
});

async function info(...args: string[]): Promise<InfoReport> {
  const { out, err, code } = await vfio(['info', '--json', ...args]);
  expect({ code, err }).toMatchObject({ code: 0 });
  const report = JSON.parse(out) as InfoReport;
  expectSchema('info', report);
  return report;
}

const facts = ({ ops: _, ...rest }: InfoReport) => rest;

test('a function opens under its best driver: regions, interrupts and config space as a guest sees them', async () => {
  const report = await info('0000:01:00.0');
  expect(report).toMatchObject({ ops: 'nvme-vfio-pci', flags: ['reset', 'pci'] });
  expect(report.regions.filter(({ size }) => size > 0).map(({ name }) => name)).toEqual(['BAR 0', 'config']);
  expect(report.irqs.map(({ name }) => name)).toEqual(['INTx', 'MSI', 'MSI-X', 'ERR', 'REQ']);
  expect(report.config).toMatchObject({ ids: '1b36:0010', class: '010802', problems: [] });
  expect(report.config.capabilities.map(({ name }) => name)).toContain('MSI-X');
});

test('--driver opens it under another', async () => {
  expect((await info('0000:01:00.0', '--driver', 'vfio-pci')).ops).toBe('vfio-pci');
});

test('every function that VFIO takes can be asked, and its document is what the schema says', async () => {
  for (const { address, headerType } of host.functions()) if (headerType === 0) await info(address);
});

test('a served device tells the same as the function that it is', async () => {
  expect(facts(await info(socket))).toEqual(facts(await info(DEMO.edu)));
});

test('a server that has a client answers no other: the error says so and what to do', async () => {
  await using _vmm = await VfioUserClient.connect(socket);
  const { code, out, err } = await vfio(['info', socket]);
  expect(code).toBe(1);
  expect(out).toBe('');
  expect(err).toMatch(/no reply within \d+ ms .*ERR_VFIO_TIMEOUT/);
  expect(err).toMatch(/^try: a server takes one client at a time/m);
});

test('the tables name regions, interrupts and capabilities', async () => {
  const { out } = await vfio(['info', '0000:01:00.0']);
  expect(out).toMatch(/^0000:01:00.0 {2}driver nvme_vfio_pci {2}1b36:0010 {2}ops nvme-vfio-pci$/m);
  expect(out).toMatch(/^BAR 0 +16 KiB +read write +-$/m);
  expect(out).toMatch(/^MSI-X +\d+ +eventfd/m);
  expect(out).toMatch(/^\[[0-9a-f]{2}\] MSI-X: Enable-/m);
});

test.each([
  ['neither an address nor a file', 'nosuch', 2, /neither an address.* nor a socket/],
  ['a path at which nothing is', '/nosuch/socket', 1, /ENOENT.*\ntry: is the path right/],
  ['a file that is no socket', join(import.meta.dirname, 'info.test.ts'), 1, /ECONNREFUSED.*\ntry: nobody listens/],
  ['a bridge', '0000:00:1c.0', 1, /bridges cannot be VFIO devices/],
])('%s', async (_, what, code, message) => {
  const result = await vfio(['info', what]);
  expect(result).toMatchObject({ code, out: '' });
  expect(result.err).toMatch(message);
});

test('a driver that nobody has installed: the error names those that are', async () => {
  const { code, err } = await vfio(['info', '0000:01:00.0', '--driver', 'nosuch']);
  expect(code).toBe(1);
  expect(err).toMatch(/no driver is called "nosuch"; there are nvme, nvme_vfio_pci, vfio-pci .*ERR_VFIO_NO_DRIVER/);
});
