import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { errnoError, isVfioError } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import {
  type BindOptions,
  bind,
  KernelModules,
  LinuxPciHost,
  planBind,
  planRestore,
  planUnbind,
  SavedBindings,
  type Step,
  shellScript,
  type UnbindOptions,
  unbind,
  unbindScript,
} from '../src/index.js';
import { FakeKernel, type FakeOptions } from './helpers/fake-kernel.js';

const GENERIC = 'alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci';
const MLX5 = 'alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci';
const GPU = '0000:01:00.0';
const AUDIO = '0000:01:00.1';
const SERIAL = '0000:01:00.2';
const PORT = '0000:00:1c.0';
const VF = '0000:02:00.1';

const VFIO = { name: 'vfio-pci', module: 'vfio_pci' };

/** A GPU with its audio function and a third one without a driver in one group with their port, and a VF by itself. */
function machine(options: Partial<FakeOptions> = {}): FakeKernel {
  const at = `pci0000:00/${PORT}`;
  return new FakeKernel({
    aliases: [GENERIC, MLX5],
    drivers: [
      { name: 'pcieport', takes: [PORT] },
      { name: 'nouveau', module: 'nouveau', takes: [GPU] },
      { name: 'snd_hda_intel', module: 'snd_hda_intel' },
      { name: 'mlx5_core', module: 'mlx5_core', takes: [VF] },
      VFIO,
    ],
    loadable: [{ name: 'mlx5_vfio_pci', module: 'mlx5_vfio_pci' }],
    functions: [
      { address: PORT, class: 0x060400, bridge: true, group: 1, driver: 'pcieport' },
      { address: GPU, at, vendor: 0x10de, device: 0x1eb8, class: 0x030200, group: 1, driver: 'nouveau' },
      { address: AUDIO, at, class: 0x040300, group: 1, driver: 'snd_hda_intel', override: 'snd_hda_intel' },
      { address: SERIAL, at, class: 0x0c8000, group: 1 },
      { address: VF, vendor: 0x15b3, device: 0x101e, group: 2, driver: 'mlx5_core' },
    ],
    ...options,
  });
}

const functions = (host: LinuxPciHost, addresses: readonly string[]) =>
  addresses.map((address) => host.find(address) ?? expect.fail(`no ${address}`));

function doBind(kernel: FakeKernel, addresses: readonly string[], options: BindOptions = {}, steps: Step[] = []) {
  const host = new LinuxPciHost(kernel);
  const modules = new KernelModules(kernel);
  const plan = planBind(host, modules, functions(host, addresses), options);
  return bind(modules, plan, (step) => void steps.push(step));
}

function doUnbind(kernel: FakeKernel, addresses: readonly string[], options: UnbindOptions = {}) {
  const host = new LinuxPciHost(kernel);
  return unbind(host, new KernelModules(kernel), planUnbind(host, functions(host, addresses), options));
}

function caught(body: () => unknown) {
  try {
    body();
  } catch (error) {
    if (isVfioError(error)) return error;
    throw error;
  }
  return expect.fail('nothing was thrown');
}

/** Everything that a bind may leave behind. */
const traces = (kernel: FakeKernel) => ({
  state: kernel.state(),
  saved: new SavedBindings(kernel).addresses(),
  rules: kernel.list(kernel.file('/etc/udev/rules.d')),
  nodes: readdirSync(kernel.file('/dev/vfio'), { recursive: true }),
  owners: Object.fromEntries([...kernel.owners].filter(([path]) => existsSync(kernel.file(`/${path}`)))),
});

