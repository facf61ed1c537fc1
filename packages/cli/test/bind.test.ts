import { systemError } from '@vfio/core';
import { expect, test } from 'vitest';
import { FakeKernel } from '../../linux/test/helpers/fake-kernel.js';
import type { BindReport, UnbindReport } from '../src/commands/bind.js';
import { vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

const DISK = '0000:01:00.0';
const GPU = '0000:02:00.0';
const AUDIO = '0000:02:00.1';

const computer = () =>
  new FakeKernel({
    aliases: ['alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci'],
    drivers: [
      { name: 'nvme', module: 'nvme' },
      { name: 'snd', module: 'snd' },
    ],
    loadable: [{ name: 'vfio-pci', module: 'vfio_pci' }],
    functions: [
      { address: DISK, class: 0x010802, group: 1, driver: 'nvme' },
      { address: GPU, class: 0x030200, group: 2 },
      { address: AUDIO, class: 0x040300, group: 2, driver: 'snd' },
    ],
  });

test('vfio bind and unbind there and back, for people', async () => {
  const machine = computer();
  const before = machine.state();
  const bound = await vfio(['bind', '01:00.0'], { machine });
  expect(bound).toMatchObject({ code: 0, err: '' });
  expect(bound.out).toMatch(
    /^0000:01:00.0 {2}nvme -> vfio-pci, IOMMU group 1, \/dev\/vfio\/1, \/dev\/vfio\/devices\/vfio\d+\n$/,
  );
  expect((await vfio(['bind', DISK], { machine })).out).toMatch(/^0000:01:00.0 {2}vfio-pci, as it was, IOMMU group 1/);
  expect((await vfio(['unbind', DISK], { machine })).out).toBe('0000:01:00.0  vfio-pci -> nvme\n');
  expect((await vfio(['unbind', DISK], { machine })).out).toBe('0000:01:00.0  nvme, as it was\n');
  expect(machine.state()).toEqual(before);
});

test('for programs, by their schemas; restore gives back everything', async () => {
  const machine = computer();
  const before = machine.state();
  const bound = await vfio(['bind', GPU, DISK, '--group', '--owner', 'alice', '--json'], { machine });
  const report = JSON.parse(bound.out) as BindReport;
  expectSchema('bind', report);
  expect(report).toMatchObject({
    dryRun: false,
    functions: [
      {
        address: GPU,
        before: { driver: null },
        driver: 'vfio-pci',
        module: 'vfio_pci',
        changed: true,
        companion: false,
      },
      { address: DISK, before: { driver: 'nvme' }, companion: false },
      { address: AUDIO, before: { driver: 'snd' }, companion: true },
    ],
  });
  expect(report.steps.filter((line) => line.startsWith('echo'))).toHaveLength(8);
  const restored = await vfio(['restore', '--json'], { machine });
  const release = JSON.parse(restored.out) as UnbindReport;
  expectSchema('unbind', release);
  expect(release.functions.map(({ address, after, known }) => [address, after?.driver, known])).toEqual([
    [DISK, 'nvme', true],
    [GPU, null, true],
    [AUDIO, 'snd', true],
  ]);
  expect(machine.state()).toEqual(before);
  expect((await vfio(['restore'], { machine })).out).toBe('nothing is bound by `vfio bind`\n');
});

test('--dry-run prints each write and does none, and its JSON has the same schema', async () => {
  const machine = computer();
  const { out, code } = await vfio(['bind', DISK, '--dry-run'], { machine });
  expect(code).toBe(0);
  expect(out.split('\n')).toEqual([
    'modprobe vfio_pci',
    expect.stringMatching(/^echo \$\(ls .*\) > .*\/driver_override$/),
    expect.stringMatching(/^echo 0000:01:00.0 > .*\/driver\/unbind$/),
    expect.stringMatching(/^echo 0000:01:00.0 > .*\/drivers_probe$/),
    '',
  ]);
  const json = JSON.parse((await vfio(['bind', DISK, '--dry-run', '--json'], { machine })).out) as BindReport;
  expectSchema('bind', json);
  expect(json).toMatchObject({ dryRun: true, functions: [{ driver: null, module: 'vfio_pci', changed: true }] });
  expect(machine.writes).toEqual([]);
  expect(machine.programs).toEqual([]);
  await vfio(['bind', DISK], { machine });
  machine.writes.length = 0;
  expect((await vfio(['unbind', DISK, '--dry-run'], { machine })).out.trimEnd().split('\n')).toHaveLength(4);
  expectSchema('unbind', JSON.parse((await vfio(['restore', '--dry-run', '--json'], { machine })).out));
  expect((await vfio(['bind', DISK, '--dry-run'], { machine })).out).toBe('# nothing to do\n');
  expect(machine.writes).toEqual([]);
});

test('--persist shows the file, and then writes it', async () => {
  const machine = computer();
  const { out } = await vfio(['bind', DISK, '--persist'], { machine });
  const path = machine.file('/etc/udev/rules.d/70-vfio-0000:01:00.0.rules');
  expect(out).toContain(`${path}\n  # Written by`);
  expect(machine.text(path)).toContain('ATTR{driver_override}="vfio-pci"');
  const dry = await vfio(['bind', DISK, '--persist', '--dry-run'], { machine });
  expect(dry.out).toMatch(/^cat > .*70-vfio-0000:01:00.0.rules <<'END'\n# Written by.*\n.*\nEND\n$/);
});

test.each<[string, string[], number, RegExp, RegExp]>([
  [
    'a group that is used as a whole',
    ['bind', GPU],
    1,
    /0000:02:00.1 \(snd\).*ERR_VFIO_BUSY, EBUSY/,
    /^try: `--group` binds them too$/m,
  ],
  [
    'a function that is not there',
    ['bind', '0000:7f:00.0'],
    1,
    /no function 0000:7f:00.0 on the linux host/,
    /^try: `vfio list --host linux`/m,
  ],
  [
    'a module that does not exist',
    ['bind', DISK, '--driver', 'nothing'],
    1,
    /module nothing could not be loaded/,
    /^try: /m,
  ],
  ['what is no address', ['bind', 'zz'], 2, /not a PCI address/, /^try: /m],
  ['no address', ['unbind'], 2, /missing required argument/, /vfio --help/],
])('%s: exit code, sentence and what to try', async (_, args, code, sentence, hint) => {
  const machine = computer();
  const result = await vfio(args, { machine });
  expect(result.code).toBe(code);
  expect(result.err).toMatch(sentence);
  expect(result.err).toMatch(hint);
  expect(machine.writes).toEqual([]);
});

test('a user without rights is told to use sudo, and everything is as it was', async () => {
  const machine = computer();
  machine.replace = (path) => {
    throw systemError(`write ${path}`, 'open', Object.assign(new Error('denied'), { code: 'EACCES' }));
  };
  const { code, err } = await vfio(['bind', DISK], { machine });
  expect(code).toBe(1);
  expect(err).toMatch(/could not be given to vfio-pci: .*EACCES; every function is as it was/);
  expect(err).toMatch(/^try: it takes root: run it with sudo$/m);
});
