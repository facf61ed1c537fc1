import type { LinuxPciFunction } from './function.js';
import type { LinuxPciHost } from './host.js';
import { readKernelConfig } from './kernel-config.js';
import { GENERIC_DRIVER, GENERIC_MODULE, isSwitchedOn, KernelModules } from './kernel-modules.js';
import type { LinuxSystem } from './system.js';

/** `fail`: passthrough cannot work so; `warn`: some of it may not; `unknown`: it could not be found out. */
export type CheckStatus = 'ok' | 'warn' | 'fail' | 'unknown';

/** One thing that passthrough needs. */
export interface DoctorCheck {
  /** Stable, for programs: `iommu`, `interrupt-remapping`, ... */
  readonly name: string;
  readonly status: CheckStatus;
  /** What was found, one sentence. */
  readonly found: string;
  /** What to do; undefined where there is nothing. */
  readonly advice?: string;
}

export interface DoctorOptions {
  /** The best of our drivers for a function, for the comparison with the kernel's. */
  readonly installed?: (
    fn: LinuxPciFunction,
  ) => { readonly driver: string; readonly package: string | undefined } | undefined;
  /** Node's word for the machine's architecture. */
  readonly arch?: string;
  /** The user who asks; 0 may do everything. */
  readonly uid?: number;
}

/** What VFIO needs of the kernel's options, and what without them is not possible. */
const OPTIONS: readonly (readonly [name: string, why: string, oneOf?: readonly string[]])[] = [
  ['VFIO', 'there is no VFIO'],
  ['VFIO_PCI', 'there is no vfio-pci'],
  ['VFIO_IOMMU_TYPE1', 'programs have no way to map memory', ['VFIO_IOMMU_TYPE1', 'IOMMUFD']],
  ['IOMMU_SUPPORT', 'IOMMUs are not driven'],
];

/** Drivers of IOMMUs by architecture: one of them must be there. */
const IOMMU_OPTIONS: Readonly<Record<string, readonly string[]>> = {
  x64: ['INTEL_IOMMU', 'AMD_IOMMU', 'VIRTIO_IOMMU'],
  arm64: ['ARM_SMMU_V3', 'ARM_SMMU', 'VIRTIO_IOMMU'],
};

/** Bytes of locked memory below which mapping a guest fails; a VMM needs its guest's memory and some more. */
const LITTLE_MEMORY = 64 * 1024 * 1024;
/** A VM with many devices and queues holds hundreds of eventfds. */
const FEW_FILES = 1024;

/** Looks at everything that passthrough needs of this machine. Reads only; no root is needed, though root sees more. */
export function examine(host: LinuxPciHost, options: DoctorOptions = {}): DoctorCheck[] {
  const { system } = host;
  const modules = new KernelModules(system);
  const uid = options.uid ?? process.getuid?.() ?? 0;
  const arch = options.arch ?? process.arch;
  return [
    kernelOptions(system, arch),
    ...iommu(host),
    interruptRemapping(system, arch),
    ...vfioModules(system, modules),
    ...deviceNodeAccess(system, uid),
    ...limits(system, uid),
    ...variants(host, modules, options),
  ];
}

/** Whether passthrough can work: nothing failed. */
export const canPassThrough = (checks: readonly DoctorCheck[]): boolean =>
  checks.every(({ status }) => status !== 'fail');

function kernelOptions(system: LinuxSystem, arch: string): DoctorCheck {
  const name = 'kernel-options';
  const config = readKernelConfig(system);
  if (config === undefined) {
    const advice =
      'the other checks tell more; a kernel with CONFIG_IKCONFIG_PROC shows its options in /proc/config.gz';
    return { name, status: 'unknown', found: `no file has the options of kernel ${system.release}`, advice };
  }
  const isSet = (option: string): boolean => ['y', 'm'].includes(config.option(option) ?? '');
  const drivers = IOMMU_OPTIONS[arch];
  const wanted =
    drivers === undefined ? OPTIONS : [...OPTIONS, ['IOMMU driver', 'no IOMMU is driven', drivers] as const];
  const missing = wanted.filter(([option, , oneOf = [option]]) => !oneOf.some(isSet));
  if (missing.length === 0) return { name, status: 'ok', found: `all that VFIO needs is set in ${config.path}` };
  const list = missing.map(
    ([option, why, oneOf = [option]]) => `${oneOf.map((one) => `CONFIG_${one}`).join(' or ')} (${why})`,
  );
  return {
    name,
    status: 'fail',
    found: `not set in ${config.path}: ${list.join(', ')}`,
    advice: 'boot a kernel that has them; those of the large distributions do',
  };
}