describe('vfio bind', () => {
  test('writes the override, unbinds, probes, and nothing else', () => {
    const kernel = machine();
    const [bound] = doBind(kernel, [VF], { driver: 'vfio-pci' });
    expect(bound).toMatchObject({ driver: VFIO, changed: true, before: { driver: 'mlx5_core', override: undefined } });
    expect(kernel.writes).toEqual([
      `"vfio-pci" > bus/pci/devices/${VF}/driver_override`,
      `"${VF}" > bus/pci/devices/${VF}/driver/unbind`,
      `"${VF}" > bus/pci/drivers_probe`,
    ]);
    expect(kernel.state()[VF]).toEqual(['vfio-pci', 'vfio-pci']);
    expect(bound?.nodes).toEqual(['/dev/vfio/2', expect.stringMatching(/^\/dev\/vfio\/devices\/vfio\d+$/)]);
  });

  test('takes the best driver, loads its module first, and its name from the kernel', () => {
    const kernel = machine({ loadable: [{ name: 'odd-name', module: 'mlx5_vfio_pci' }] });
    expect(doBind(kernel, [VF])[0]?.driver).toEqual({ name: 'odd-name', module: 'mlx5_vfio_pci' });
    expect(kernel.programs).toEqual(['modprobe -- mlx5_vfio_pci']);
    expect(kernel.state()[VF]).toEqual(['odd-name', 'odd-name']);
  });

  test('of what is bound already writes nothing at all', () => {
    const kernel = machine();
    doBind(kernel, [VF]);
    kernel.writes.length = 0;
    const before = traces(kernel);
    expect(doBind(kernel, [VF])).toMatchObject([{ changed: false, driver: { name: 'mlx5_vfio_pci' } }]);
    expect(kernel.writes).toEqual([]);
    expect(traces(kernel)).toEqual(before);
  });

  test('takes a function that has no driver: nothing to unbind', () => {
    const kernel = machine();
    doBind(kernel, [SERIAL], { group: true });
    expect(kernel.writes.filter((line) => line.includes(SERIAL))).toEqual([
      `"vfio-pci" > bus/pci/devices/${SERIAL}/driver_override`,
      `"${SERIAL}" > bus/pci/drivers_probe`,
    ]);
  });

  test('refuses a group whose other functions host drivers have, and names them; --group binds all but bridges', () => {
    const kernel = machine();
    const error = caught(() => doBind(kernel, [GPU]));
    expect(error).toMatchObject({ code: 'ERR_VFIO_BUSY', errno: 'EBUSY', device: GPU });
    expect(error.message).toContain(`${AUDIO} (snd_hda_intel)`);
    expect(error.message).not.toContain(SERIAL);
    expect(error.details).toMatchObject({ companions: [AUDIO], try: expect.stringContaining('--group') });
    expect(kernel.writes).toEqual([]);
    const bound = doBind(kernel, [GPU], { group: true });
    expect(bound.map(({ fn, companion }) => [fn.address, companion])).toEqual([
      [GPU, false],
      [AUDIO, true],
      [SERIAL, true],
    ]);
    expect(kernel.state()[PORT]).toEqual(['pcieport', '(null)']);
    expect(kernel.writes.filter((line) => line.includes(PORT))).toEqual([]);
  });

  test.each(['pci-stub', undefined])('a companion that %s has is in nobody’s way', (driver) => {
    const kernel = new FakeKernel({
      aliases: [GENERIC],
      drivers: [VFIO, { name: 'pci-stub' }],
      functions: [
        { address: GPU, group: 1 },
        { address: AUDIO, group: 1, ...(driver === undefined ? {} : { driver }) },
      ],
    });
    doBind(kernel, [GPU]);
    expect(kernel.state()[AUDIO]).toEqual([driver, '(null)']);
  });

  test('naming all functions of a group needs no --group; naming one twice is naming it once', () => {
    const kernel = machine();
    doBind(kernel, [GPU, AUDIO, GPU]);
    expect(kernel.state()).toMatchObject({ [GPU]: ['vfio-pci', 'vfio-pci'], [AUDIO]: ['vfio-pci', 'vfio-pci'] });
  });

  test('refuses a bridge, a function without an IOMMU group, and an unknown user, with the next step', () => {
    const kernel = machine();
    kernel.plug({ address: '0000:03:00.0' });
    expect(caught(() => doBind(kernel, [PORT]))).toMatchObject({ errno: 'EINVAL', details: { try: /behind it/ } });
    const error = caught(() => doBind(kernel, ['0000:03:00.0']));
    expect(error).toMatchObject({ errno: 'ENODEV', message: expect.stringContaining('no IOMMU group') });
    expect(error.details?.['try']).toContain('vfio doctor');
    expect(caught(() => doBind(kernel, [VF], { owner: 'nobody-here' })).message).toContain('no user "nobody-here"');
    expect(kernel.writes).toEqual([]);
  });

  test('without an IOMMU takes a function where no-IOMMU mode was switched on in the kernel', () => {
    const kernel = new FakeKernel({ aliases: [GENERIC], drivers: [VFIO], functions: [{ address: VF }] });
    kernel.put('/sys/module/vfio/parameters/enable_unsafe_noiommu_mode', 'Y\n');
    expect(doBind(kernel, [VF])).toMatchObject([{ changed: true }]);
  });

  test('refuses what the system stands on, a companion too, unless forced', () => {
    const kernel = machine();
    kernel.put(`/sys/devices/pci0000:00/${PORT}/${AUDIO}/boot_vga`, '1\n');
    const error = caught(() => doBind(kernel, [GPU], { group: true }));
    expect(error).toMatchObject({
      errno: 'EBUSY',
      device: AUDIO,
      details: { try: expect.stringContaining('--force') },
    });
    expect(error.message).toContain('display that the machine booted on');
    expect(kernel.writes).toEqual([]);
    expect(doBind(kernel, [GPU], { group: true, force: true })).toHaveLength(3);
  });

  test('refuses a physical function that has virtual ones: VFIO would, after its driver has gone', () => {
    const kernel = machine();
    kernel.plug({ address: '0000:04:00.0', group: 4, numVfs: 2 });
    const error = caught(() => doBind(kernel, ['0000:04:00.0']));
    expect(error).toMatchObject({ errno: 'EBUSY', message: expect.stringContaining('2 virtual functions') });
    expect(error.details?.['try']).toContain('sriov_numvfs');
  });

  test('refuses to take a function from a program that has it open', () => {
    const kernel = machine();
    doBind(kernel, [VF], { driver: 'vfio-pci' });
    kernel.put('/proc/77/comm', 'qemu-system-x86\n');
    const target = kernel.file('/dev/vfio/2');
    kernel.linkTarget = (path) =>
      path.endsWith('/77/fd/5') ? '/dev/vfio/2' : FakeKernel.prototype.linkTarget.call(kernel, path);
    kernel.put('/proc/77/fd/5', '');
    expect(existsSync(target)).toBe(true);
    const error = caught(() => doBind(kernel, [VF]));
    expect(error).toMatchObject({ errno: 'EBUSY', message: expect.stringContaining('qemu-system-x86 (pid 77)') });
    expect(caught(() => doUnbind(kernel, [VF]))).toMatchObject({ errno: 'EBUSY' });
    expect(doUnbind(kernel, [VF], { force: true })).toMatchObject([{ changed: true }]);
  });

  test('--owner gives the device nodes to a user, after udev has settled', () => {
    const kernel = machine();
    doBind(kernel, [VF], { owner: 'alice' });
    expect(kernel.programs).toContain('udevadm settle --timeout=10');
    const [group, cdev] = [...kernel.owners];
    expect(group).toEqual(['dev/vfio/2', 1000]);
    expect(cdev).toEqual([expect.stringMatching(/^dev\/vfio\/devices\/vfio\d+$/), 1000]);
  });

  test('--driver forces one for what was named, not for companions', () => {
    const kernel = machine({ loadable: [{ name: 'other', module: 'other_pci' }] });
    doBind(kernel, [GPU], { driver: 'other-pci', group: true });
    expect(kernel.state()).toMatchObject({ [GPU]: ['other', 'other'], [AUDIO]: ['vfio-pci', 'vfio-pci'] });
  });

  test('a driver that refuses a function is an error with the reason that its probe gives, and the host driver is back', () => {
    const kernel = machine({
      drivers: [
        { name: 'mlx5_core', module: 'mlx5_core', takes: [VF] },
        { ...VFIO, refuses: { [VF]: 'EINVAL' } },
      ],
      functions: [{ address: VF, group: 2, driver: 'mlx5_core' }],
    });
    const before = traces(kernel);
    const error = caught(() => doBind(kernel, [VF]));
    expect(error).toMatchObject({ code: 'ERR_VFIO_IO', device: VF, details: { refused: 'EINVAL', restored: true } });
    expect(error.message).toMatch(/vfio-pci refuses it \(EINVAL\); every function is as it was$/);
    expect(traces(kernel)).toEqual(before);
  });

  test('a module that cannot be had leaves everything as it was, because nothing was touched', () => {
    const kernel = machine({ modprobe: false });
    expect(caught(() => doBind(kernel, [VF]))).toMatchObject({ code: 'ERR_VFIO_NO_DRIVER', errno: 'ENOENT' });
    expect(kernel.writes).toEqual([]);
  });

  const ALL: BindOptions = { group: true, owner: 'alice', persist: true };
  const count = (() => {
    const kernel = machine();
    doBind(kernel, [GPU, VF], ALL);
    return kernel.writes.length;
  })();

  describe.each(['before', 'after'] as const)('a write that fails %s it had its effect', (when) => {
    test.each(Array.from({ length: count }, (_, index) => index + 1))(
      'write %i: all four functions are as they were',
      (at) => {
        const kernel = machine();
        const before = traces(kernel);
        kernel[`${when}Write`] = (number) => {
          if (number === at) throw errnoError('EIO', 'injected');
        };
        const error = caught(() => doBind(kernel, [GPU, VF], ALL));
        expect(error.details).toMatchObject({ restored: true });
        expect(error.message).toMatch(/every function is as it was$/);
        expect(traces(kernel)).toEqual(before);
      },
    );
  });

  test.each(Array.from({ length: count }, (_, index) => index + 1))(
    'a function that is unplugged at write %i: the others are as they were',
    (at) => {
      const kernel = machine();
      const before = kernel.state();
      kernel.beforeWrite = (number) => {
        if (number === at) kernel.unplug(AUDIO);
      };
      const { [AUDIO]: _, ...others } = before;
      try {
        doBind(kernel, [GPU, VF], ALL);
      } catch (error) {
        expect(error).toMatchObject({ details: { restored: true } });
        expect(kernel.state()).toEqual(others);
        return;
      }
      // It went when it had been bound, and nothing was asked of it any more.
      expect(kernel.state()[GPU]).toEqual(['vfio-pci', 'vfio-pci']);
    },
  );

  test('what cannot be put back is named, with the lines that do it by hand', () => {
    const kernel = machine();
    kernel.beforeWrite = (number) => {
      if (number >= 3) throw errnoError('EIO', 'injected');
    };
    const error = caught(() => doBind(kernel, [VF], { driver: 'vfio-pci' }));
    expect(error.details).toMatchObject({ restored: false });
    expect(error.message).toContain(`${VF} is not as it was (injected); by hand: echo mlx5_core > `);
    expect(error.message).toContain(`/bus/pci/drivers/mlx5_core/bind && echo > `);
  });

  test('what the kernel or the file system forbids is told with the next step', () => {
    const kernel = machine();
    kernel.beforeWrite = () => {
      throw Object.assign(errnoError('EACCES', 'EACCES'), { code: 'ERR_VFIO_SYSCALL' });
    };
    expect(caught(() => doBind(kernel, [VF])).details).toMatchObject({ try: expect.stringContaining('sudo') });
    kernel.beforeWrite = () => {
      throw Object.assign(errnoError('EROFS', 'EROFS'), { code: 'ERR_VFIO_SYSCALL' });
    };
    expect(caught(() => doBind(kernel, [VF])).details).toMatchObject({ try: expect.stringContaining('read-only') });
  });
});

