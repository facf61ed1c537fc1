import { OpsRegistry, PciBus } from '@vfio/core';
import { type CommandRecord, ConnectX, EmulatedPciHost } from '@vfio/emulated';
import { afterEach, expect, test } from 'vitest';
import { type Mlx5Core, mlx5CoreDriver } from '../src/hca/index.js';

const cleanUp: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const step of cleanUp.splice(0).reverse()) await step();
});

async function setup() {
  const commands: CommandRecord[] = [];
  let connectx: ConnectX | undefined;
  const host = new EmulatedPciHost();
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  const pf = host.add({
    address: '0000:01:00.0',
    model: (ctx) => {
      connectx = new ConnectX(ctx, { onCommand: (record) => commands.push(record) });
      return connectx;
    },
  });
  const warnings: string[] = [];
  const bus = new PciBus(host, { ops: new OpsRegistry(), warn: ({ message }) => void warnings.push(message) });
  const driver = mlx5CoreDriver({ commandTimeoutMs: 2000 });
  await bus.register(driver);
  cleanUp.push(() => bus.close());
  if (connectx === undefined) throw new Error('no model');
  return { host, pf, bus, driver, commands, connectx, warnings };
}

test('boots the physical function, with every command understood', async () => {
  const { bus, pf, commands, connectx } = await setup();
  await bus.bindOverride(pf, 'mlx5_core');
  expect(commands.filter(({ status }) => status !== 0)).toEqual([]);
  expect(connectx.hca.phase).toBe('initialized');
  const core = bus.getDrvdata<Mlx5Core>(pf);
  expect(core?.hca.firmwareVersion).toBe('28.39.1002');
  await bus.unbind(pf);
  expect(commands.filter(({ status }) => status !== 0)).toEqual([]);
  expect(connectx.hca.pages.count).toBe(0);
  expect(connectx.hca.phase).toBe('disabled');
});

test('makes virtual functions and gives them pages', async () => {
  const { bus, pf, host, connectx, commands } = await setup();
  await bus.bindOverride(pf, 'mlx5_core');
  expect(await bus.sriovConfigure(pf, 2)).toBe(2);
  expect(host.find('0000:01:00.2')?.physfn).toBe(pf);
  expect(commands.filter(({ status }) => status !== 0)).toEqual([]);
  expect(connectx.virtualFunctions.get(0)?.hca.capabilities.general2('migratable')).toBe(1);
  await bus.sriovConfigure(pf, 0);
  expect(commands.filter(({ status }) => status !== 0)).toEqual([]);
});