function iommu(host: LinuxPciHost): DoctorCheck[] {
  const { system } = host;
  const name = 'iommu';
  const units = system.list(system.sys('class/iommu'));
  const groups = system.list(system.sys('kernel/iommu_groups'));
  if (groups.length === 0) {
    const isNoIommu = isSwitchedOn(system, 'vfio', 'enable_unsafe_noiommu_mode');
    const found =
      units.length === 0
        ? 'the kernel drives no IOMMU'
        : `an IOMMU is there (${units.join(', ')}), and it has no groups`;
    return [
      isNoIommu
        ? {
            name,
            status: 'warn',
            found: `${found}; VFIO’s no-IOMMU mode is on`,
            advice: 'devices can overwrite all memory in that mode: use an IOMMU where there is one',
          }
        : { name, status: 'fail', found, advice: iommuAdvice(system) },
    ];
  }
  const endpoints = host.functions().filter((fn) => fn.headerType === 0);
  const outside = endpoints.filter((fn) => fn.iommuGroup === undefined);
  const kinds = new Map<string, number>();
  for (const group of groups) {
    const kind = system.attribute(system.sys('kernel/iommu_groups', group, 'type')) ?? '?';
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  const types = [...kinds].filter(([kind]) => kind !== '?').map(([kind, count]) => `${count} ${kind}`);
  const how = types.length === 0 ? '' : ` (${types.join(', ')})`;
  const found = `${units.length === 0 ? 'the IOMMU' : units.join(', ')} has ${groups.length} group${groups.length === 1 ? '' : 's'}${how}`;
  const checks: DoctorCheck[] = [{ name, status: 'ok', found }];
  if (outside.length > 0 && outside.length < endpoints.length) {
    checks.push({
      name: 'iommu-coverage',
      status: 'warn',
      found: `in no group: ${outside.map(({ address }) => address).join(', ')}`,
      advice: 'these functions cannot be passed through; a BIOS update or another slot may help',
    });
  }
  return checks;
}

function iommuAdvice(system: LinuxSystem): string {
  const words = (system.text(system.file('/proc/cmdline')) ?? '').split(/\s+/);
  const off = words.find((word) => /^(intel_iommu|amd_iommu|iommu)=off$/.test(word));
  if (off !== undefined) return `the kernel was started with ${off}: take it out of the command line and reboot`;
  const vendor = /^vendor_id\s*:\s*(\S+)/m.exec(system.text(system.file('/proc/cpuinfo')) ?? '')?.[1];
  if (vendor === 'GenuineIntel') {
    return words.includes('intel_iommu=on')
      ? 'switch on VT-d in the firmware’s setup (or give the virtual machine an IOMMU)'
      : 'switch on VT-d in the firmware’s setup, add intel_iommu=on to the kernel’s command line, and reboot';
  }
  if (vendor === 'AuthenticAMD') return 'switch on AMD-Vi (also called IOMMU) in the firmware’s setup, and reboot';
  return 'switch on the IOMMU in the firmware’s setup, and reboot; a virtual machine has to be given one';
}

function interruptRemapping(system: LinuxSystem, arch: string): DoctorCheck {
  const name = 'interrupt-remapping';
  if (arch !== 'x64' && arch !== 'ia32') return { name, status: 'ok', found: `${arch} needs none` };
  // The names of interrupt chips that remap begin with IR.
  const interrupts = system.text(system.file('/proc/interrupts'));
  if (interrupts === undefined) return { name, status: 'unknown', found: 'there is no /proc/interrupts' };
  if (/\bIR-/.test(interrupts)) return { name, status: 'ok', found: 'interrupts are remapped' };
  if (isSwitchedOn(system, 'vfio_iommu_type1', 'allow_unsafe_interrupts')) {
    const found = 'interrupts are not remapped, and VFIO was told to do without (allow_unsafe_interrupts)';
    return {
      name,
      status: 'warn',
      found,
      advice: 'a guest can then raise any interrupt of the host: trust it, or switch remapping on',
    };
  }
  return {
    name,
    status: 'fail',
    found: 'interrupts are not remapped, and VFIO refuses every group with EPERM',
    advice:
      'switch it on in the firmware’s setup (often with x2APIC); take intremap=off and nointremap from the kernel’s command line; a ' +
      'virtual machine needs it of its IOMMU (QEMU: intel-iommu,intremap=on)',
  };
}

function vfioModules(system: LinuxSystem, modules: KernelModules): DoctorCheck[] {
  const available = availableModules(system, modules);
  return ['vfio_pci', 'vfio_iommu_type1'].map((module): DoctorCheck => {
    const name = `module-${module}`;
    if (modules.isLoaded(module)) return { name, status: 'ok', found: `${module} is in the kernel` };
    if (available.has(module)) return { name, status: 'ok', found: `${module} can be loaded` };
    if (module === 'vfio_iommu_type1' && (modules.isLoaded('iommufd') || available.has('iommufd')))
      return { name, status: 'ok', found: `${module} is not there, iommufd is` };
    return {
      name,
      status: 'fail',
      found: `kernel ${system.release} has no module ${module}`,
      advice:
        'install the package with the rest of the kernel’s modules (Debian: linux-image, Fedora: kernel-modules), or another kernel',
    };
  });
}

/** Names of all modules of the running kernel, loaded or not, built in or not. */
function availableModules(system: LinuxSystem, modules: KernelModules): Set<string> {
  const { directory } = modules;
  const found = new Set<string>();
  if (directory === undefined) return found;
  for (const file of ['modules.dep', 'modules.order', 'modules.builtin']) {
    const text = system.text(`${directory}/${file}`) ?? '';
    for (const [, name = ''] of text.matchAll(/^(?:[^:\s]*\/)?([^/:\s]+)\.ko(?:\.\w+)?(?=:|\s|$)/gm)) {
      found.add(name.replaceAll('-', '_'));
    }
  }
  return found;
}

function deviceNodeAccess(system: LinuxSystem, uid: number): DoctorCheck[] {
  const nodes = [
    '/dev/vfio/vfio',
    '/dev/iommu',
    ...system
      .list(system.file('/dev/vfio'))
      .filter((name) => /^(noiommu-)?\d+$/.test(name))
      .map((name) => `/dev/vfio/${name}`),
    ...system.list(system.file('/dev/vfio/devices')).map((name) => `/dev/vfio/devices/${name}`),
  ].filter((node) => system.exists(system.file(node)));
  const container = nodes.some((node) => node === '/dev/vfio/vfio' || node === '/dev/iommu');
  const checks: DoctorCheck[] = [
    container
      ? { name: 'device-nodes', status: 'ok', found: nodes.join(', ') }
      : {
          name: 'device-nodes',
          status: 'warn',
          found: 'neither /dev/vfio/vfio nor /dev/iommu is there',
          advice: 'they come when the vfio modules are loaded; a container has to be given them',
        },
  ];
  const closed = nodes.filter((node) => !system.mayUse(system.file(node)));
  if (closed.length > 0) {
    checks.push({
      name: 'device-permissions',
      status: 'warn',
      found: `user ${uid} may not open ${closed.join(', ')}`,
      advice: '`vfio bind --owner USER` gives the nodes of a function to a user',
    });
  }
  return checks;
}

function limits(system: LinuxSystem, uid: number): DoctorCheck[] {
  const text = system.text(system.file('/proc/self/limits')) ?? '';
  const limit = (label: string): number | undefined => {
    const soft = new RegExp(`^${label}\\s+(\\S+)`, 'm').exec(text)?.[1];
    return soft === undefined ? undefined : soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
  };
  const checks: DoctorCheck[] = [];
  const memory = limit('Max locked memory');
  const mebibytes = (bytes: number): string => `${Math.floor(bytes / 1024 ** 2)} MiB`;
  if (memory === undefined) {
    checks.push({ name: 'locked-memory', status: 'unknown', found: '/proc/self/limits does not say' });
  } else if (uid === 0 || memory === Number.POSITIVE_INFINITY) {
    const found = uid === 0 ? 'root is not limited' : 'not limited';
    checks.push({ name: 'locked-memory', status: 'ok', found });
  } else if (memory < LITTLE_MEMORY) {
    checks.push({
      name: 'locked-memory',
      status: 'warn',
      found: `${mebibytes(memory)} may be locked: what is mapped beyond that fails with ENOMEM`,
      advice:
        'raise it to the guest’s memory and 1 GiB more: `ulimit -l`, LimitMEMLOCK= of a service, /etc/security/limits.conf',
    });
  } else checks.push({ name: 'locked-memory', status: 'ok', found: `${mebibytes(memory)} may be locked` });
  const files = limit('Max open files');
  if (files !== undefined && files < FEW_FILES) {
    const found = `${files} files may be open: a VM with many queues needs more`;
    checks.push({ name: 'open-files', status: 'warn', found, advice: '`ulimit -n`, LimitNOFILE= of a service' });
  } else if (files !== undefined) {
    checks.push({
      name: 'open-files',
      status: 'ok',
      found: `${files === Number.POSITIVE_INFINITY ? 'any number of' : files} files may be open`,
    });
  }
  return checks;
}

/** Functions for which we have a variant and the kernel only the generic driver. */
function variants(host: LinuxPciHost, modules: KernelModules, options: DoctorOptions): DoctorCheck[] {
  const { installed } = options;
  if (installed === undefined) return [];
  const missing = new Map<string, string[]>();
  for (const fn of host.functions()) {
    if (fn.headerType !== 0) continue;
    const ours = installed(fn);
    if (ours === undefined || ours.driver === GENERIC_DRIVER) continue;
    const kernels = modules.best(fn)?.driver;
    if (kernels !== undefined && kernels !== GENERIC_MODULE) continue;
    const by = `${ours.package ?? ours.driver} stands in`;
    missing.set(by, [...(missing.get(by) ?? []), fn.address]);
  }
  return [...missing].map(([by, addresses]) => ({
    name: 'variant',
    status: 'ok',
    found: `the kernel has only the generic driver for ${addresses.join(', ')}: ${by}`,
  }));
}
