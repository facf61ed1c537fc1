import { OpsRegistry, PciBus } from '@vfio/core';
import { type AdminFault, EmulatedPciHost } from '@vfio/emulated';
import { expect, test } from 'vitest';
import { nvmeDriver } from '../src/index.js';
import { machine } from './helpers/machine.js';
import { RegisterModel } from './helpers/register-model.js';

async function registers() {
  const host = new EmulatedPciHost();
  const fn = host.add({ address: '0000:00:03.0', model: (ctx) => new RegisterModel(ctx) });
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(nvmeDriver({ commandTimeoutMs: 50 }));
  return { bus, fn, model: fn.model };
}

test.each<[string, (model: RegisterModel) => void, RegExp]>([
  ['is gone', (model) => Object.assign(model, { ailment: { gone: true } }), /the controller is gone/],
  ['does not become ready', (model) => Object.assign(model, { ailment: { neverReady: true } }), /become ready/],
  ['has pages of 8 KiB at least', (model) => Object.assign(model, { cap: [1 << 24, (1 << 5) | (1 << 16)] }), /4 KiB/],
  ['completes nothing', () => {}, /no answer within 50 ms/],
])('a controller that %s is not taken, and nothing of it is kept', async (_what, ail, message) => {
  const { bus, fn, model } = await registers();
  ail(model);
  for (const _time of ['once', 'and once more, not EBUSY'])
    await expect(bus.bindOverride(fn, 'nvme')).rejects.toThrow(message);
  expect(bus.getDrvdata(fn)).toBeUndefined();
  await bus.close();
});

test.each<[string, AdminFault, RegExp]>([
  ['is refused', { status: 0x02 }, /Invalid Field in Command \(0x2\)/],
  ['is the last before the controller dies', 'dies', /fatal state/],
])('a controller whose Identify %s is not taken', async (_what, fault, message) => {
  const { bus, pf } = await machine({ isOwned: false, hasVfs: false });
  pf.model.adminFault = () => fault;
  await expect(bus.bindOverride(pf, 'nvme')).rejects.toThrow(message);
  pf.model.adminFault = undefined;
  await bus.bindOverride(pf, 'nvme');
});

test('what a controller says of itself is what is believed: no more data than it takes, whatever it says', async () => {
  const { bus, pf, core } = await machine({ isOwned: false, hasVfs: false, drive: { mdts: 1 } });
  await bus.bindOverride(pf, 'nvme');
  expect(core()?.parent.maxTransfer).toBe(8192);
  await bus.unbind(pf);
  pf.model.adminFault = () => ({ output: (data) => data.fill(0xff) });
  await bus.bindOverride(pf, 'nvme');
  expect(core()?.parent.maxTransfer).toBe(0x40000);
});

test('virtual functions come and go with the physical one', async () => {
  const { bus, pf, host } = await machine();
  await bus.sriovConfigure(pf, 0);
  expect(host.find('0000:01:00.1')).toBeUndefined();
  expect(await bus.sriovConfigure(pf, 1)).toBe(1);
  await bus.unbind(pf);
  expect(host.find('0000:01:00.1')).toBeUndefined();
});
