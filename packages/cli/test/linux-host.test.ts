import { expect, test } from 'vitest';
import { FakeKernel } from '../../linux/test/helpers/fake-kernel.js';
import type { ListReport } from '../src/commands/list.js';
import type { MatchReport } from '../src/commands/match.js';
import { vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

const machine = new FakeKernel({
  drivers: [{ name: 'pcieport' }, { name: 'nvme', module: 'nvme' }],
  functions: [
    { address: '0000:00:1c.0', class: 0x060400, bridge: true, driver: 'pcieport', group: 1 },
    { address: '0000:01:00.0', vendor: 0x1b36, device: 0x10, class: 0x010802, group: 2, driver: 'nvme', numaNode: 0 },
    { address: '0000:02:00.0', vendor: 0x15b3, device: 0x101e, override: 'x' },
  ],
  aliases: [
    'alias pci:v*d*sv*sd*bc01sc08i02* nvme',
    'alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci',
    'alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci',
  ],
});
const linux = (...args: string[]) => vfio([...args, '--host', 'linux'], { machine });

test('vfio list shows what the kernel has: driver, override, group, node, and its own best module beside ours', async () => {
  const { out, code } = await linux('list', '--json');
  const report = JSON.parse(out) as ListReport;
  expectSchema('list', report);
  expect(code).toBe(0);
  expect(
    report.functions.map((fn) => [
      fn.address,
      fn.driver,
      fn.driverOverride,
      fn.iommuGroup,
      fn.numaNode,
      fn.best,
      fn.kernelModule,
    ]),
  ).toEqual([
    ['0000:00:1c.0', 'pcieport', null, 1, null, null, null],
    ['0000:01:00.0', 'nvme', null, 2, 0, 'nvme_vfio_pci', 'vfio_pci'],
    ['0000:02:00.0', null, 'x', null, null, 'vfio-pci', 'mlx5_vfio_pci'],
  ]);
});

test('the table has a column for the kernel', async () => {
  const { out } = await linux('list');
  expect(out).toMatch(/^ADDRESS +IDS +CLASS +GROUP +DRIVER +BEST +KERNEL +NAME$/m);
  expect(out).toMatch(/^0000:01:00.0 +1b36:0010 +010802 +2 +nvme +nvme_vfio_pci +vfio_pci +Mass storage controller$/m);
});

test('what sysfs has and cannot be read is a warning, and the rest is shown', async () => {
  const broken = new FakeKernel({ functions: [{ address: '0000:00:01.0' }] });
  broken.plug({ address: '0000:00:02.0', files: { modalias: 'nonsense\n' } });
  const { out, err, code } = await vfio(['list', '--host', 'linux'], { machine: broken });
  expect(code).toBe(0);
  expect(out).toContain('0000:00:01.0');
  expect(err).toMatch(/^warning: 0000:00:02.0: "nonsense" is not the modalias/);
});

test('vfio match explains our drivers and the kernel’s modules', async () => {
  const { out, code } = await linux('match', '--json', '02:00.0');
  const report = JSON.parse(out) as MatchReport;
  expectSchema('match', report);
  expect(code).toBe(0);
  expect(report).toMatchObject({ winner: 'vfio-pci', kernel: { winner: 'mlx5_vfio_pci' } });
  expect(report.kernel?.candidates.map(({ driver, outcome }) => [driver, outcome])).toEqual([
    ['mlx5_vfio_pci', 'won'],
    ['vfio_pci', 'lost'],
  ]);
  const table = await linux('match', '15b3:101e');
  expect(table.out).toMatch(/^modules of the kernel, by .*modules\.alias$/m);
  expect(table.out).toMatch(/^\* +mlx5_vfio_pci +000015B3 +0000101E /m);
});

test('a bridge is refused there too', async () => {
  const { out, code } = await linux('match', '0000:00:1c.0');
  expect(code).toBe(1);
  expect(out).toMatch(/^but 0000:00:1c.0 is a bridge/m);
});

test('without alias files vfio match says that there are none', async () => {
  const bare = new FakeKernel({ functions: [{ address: '0000:00:01.0' }] });
  const { out } = await vfio(['match', '00:01.0', '--host', 'linux'], { machine: bare });
  expect(out).toMatch(/^modules of the kernel, by no file: there is none\nno module matches$/m);
});

test('--sysfs-root names another sysfs', async () => {
  const { out } = await vfio(['list', '--json', '--host', 'linux', '--sysfs-root', machine.file('/sys')]);
  expect((JSON.parse(out) as ListReport).functions.map(({ address }) => address)).toEqual([
    '0000:00:1c.0',
    '0000:01:00.0',
    '0000:02:00.0',
  ]);
});

test.each([[['info', '0000:01:00.0']], [['serve', '0000:01:00.0', '--socket-path', '/tmp/x']], [['demo']]])(
  'vfio %s takes no function of the linux host, and says so',
  async (args) => {
    const { code, err } = await linux(...args);
    expect(code).toBe(2);
    expect(err).toMatch(/takes functions of the emulated host/);
  },
);
