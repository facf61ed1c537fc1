import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { canPassThrough, type DoctorOptions, examine, LinuxPciHost } from '../src/index.js';
import { FakeKernel, RELEASE } from './helpers/fake-kernel.js';

const CONFIG = ['VFIO', 'VFIO_PCI', 'VFIO_IOMMU_TYPE1', 'IOMMU_SUPPORT', 'INTEL_IOMMU'];
const LIMITS = (memory: string, files = '1048576') =>
  `Limit                     Soft Limit           Hard Limit           Units\nMax locked memory         ${memory}              ${memory}              bytes\nMax open files            ${files}              1048576              files\n`;

/** A machine on which passthrough works. */
function machine(): FakeKernel {
  const kernel = new FakeKernel({
    aliases: ['alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci'],
    functions: [{ address: '0000:01:00.0', class: 0x010802, group: 1 }],
  });
  kernel.put('/sys/class/iommu/dmar0/name', '');
  kernel.put('/sys/kernel/iommu_groups/1/type', 'DMA-FQ\n');
  kernel.put(`/boot/config-${RELEASE}`, `${CONFIG.map((name) => `CONFIG_${name}=y`).join('\n')}\n`);
  kernel.put('/proc/interrupts', ' 24:  0  IR-PCI-MSI-0000:01:00.0  0-edge  nvme0q0\n');
  kernel.put('/proc/self/limits', LIMITS('unlimited'));
  kernel.put('/proc/cmdline', 'root=/dev/vda\n');
  kernel.put(
    `/lib/modules/${RELEASE}/modules.order`,
    'kernel/drivers/vfio/pci/vfio-pci.ko\nkernel/drivers/vfio/vfio_iommu_type1.ko\n',
  );
  kernel.put('/dev/vfio/vfio', '');
  return kernel;
}

const run = (kernel: FakeKernel, options: DoctorOptions = {}) =>
  examine(new LinuxPciHost(kernel), { arch: 'x64', uid: 1000, ...options });
const check = (kernel: FakeKernel, name: string, options: DoctorOptions = {}) =>
  run(kernel, options).find((one) => one.name === name);

test('on a machine that has everything nothing fails and nothing warns', () => {
  const checks = run(machine());
  expect(checks.filter(({ status }) => status !== 'ok')).toEqual([]);
  expect(canPassThrough(checks)).toBe(true);
  expect(checks.map(({ name }) => name)).toEqual([
    'kernel-options',
    'iommu',
    'interrupt-remapping',
    'module-vfio_pci',
    'module-vfio_iommu_type1',
    'device-nodes',
    'locked-memory',
    'open-files',
  ]);
});

describe('kernel options', () => {
  test.each([
    ['/proc/config.gz', (text: string) => gzipSync(text)],
    [`/boot/config-${RELEASE}`, (text: string) => text],
    [`/usr/lib/modules/${RELEASE}/config`, (text: string) => text],
  ])('are read from %s, and those that are missing are named with what it means', (place, pack) => {
    const kernel = machine();
    kernel.remove(kernel.file(`/boot/config-${RELEASE}`));
    kernel.put(place, pack('CONFIG_VFIO=m\n# CONFIG_VFIO_PCI is not set\nCONFIG_IOMMU_SUPPORT=y\nCONFIG_IOMMUFD=m\n'));
    const found = check(kernel, 'kernel-options');
    expect(found).toMatchObject({ status: 'fail', advice: expect.any(String) });
    expect(found?.found).toContain('CONFIG_VFIO_PCI (there is no vfio-pci)');
    expect(found?.found).toContain('CONFIG_INTEL_IOMMU or CONFIG_AMD_IOMMU');
    expect(found?.found).not.toContain('VFIO_IOMMU_TYPE1');
  });

  test.each([
    ['nowhere', undefined],
    ['no text', Buffer.alloc(64)],
    ['no gzip', 'x'],
  ])('that are %s are unknown, which is no failure', (_, content) => {
    const kernel = machine();
    kernel.remove(kernel.file(`/boot/config-${RELEASE}`));
    if (content !== undefined) kernel.put('/proc/config.gz', content);
    expect(check(kernel, 'kernel-options')?.status).toBe('unknown');
    expect(canPassThrough(run(kernel))).toBe(true);
  });
});

