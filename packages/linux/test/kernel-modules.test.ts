import { describe, expect, test } from 'vitest';
import { KernelModules } from '../src/index.js';
import { FakeKernel, type FakeOptions, RELEASE } from './helpers/fake-kernel.js';

const GENERIC = 'alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci';
const MLX5 = 'alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci';
const VF = { vendor: 0x15b3, device: 0x101e, subvendor: 0, subdevice: 0, class: 0x020000 };
const NIC = { vendor: 0x8086, device: 0x10d3, subvendor: 0, subdevice: 0, class: 0x020000 };

const modules = (options: FakeOptions) => new KernelModules(new FakeKernel(options));
const failure = (code: string, errno: string, message: RegExp) =>
  expect.objectContaining({ code, errno, message: expect.stringMatching(message) });

describe('the best kernel driver', () => {
  test('is the one with the fewest wildcards in modules.alias, whatever the order', () => {
    for (const aliases of [
      [MLX5, GENERIC],
      [GENERIC, MLX5],
    ]) {
      const kernel = modules({ aliases: [...aliases, 'alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core'] });
      expect(kernel.bestModule(VF)).toEqual({ module: 'mlx5_vfio_pci' });
      expect(kernel.bestModule(NIC)).toEqual({ module: 'vfio_pci' });
    }
  });

  test('may be built in: aliases of modules.builtin.modinfo count alike', () => {
    const kernel = new FakeKernel({ aliases: [GENERIC] });
    const record = `${MLX5.split(' ')[2]}.alias=${MLX5.split(' ')[1]}\0vfio.license=GPL\0`;
    kernel.put(`/lib/modules/${RELEASE}/modules.builtin.modinfo`, record);
    const found = new KernelModules(kernel);
    expect(found.bestModule(VF)).toEqual({ module: 'mlx5_vfio_pci' });
    expect(found.sources.map((path) => path.split('/').at(-1))).toEqual(['modules.alias', 'modules.builtin.modinfo']);
  });

  test('is the generic one where the files name none and it is in the kernel: older kernels keep no aliases of what is built in', () => {
    const asModule = modules({ aliases: [], drivers: [{ name: 'vfio-pci', module: 'vfio_pci' }] });
    expect(asModule.bestModule(VF)).toEqual({ module: 'vfio_pci' });
    const bare = modules({ drivers: [{ name: 'vfio-pci' }] });
    expect(bare.bestModule(VF)).toEqual({ driver: 'vfio-pci' });
    expect(bare.obtain({ driver: 'vfio-pci' })).toEqual({ name: 'vfio-pci', module: undefined });
  });

  test.each<[string, FakeOptions, RegExp]>([
    ['no folder of modules', {}, /no modules of kernel 7\.3\.4-test here \(looked in .*\/usr\/lib\/modules\/7/],
    ['files that name none', { aliases: ['alias usb:v1 x'] }, /modules\.alias name no VFIO driver/],
  ])('%s, and no generic driver: ENODEV and the reason', (_, options, message) => {
    expect(() => modules(options).bestModule(VF)).toThrow(failure('ERR_VFIO_NO_DRIVER', 'ENODEV', message));
  });

  test('without modules.alias the error tells of depmod', () => {
    const kernel = new FakeKernel();
    kernel.put(`/lib/modules/${RELEASE}/modules.order`, '');
    expect(() => new KernelModules(kernel).bestModule(VF)).toThrow(failure('ERR_VFIO_NO_DRIVER', 'ENODEV', /depmod/));
  });

  test('garbage in modules.alias is no driver and no crash', () => {
    const kernel = new FakeKernel({ drivers: [{ name: 'vfio-pci', module: 'vfio_pci' }] });
    kernel.put(`/lib/modules/${RELEASE}/modules.alias`, Buffer.alloc(100_000, 0xff));
    expect(new KernelModules(kernel).bestModule(VF)).toEqual({ module: 'vfio_pci' });
  });

  test('is looked for where LINUX_MODULE_DIRECTORY points, before other places', () => {
    const kernel = new FakeKernel({ aliases: [GENERIC] });
    kernel.put(`/other/${RELEASE}/modules.alias`, `${MLX5}\n`);
    const env = { LINUX_MODULE_DIRECTORY: kernel.file('/other') };
    const elsewhere = new KernelModules(Object.assign(kernel, { env }));
    expect(elsewhere.bestModule(VF)).toEqual({ module: 'mlx5_vfio_pci' });
  });
});

describe('the driver of a module', () => {
  test('is called as /sys/module says, whatever the module is called', () => {
    const kernel = modules({ drivers: [{ name: 'xe-vfio-pci', module: 'xe_vfio_pci' }] });
    expect(kernel.driverOf('xe_vfio_pci')).toEqual({ name: 'xe-vfio-pci', module: 'xe_vfio_pci' });
  });

  test('is loaded where it is not', () => {
    const kernel = new FakeKernel({ loadable: [{ name: 'vfio-pci', module: 'vfio_pci' }] });
    expect(new KernelModules(kernel).driverOf('vfio_pci')).toEqual({ name: 'vfio-pci', module: 'vfio_pci' });
    expect(kernel.programs).toEqual(['modprobe -- vfio_pci']);
  });

  test.each<[string, string, FakeOptions, string, RegExp]>([
    [
      'no modprobe',
      'vfio_pci',
      { modprobe: false },
      'ENOENT',
      /no modprobe here; load it on the host \(`modprobe vfio_pci`\)/,
    ],
    ['no such module', 'vfio_pci', {}, 'ENOENT', /could not be loaded: modprobe: FATAL: Module vfio_pci not found/],
  ])('%s is an error that says what to do', (_, module, options, errno, message) => {
    expect(() => modules(options).driverOf(module)).toThrow(failure('ERR_VFIO_NO_DRIVER', errno, message));
  });

  test('a module with none is ENODEV; one with several names them, and none is guessed', () => {
    const kernel = new FakeKernel({
      drivers: [
        { name: 'a-pci', module: 'two' },
        { name: 'b-pci', module: 'two' },
      ],
    });
    kernel.put('/sys/module/vfio/refcnt', '1\n');
    const found = new KernelModules(kernel);
    expect(() => found.driverOf('vfio')).toThrow(failure('ERR_VFIO_NO_DRIVER', 'ENODEV', /has no PCI driver/));
    expect(() => found.driverOf('two')).toThrow(failure('ERR_VFIO_NO_DRIVER', 'EINVAL', /a-pci, b-pci; name one/));
  });

  test('a name that a person gives is a driver where one is registered, else a module; a path is neither', () => {
    const kernel = modules({ drivers: [{ name: 'vfio-pci', module: 'vfio_pci' }] });
    expect(kernel.named('vfio-pci')).toEqual({ driver: 'vfio-pci' });
    expect(kernel.named('mlx5-vfio-pci')).toEqual({ module: 'mlx5_vfio_pci' });
    for (const name of ['../x', '', '-x', 'a b', 'a/b', `${'x'.repeat(200)}`]) {
      expect(() => kernel.named(name)).toThrow(failure('ERR_VFIO_INVALID_ARGUMENT', 'EINVAL', /name of a driver/));
    }
  });
});
