import { expect, test } from 'vitest';
import { FakeKernel } from '../../linux/test/helpers/fake-kernel.js';
import type { DoctorReport } from '../src/commands/doctor.js';
import { vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

function computer(): FakeKernel {
  const machine = new FakeKernel({
    aliases: ['alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci'],
    drivers: [{ name: 'vfio-pci', module: 'vfio_pci' }],
    functions: [{ address: '0000:01:00.0', class: 0x010802, group: 1 }],
  });
  machine.put('/sys/module/vfio_iommu_type1/refcnt', '0\n');
  machine.put('/proc/interrupts', ' 24:  0  IR-PCI-MSI-0000:01:00.0  0-edge  x\n');
  machine.put('/dev/vfio/vfio', '');
  return machine;
}

test('a machine on which passthrough can work: exit code 0, and the variant that a package brings is named', async () => {
  const { out, code } = await vfio(['doctor'], { machine: computer() });
  expect(code).toBe(0);
  expect(out).toMatch(/^ok +iommu: the IOMMU has 1 group$/m);
  expect(out).toMatch(/^ok +variant: .* 0000:01:00.0: @vfio\/nvme-vfio-pci stands in$/m);
  expect(out).toMatch(/^unknown kernel-options: no file has the options of kernel .*\n {8}\S/m);
  expect(out).toMatch(/^passthrough can work on this machine$/m);
});

test('one on which it cannot: exit code 1, and what to do under what is wrong', async () => {
  const machine = new FakeKernel({ functions: [{ address: '0000:01:00.0' }] });
  const { out, code } = await vfio(['doctor'], { machine });
  expect(code).toBe(1);
  expect(out).toMatch(/^FAIL +iommu: the kernel drives no IOMMU\n {8}switch on the IOMMU/m);
  expect(out).toMatch(/^passthrough cannot work on this machine as it is$/m);
});

test('the JSON document is what its schema says', async () => {
  const { out, code } = await vfio(['doctor', '--json'], { machine: computer() });
  const report = JSON.parse(out) as DoctorReport;
  expectSchema('doctor', report);
  expect([code, report.ok]).toEqual([0, true]);
});
