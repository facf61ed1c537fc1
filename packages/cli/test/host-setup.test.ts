import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { VfioUserClient } from '@vfio/vfio-user';
import { expect, test } from 'vitest';
import type { InfoReport } from '../src/commands/info.js';
import type { ListReport } from '../src/commands/list.js';
import { ControlClient } from '../src/serve/control/client.js';
import { Serving } from './helpers/command.js';
import { folder, ROOT, vfio } from './helpers/run.js';

const PF = '0000:05:00.0';
const VF = '0000:05:00.1';
const OWNED = ['--driver-override', `${PF}=mlx5_core`, '--sriov-numvfs', `${PF}=2`];

async function json<T>(...args: string[]): Promise<T> {
  const { out, err, code } = await vfio([...args, '--json'], { cwd: ROOT });
  expect({ code, err }).toMatchObject({ code: 0 });
  return JSON.parse(out) as T;
}

test('virtual functions appear, under the driver that their physical function was given', async () => {
  const { functions } = await json<ListReport>('list', ...OWNED, '--driver-override', `${VF}=vfio-pci`);
  const find = (address: string) => functions.find((fn) => fn.address === address);
  expect(find(PF)).toMatchObject({ driver: 'mlx5_core', driverOverride: 'mlx5_core' });
  expect(find(VF)).toMatchObject({ ids: '15b3:101e', physfn: PF, best: 'mlx5_vfio_pci', driverOverride: 'vfio-pci' });
  expect(functions.filter(({ physfn }) => physfn === PF)).toHaveLength(2);
});

test('a virtual function whose physical function is ours can be migrated, and vfio info says how', async () => {
  expect(await json<InfoReport>('info', VF, ...OWNED)).toMatchObject({
    ops: 'mlx5-vfio-pci',
    migration: ['STOP_COPY', 'P2P', 'PRE_COPY'],
    whyNotMigratable: null,
  });
});

test.each<[string, string[], RegExp]>([
  ['its physical function is nobody’s', [VF, '--sriov-numvfs', `${PF}=1`], /^its physical function .* is not bound to/],
  ['it is not a virtual function', ['0000:04:00.0'], /^it is not a virtual function$/],
])('vfio info says which condition of migration is missing: %s', async (_, args, why) => {
  const report = await json<InfoReport>('info', ...args);
  expect(report).toMatchObject({ ops: 'mlx5-vfio-pci', migration: [], whyNotMigratable: expect.stringMatching(why) });
  const { out } = await vfio(['info', ...args], { cwd: ROOT });
  expect(out).toContain(`\nmigration: no: ${report.whyNotMigratable}\n`);
});

test('a driver that nobody asked for takes no physical function: the best is another', async () => {
  const { functions } = await json<ListReport>('list');
  expect(functions.find(({ address }) => address === PF)).toMatchObject({ driver: null, best: 'vfio-pci' });
});

test.each<[string, string[], number, RegExp]>([
  ['no value', ['--sriov-numvfs', PF], 2, /it must be ADDRESS=VALUE/],
  ['no number', ['--sriov-numvfs', `${PF}=two`], 2, /how many, a whole number/],
  ['no address', ['--driver-override', 'card=mlx5_core'], 2, /"card"/],
  ['one function twice', ['--sriov-numvfs', `${PF}=1`, '--sriov-numvfs', '05:00.0=2'], 2, /has 0000:05:00.0 twice/],
  ['the functions of linux', ['--host', 'linux', '--sriov-numvfs', `${PF}=1`], 2, /linux has them in sysfs/],
  ['more than there can be', ['--sriov-numvfs', `${PF}=9`], 1, /9 VFs: 1 to 4 are allowed/],
  [
    'more than its driver can make',
    [...OWNED.slice(0, 2), '--sriov-numvfs', `${PF}=9`],
    1,
    /allowed are 0 to 4 .*ERANGE/,
  ],
  ['a function without virtual ones', ['--sriov-numvfs', '00:02.0=1'], 1, /no SR-IOV capability .*ENODEV/],
  ['a function that is not there', ['--driver-override', '7f:00.0=vfio-pci'], 1, /no function 0000:7f:00.0/],
  ['a driver that is not there', ['--driver-override', `${PF}=nosuch`, ...OWNED.slice(2)], 1, /"nosuch"/],
])('refused: %s', async (_, args, code, message) => {
  const result = await vfio(['list', ...args], { cwd: ROOT });
  expect(result).toMatchObject({ code, out: '' });
  expect(result.err).toMatch(message);
});

test('vfio serve serves virtual functions beside others, each physical function in the thread that needs it', async () => {
  const at = mkdtempSync(join(folder, 'vf-'));
  const sockets = ['a', 'b', 'c'].flatMap((name) => ['--socket-path', join(at, name)]);
  const functions = [VF, '00:02.0', '05:00.2'];
  const control = join(at, 'control');
  const server = new Serving([...functions, ...OWNED, ...sockets, '--threads', '2', '--control-path', control]);
  await server.next('ready');
  const drivers = server.events.flatMap((event) => (event.type === 'listening' ? [[event.address, event.driver]] : []));
  expect(drivers.sort()).toEqual([
    ['0000:00:02.0', 'vfio-pci'],
    [VF, 'mlx5_vfio_pci'],
    ['0000:05:00.2', 'mlx5_vfio_pci'],
  ]);
  await using client = await ControlClient.connect(control);
  expect(await client.call('info', {}, { address: VF })).toMatchObject({
    physfn: PF,
    migration: ['STOP_COPY', 'P2P', 'PRE_COPY'],
  });
  {
    await using _user = await VfioUserClient.connect(join(at, 'a'));
    expect(await client.call('state', {}, { address: VF })).toMatchObject({ migration: 'RUNNING', inUse: true });
  }
  expect(await server.end()).toBe(0);
  expect(server.events.filter(({ type }) => type === 'warning')).toEqual([]);
});