describe('the IOMMU', () => {
  const without = () => {
    const kernel = new FakeKernel({ functions: [{ address: '0000:01:00.0' }] });
    kernel.put('/proc/cmdline', 'root=/dev/vda\n');
    return kernel;
  };

  test.each([
    ['an Intel machine', 'vendor_id\t: GenuineIntel\n', 'root=x', /VT-d .* intel_iommu=on/],
    [
      'an Intel machine that was told to use it',
      'vendor_id\t: GenuineIntel\n',
      'intel_iommu=on',
      /^switch on VT-d in the firmware/,
    ],
    ['an AMD machine', 'vendor_id\t: AuthenticAMD\n', 'root=x', /AMD-Vi/],
    ['one that was told not to use it', '', 'quiet intel_iommu=off', /started with intel_iommu=off/],
    ['another machine', '', '', /switch on the IOMMU/],
  ])('that is missing fails, with what to do on %s', (_, cpuinfo, cmdline, advice) => {
    const kernel = without();
    kernel.put('/proc/cpuinfo', cpuinfo);
    kernel.put('/proc/cmdline', `${cmdline}\n`);
    expect(check(kernel, 'iommu')).toMatchObject({ status: 'fail', advice: expect.stringMatching(advice) });
    expect(canPassThrough(run(kernel))).toBe(false);
  });

  test('that is missing on purpose (no-IOMMU mode) is a warning', () => {
    const kernel = without();
    kernel.put('/sys/module/vfio/parameters/enable_unsafe_noiommu_mode', 'Y\n');
    expect(check(kernel, 'iommu')?.status).toBe('warn');
  });

  test('is described by its units, groups and their kinds', () => {
    expect(check(machine(), 'iommu')?.found).toBe('dmar0 has 1 group (1 DMA-FQ)');
  });

  test('that leaves functions out is a warning that names them', () => {
    const kernel = machine();
    kernel.plug({ address: '0000:09:00.0' });
    kernel.plug({ address: '0000:00:1c.0', bridge: true, class: 0x060400 });
    expect(check(kernel, 'iommu-coverage')).toMatchObject({ status: 'warn', found: 'in no group: 0000:09:00.0' });
  });
});

test('interrupts that are not remapped fail on x86, warn where VFIO was told to do without, and are no matter elsewhere', () => {
  const kernel = machine();
  kernel.put('/proc/interrupts', ' 24:  0  PCI-MSI-0000:01:00.0  0-edge  nvme0q0\n');
  expect(check(kernel, 'interrupt-remapping')).toMatchObject({
    status: 'fail',
    advice: expect.stringContaining('intremap'),
  });
  expect(check(kernel, 'interrupt-remapping', { arch: 'arm64' })?.status).toBe('ok');
  kernel.put('/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts', 'Y\n');
  expect(check(kernel, 'interrupt-remapping')?.status).toBe('warn');
});

test('modules may be in the kernel, loadable or missing; iommufd stands in for type1', () => {
  const kernel = machine();
  expect(check(kernel, 'module-vfio_pci')?.found).toBe('vfio_pci can be loaded');
  kernel.put('/sys/module/vfio_pci/refcnt', '0\n');
  expect(check(kernel, 'module-vfio_pci')?.found).toBe('vfio_pci is in the kernel');
  kernel.put(`/lib/modules/${RELEASE}/modules.order`, '');
  expect(check(kernel, 'module-vfio_iommu_type1')).toMatchObject({ status: 'fail', advice: expect.any(String) });
  kernel.put(`/lib/modules/${RELEASE}/modules.builtin`, 'kernel/drivers/iommu/iommufd/iommufd.ko\n');
  expect(check(kernel, 'module-vfio_iommu_type1')).toMatchObject({
    status: 'ok',
    found: expect.stringContaining('iommufd'),
  });
});

test('device nodes that are missing are a warning', () => {
  const kernel = machine();
  kernel.remove(kernel.file('/dev/vfio/vfio'));
  expect(check(kernel, 'device-nodes')).toMatchObject({ status: 'warn', advice: expect.stringContaining('container') });
  kernel.put('/dev/iommu', '');
  expect(check(kernel, 'device-nodes')).toMatchObject({ status: 'ok', found: '/dev/iommu' });
});

test('device nodes that the user may not open are a warning that names them', () => {
  const kernel = machine();
  kernel.put('/dev/vfio/1', '');
  kernel.mayUse = (path) => !path.endsWith('/1');
  expect(check(kernel, 'device-permissions')).toMatchObject({
    status: 'warn',
    found: 'user 1000 may not open /dev/vfio/1',
    advice: expect.stringContaining('--owner'),
  });
});

test('little locked memory and few files are warnings with numbers; root is not limited', () => {
  const kernel = machine();
  kernel.put('/proc/self/limits', LIMITS('8388608', '256'));
  expect(check(kernel, 'locked-memory')).toMatchObject({
    status: 'warn',
    found: expect.stringMatching(/^8 MiB .*ENOMEM/),
  });
  expect(check(kernel, 'open-files')).toMatchObject({ status: 'warn', found: expect.stringMatching(/^256 files/) });
  expect(check(kernel, 'locked-memory', { uid: 0 })?.status).toBe('ok');
  kernel.put('/proc/self/limits', LIMITS('4294967296'));
  expect(check(kernel, 'locked-memory')).toMatchObject({ status: 'ok', found: '4096 MiB may be locked' });
});

test('a variant that the kernel lacks and a package has is named; one that the kernel has is not', () => {
  const kernel = machine();
  const installed = () => ({ driver: 'nvme_vfio_pci', package: '@vfio/nvme-vfio-pci' });
  expect(check(kernel, 'variant', { installed })?.found).toBe(
    'the kernel has only the generic driver for 0000:01:00.0: @vfio/nvme-vfio-pci stands in',
  );
  expect(check(kernel, 'variant', { installed: () => ({ driver: 'vfio-pci', package: undefined }) })).toBeUndefined();
  kernel.put(`/lib/modules/${RELEASE}/modules.alias`, 'alias vfio_pci:v*d*sv*sd*bc01sc08i02* nvme_vfio_pci\n');
  expect(check(kernel, 'variant', { installed })).toBeUndefined();
});