describe('a dry run', () => {
  test('shows each write as a line for a shell, and the lines do what bind does', () => {
    const kernel = machine();
    const host = new LinuxPciHost(kernel);
    const modules = new KernelModules(kernel);
    const plan = planBind(host, modules, functions(host, [VF]), { driver: 'vfio-pci', owner: 'alice' });
    const sys = kernel.file('/sys');
    expect(shellScript(plan)).toEqual([
      `echo vfio-pci > ${sys}/bus/pci/devices/${VF}/driver_override`,
      `echo ${VF} > ${sys}/bus/pci/devices/${VF}/driver/unbind`,
      `echo ${VF} > ${sys}/bus/pci/drivers_probe`,
      'chown alice /dev/vfio/2',
    ]);
    expect(kernel.writes).toEqual([]);
    expect(kernel.programs).toEqual(['id -u alice']);
  });

  test('loads nothing, and does not guess what a module’s driver is called', () => {
    const kernel = machine();
    const host = new LinuxPciHost(kernel);
    const lines = shellScript(planBind(host, new KernelModules(kernel), functions(host, [VF])));
    expect(lines[0]).toBe('modprobe mlx5_vfio_pci');
    expect(lines[1]).toMatch(/^echo \$\(ls .*\/sys\/module\/mlx5_vfio_pci\/drivers \| sed -n 's\/\^pci:\/\/p'\) > /);
    expect(kernel.programs).toEqual([]);
  });

  test('of unbind shows what goes back', () => {
    const kernel = machine();
    doBind(kernel, [VF], { driver: 'vfio-pci' });
    const host = new LinuxPciHost(kernel);
    const sys = kernel.file('/sys/bus/pci');
    expect(unbindScript(planUnbind(host, functions(host, [VF])))).toEqual([
      `echo ${VF} > ${sys}/devices/${VF}/driver/unbind`,
      `echo mlx5_core > ${sys}/devices/${VF}/driver_override`,
      `echo ${VF} > ${sys}/drivers/mlx5_core/bind`,
      `echo > ${sys}/devices/${VF}/driver_override`,
    ]);
  });
});

describe('vfio unbind and vfio restore', () => {
  test('give back driver and override of before, in whatever way it had them', () => {
    const kernel = machine();
    const before = kernel.state();
    doBind(kernel, [GPU, VF], { group: true });
    doUnbind(kernel, [GPU, VF], { group: true });
    expect(kernel.state()).toEqual(before);
    expect(new SavedBindings(kernel).addresses()).toEqual([]);
  });

  test('a driver of before that has been unloaded since is loaded again', () => {
    const kernel = machine({ loadable: [{ name: 'mlx5_core', module: 'mlx5_core', takes: [] }] });
    doBind(kernel, [VF], { driver: 'vfio-pci' });
    kernel.unregister('mlx5_core');
    doUnbind(kernel, [VF]);
    expect(kernel.programs).toContain('modprobe -- mlx5_core');
    expect(kernel.state()[VF]).toEqual(['mlx5_core', '(null)']);
  });

  test('from one VFIO driver to another and back is back where it began', () => {
    const kernel = machine();
    doBind(kernel, [VF], { driver: 'vfio-pci' });
    doBind(kernel, [VF]);
    expect(kernel.state()[VF]).toEqual(['mlx5_vfio_pci', 'mlx5_vfio_pci']);
    doUnbind(kernel, [VF]);
    expect(kernel.state()[VF]).toEqual(['mlx5_core', '(null)']);
  });

  test('of what others bound clears the override and lets the kernel choose', () => {
    const kernel = machine();
    kernel.write(kernel.sys('bus/pci/devices', VF, 'driver_override'), 'vfio-pci');
    kernel.write(kernel.sys('bus/pci/devices', VF, 'driver/unbind'), VF);
    kernel.write(kernel.sys('bus/pci/drivers_probe'), VF);
    expect(doUnbind(kernel, [VF])).toMatchObject([
      { known: false, after: { driver: 'mlx5_core', override: undefined } },
    ]);
  });

  test('of what no VFIO driver has writes nothing', () => {
    const kernel = machine();
    expect(doUnbind(kernel, [VF, SERIAL])).toMatchObject([{ changed: false }, { changed: false }]);
    expect(kernel.writes).toEqual([]);
  });

  test('restore gives back everything, also after a reboot has done it already', () => {
    const kernel = machine();
    const before = kernel.state();
    doBind(kernel, [GPU, VF], { group: true });
    const restore = () => {
      const host = new LinuxPciHost(kernel);
      return unbind(host, new KernelModules(kernel), planRestore(host));
    };
    expect(restore().map(({ fn }) => fn.address)).toEqual([GPU, AUDIO, SERIAL, VF]);
    expect(kernel.state()).toEqual(before);
    const saved = new SavedBindings(kernel);
    const [fn] = functions(new LinuxPciHost(kernel), [VF]);
    if (fn !== undefined) kernel.replace(saved.path(VF), saved.content(fn, 'vfio-pci'));
    kernel.writes.length = 0;
    expect(restore()).toMatchObject([{ changed: false }]);
    expect(kernel.writes).toEqual([]);
    expect(saved.addresses()).toEqual([]);
  });

  test('a record of a function that has gone, or of another one at its place, is dropped and touches nothing', () => {
    const kernel = machine();
    doBind(kernel, [VF], { driver: 'vfio-pci' });
    kernel.unplug(VF);
    kernel.plug({ address: VF, vendor: 0x8086, group: 2, override: 'vfio-pci', driver: 'vfio-pci' });
    const host = new LinuxPciHost(kernel);
    const plan = planRestore(host);
    expect(plan).toMatchObject({ functions: [], stale: [VF] });
    unbind(host, new KernelModules(kernel), plan);
    expect(new SavedBindings(kernel).addresses()).toEqual([]);
    expect(kernel.state()[VF]).toEqual(['vfio-pci', 'vfio-pci']);
  });

  test.each([
    ['no JSON', '{'],
    ['another version', '{"version":2}'],
    ['null', 'null'],
    ['a path for a name', (text: string) => text.replace('"driver": "mlx5_core"', '"driver": "../../x"')],
    ['another address', (text: string) => text.replace(VF, GPU)],
    ['a number for a name', (text: string) => text.replace('"driver": "mlx5_core"', '"driver": 5')],
  ])('a record that is %s is as none: the kernel chooses', (_, content) => {
    const kernel = machine();
    doBind(kernel, [VF], { driver: 'vfio-pci' });
    const path = new SavedBindings(kernel).path(VF);
    const text = readFileSync(path, 'utf8');
    kernel.replace(path, typeof content === 'string' ? content : content(text));
    expect(doUnbind(kernel, [VF])).toMatchObject([
      { known: false, after: { driver: 'mlx5_core', override: undefined } },
    ]);
    expect(existsSync(path)).toBe(false);
  });

  const count = (() => {
    const kernel = machine();
    doBind(kernel, [GPU, VF], { group: true });
    kernel.writes.length = 0;
    doUnbind(kernel, [GPU, VF], { group: true });
    return kernel.writes.length;
  })();

  test.each(Array.from({ length: count }, (_, index) => index + 1))(
    'write %i fails: all stay bound, and the records stay',
    (at) => {
      const kernel = machine();
      doBind(kernel, [GPU, VF], { group: true, persist: true });
      const before = traces(kernel);
      kernel.writes.length = 0;
      kernel.beforeWrite = (number) => {
        if (number === at) throw errnoError('EIO', 'injected');
      };
      expect(caught(() => doUnbind(kernel, [GPU, VF], { group: true }))).toMatchObject({ details: { restored: true } });
      expect(traces(kernel)).toEqual(before);
    },
  );
});

describe('--persist', () => {
  const rule = (kernel: FakeKernel, address: string) =>
    kernel.text(kernel.file(`/etc/udev/rules.d/70-vfio-${address}.rules`));

  test('writes a udev rule for this function and no other, shown before it is written; unbind removes it', () => {
    const kernel = machine();
    const steps: Step[] = [];
    doBind(kernel, [VF], { driver: 'vfio-pci', persist: true, owner: 'alice' }, steps);
    const text = rule(kernel, VF) ?? '';
    expect(steps.at(-1)).toMatchObject({ kind: 'file', content: text });
    expect(text).toMatch(/^# Written by `vfio bind --persist`/);
    expect(text).toContain(
      `KERNEL=="${VF}", ATTR{vendor}=="0x15b3", ATTR{device}=="0x101e", ATTR{driver_override}="vfio-pci"`,
    );
    expect(text).toContain(`TEST=="/sys/kernel/iommu_groups/%k/devices/${VF}", OWNER="alice"`);
    doUnbind(kernel, [VF]);
    expect(rule(kernel, VF)).toBeUndefined();
  });

  test('of what is bound already writes the rule and leaves the function alone', () => {
    const kernel = machine();
    doBind(kernel, [VF]);
    kernel.writes.length = 0;
    doBind(kernel, [VF], { persist: true });
    expect(kernel.writes).toEqual([]);
    expect(rule(kernel, VF)).toContain('mlx5_vfio_pci');
  });

  test('where driverctl is installed writes its state, and unbind takes back only what names the driver', () => {
    const kernel = machine();
    kernel.put('/usr/sbin/driverctl', '');
    const state = () => kernel.text(kernel.file(`/etc/driverctl.d/pci-${VF}`));
    doBind(kernel, [VF], { driver: 'vfio-pci', persist: true });
    expect(state()).toBe('vfio-pci\n');
    expect(rule(kernel, VF)).toBeUndefined();
    doUnbind(kernel, [VF]);
    expect(state()).toBeUndefined();
    kernel.put(`/etc/driverctl.d/pci-${VF}`, 'other\n');
    doBind(kernel, [VF], { driver: 'vfio-pci' });
    doUnbind(kernel, [VF]);
    expect(state()).toBe('other\n');
  });
});
