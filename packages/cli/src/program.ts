import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { deviceOf, toClient } from '@vfio/core';
import { COMPAT_MODES } from '@vfio/vfio-user';
import { Command, InvalidArgumentError, Option } from 'commander';
import type { BindOptions, UnbindOptions } from './commands/bind.js';
import type { ControlOptions } from './commands/control.js';
import type { HandoverOptions } from './commands/handover.js';
import type { MigrateOptions } from './commands/migrate.js';
import { installedDrivers } from './drivers.js';
import { type HostSetup, parseHostSetup, setUpHost } from './host-setup.js';
import type { Io } from './io.js';
import { paint } from './output.js';
import { loadPciNames } from './pci-names.js';
import {
  bindFunction,
  findFunction,
  isAddress,
  type LinuxMachine,
  type LinuxSession,
  openSession,
  type Session,
} from './session.js';
import { UsageError } from './usage-error.js';

/** What the commands share on the command line. */
interface JsonOption {
  readonly json?: boolean;
}

/** Where functions come from. */
interface HostOptions {
  readonly host: 'emulated' | 'linux';
  readonly sysfsRoot?: string;
  readonly driverOverride?: readonly string[];
  readonly sriovNumvfs?: readonly string[];
}

function whole(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(`it must be a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

function octal(text: string): number {
  if (!/^[0-7]{3,4}$/.test(text)) throw new InvalidArgumentError('it must be octal, as for chmod: 660.');
  return Number.parseInt(text, 8);
}

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 };

function bytesOf(text: string): number {
  const [, number = '', unit = ''] = /^(\d+)([KMGT]?)(?:i?B)?$/.exec(text) ?? [];
  return number === '' ? Number.NaN : Number(number) * (UNITS[unit] ?? Number.NaN);
}

function byteCount(text: string): number {
  const bytes = bytesOf(text);
  if (!Number.isSafeInteger(bytes) || bytes === 0) {
    throw new InvalidArgumentError('it must be a number of bytes, as 500K or 100M.');
  }
  return bytes;
}

function size(text: string): number {
  const bytes = bytesOf(text);
  if (!Number.isSafeInteger(bytes) || bytes === 0 || bytes % 4096 !== 0) {
    throw new InvalidArgumentError('it must be a multiple of 4096 bytes, as 64M or 1G.');
  }
  return bytes;
}

const { version } = createRequire(import.meta.url)('@vfio/cli/package.json') as { version: string };

const collect = (value: string, all: readonly string[] = []): string[] => [...all, value];

/** Milliseconds that `vfio info` waits for a server: one that has a client does not answer another. */
const SOCKET_TIMEOUT_MS = 2000;

/**
 * The `vfio` command line. `io` is all that the commands touch of the process; the exit code of a run that did not throw
 * is what `setExitCode` was told last, 0 otherwise.
 */
export function createProgram(io: Io, setExitCode: (code: number) => void): Command {
  const warn = (message: string): void => io.err(`warning: ${message}\n`);
  const installed = () => installedDrivers({ cwd: io.cwd, script: io.script, env: io.env, warn });
  const hostSetup = (): HostSetup => {
    const { host, driverOverride = [], sriovNumvfs = [] } = program.opts<HostOptions>();
    if (host === 'linux' && driverOverride.length + sriovNumvfs.length > 0) {
      throw new UsageError('--driver-override and --sriov-numvfs are for the emulated host; linux has them in sysfs');
    }
    return parseHostSetup(driverOverride, sriovNumvfs);
  };
  const emulated = async (): Promise<Session> => {
    const setup = hostSetup();
    // Not at the start: commands on this machine do without its models.
    const { createDemoHost } = await import('@vfio/emulated');
    const opened = openSession(createDemoHost(), await installed(), warn);
    await setUpHost(opened, setup);
    return opened;
  };
  const machine = async (): Promise<LinuxMachine> => {
    const { KernelModules, LinuxPciHost, LinuxSystem } = await import('@vfio/linux');
    const { sysfsRoot } = program.opts<HostOptions>();
    const system = io.machine ?? new LinuxSystem({ env: io.env, ...(sysfsRoot === undefined ? {} : { sysfsRoot }) });
    const host = new LinuxPciHost(system);
    for (const { address, message } of host.problems) warn(`${address}: ${message}`);
    return { host, modules: new KernelModules(system) };
  };
  const linux = async (): Promise<LinuxSession> => ({ ...(await machine()), drivers: await installed() });
  const named = (): Promise<Session | LinuxSession> => {
    hostSetup();
    return program.opts<HostOptions>().host === 'linux' ? linux() : emulated();
  };
  const onlyEmulated = (command: string): void => {
    if (program.opts<HostOptions>().host === 'emulated') return;
    throw new UsageError(
      `\`vfio ${command}\` takes functions of the emulated host; \`list\` and \`match\` also those of linux`,
    );
  };

  const program = new Command('vfio')
    .description('Linux vfio_pci_core and its variant drivers in userspace: find, inspect and serve PCI functions.')
    .configureOutput({
      writeOut: io.out,
      writeErr: io.err,
      outputError: (text, write) => write(text.replace(/^error/, paint(io, 'red', 'vfio'))),
      getOutHasColors: () => io.color,
      getErrHasColors: () => io.color,
    })
    .version(version, '--version', 'print the version')
    .option('--debug', 'show the stack of an error')
    .addOption(
      new Option('--host <name>', 'where functions come from').choices(['emulated', 'linux']).default('emulated'),
    )
    .option('--sysfs-root <path>', 'sysfs of the linux host (default /sys)')
    .option('--driver-override <address=driver>', 'of an emulated function: what takes it instead of the best', collect)
    .option('--sriov-numvfs <address=count>', 'of an emulated physical function: how many virtual ones it has', collect)
    .addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 the command line is wrong.\n')
    .showHelpAfterError('(vfio --help shows what there is)')
    .exitOverride();

  program
    .command('list')
    .description('the functions of the host, what drives each and what would drive it best')
    .option('--json', 'one JSON document')
    .action(async (options: JsonOption) => {
      const { list } = await import('./commands/list.js');
      list(await named(), loadPciNames(io), options, io);
    });

  program
    .command('match')
    .description('every driver that could take a function, field by field, and why one wins')
    .argument('<what>', 'an address (0000:00:02.0), a modalias (pci:v…), or ids (8086:5845:1af4:1100:010802)')
    .option('--json', 'one JSON document')
    .option('--all', 'also drivers that do not match, with what is closest')
    .action(async (what: string, options: JsonOption & { all?: boolean }) => {
      const { match } = await import('./commands/match.js');
      if (!match(await named(), what, options, io)) setExitCode(1);
    });

  program
    .command('depmod')
    .description('makes the index of the installed drivers anew, and says what is in it and what is not')
    .option('--json', 'one JSON document')
    .action(async (options: JsonOption) => {
      const { depmod } = await import('./commands/depmod.js');
      const about = { cwd: io.cwd, script: io.script, env: io.env, rebuild: true, warn: () => {} };
      if (!(await depmod(await installedDrivers(about), options, io))) setExitCode(1);
    });

  program
    .command('info')
    .description('device info, regions, interrupts and decoded config space of a function or a served device')
    .argument('<what>', 'an address, or the socket of a server')
    .option('--driver <name>', 'this driver instead of the best')
    .option('--json', 'one JSON document')
    .action(async (what: string, options: JsonOption & { driver?: string }) => {
      const { info } = await import('./commands/info.js');
      if (what.includes('/') || (!isAddress(what) && existsSync(what))) {
        const { VfioUserClient } = await import('@vfio/vfio-user');
        await using client = await VfioUserClient.connect(what, { timeoutMs: SOCKET_TIMEOUT_MS });
        await info(client, what, options, io);
        return;
      }
      if (!isAddress(what)) {
        throw new UsageError(`"${what}" is neither an address, such as 0000:3b:00.1, nor a socket that is there`);
      }
      onlyEmulated('info');
      const opened = await emulated();
      const fn = findFunction(opened.host, what);
      const driver = await bindFunction(opened, fn, options.driver);
      const vfio = deviceOf(opened.bus, fn);
      await using device = await vfio.open();
      const { whyNotMigratable } = vfio;
      await info(toClient(device), `${fn.address}  driver ${driver.name}`, { ...options, whyNotMigratable }, io);
    });

  program
    .command('bind')
    .description('give functions of this machine to the kernel’s best VFIO driver, all of them or none')
    .argument('<address...>', 'the functions')
    .option('--driver <name>', 'this kernel driver or module instead of the best')
    .option('--group', 'also the other functions of their IOMMU groups')
    .option('--owner <user>', 'give the device nodes to a user')
    .option('--persist', 'make it last over a reboot')
    .option('--force', 'also where the system stands on a function, or it is in use')
    .option('--dry-run', 'print each write, and do none')
    .option('--json', 'one JSON document')
    .action(async (addresses: string[], options: BindOptions) => {
      const { bind } = await import('./commands/bind.js');
      bind(await machine(), addresses, options, io);
    });

  program
    .command('unbind')
    .description('give functions back to the drivers that they had before `vfio bind`')
    .argument('<address...>', 'the functions')
    .option('--group', 'also the other functions of their IOMMU groups that were bound')
    .option('--force', 'also where a program has a function open: wait until it lets go')
    .option('--dry-run', 'print each write, and do none')
    .option('--json', 'one JSON document')
    .action(async (addresses: string[], options: UnbindOptions) => {
      const { unbind } = await import('./commands/bind.js');
      unbind(await machine(), addresses, options, io);
    });

  program
    .command('restore')
    .description('give back every function that `vfio bind` has taken')
    .option('--force', 'also where a program has a function open: wait until it lets go')
    .option('--dry-run', 'print each write, and do none')
    .option('--json', 'one JSON document')
    .action(async (options: UnbindOptions) => {
      const { restore } = await import('./commands/bind.js');
      restore(await machine(), options, io);
    });

  program
    .command('doctor')
    .description('whether devices of this machine can be passed through, and what to do where not')
    .option('--json', 'one JSON document')
    .action(async (options: JsonOption) => {
      const { doctor } = await import('./commands/doctor.js');
      if (!doctor(await linux(), options, io)) setExitCode(1);
    });

  program
    .command('serve')
    .description('serve functions to a VMM over vfio-user, until SIGINT or SIGTERM')
    .argument('<address...>', 'the functions')
    .option('--socket-path <path>', 'socket of each function, in the order of the addresses', collect)
    .option('--fd <number>', 'serve one function on a socket that was inherited', whole(3, 1 << 20))
    .option('--incoming <path>', 'take one function over, with its client and socket, from a server that hands it over')
    .option('--socket-mode <mode>', 'permission bits of the socket, octal', octal)
    .option('--socket-group <group>', 'group of the socket')
    .option('--driver <name>', 'this driver instead of the best')
    .option('--threads <n>', 'spread the functions over threads', whole(1, 64), 1)
    .option('--trace <file>', 'append one decoded line for each message')
    .option('--control-path <path>', 'listen there for `vfio control` and other programs that manage this one')
    .addOption(new Option('--compat <mode>', 'how clients are answered').choices(COMPAT_MODES).default('auto'))
    .option('--nvme-file <file>', 'keep the namespace of the NVMe drive in a file')
    .option('--nvme-size <size>', 'its size where the file is new (default 1G)', size)
    .option('--json', 'one JSON document a line for each event')
    .action(async (addresses: string[], { nvmeFile, nvmeSize, socketPath = [], ...options }) => {
      onlyEmulated('serve');
      const { serve } = await import('./commands/serve.js');
      const host = { nvmeFile, nvmeSize };
      await serve(addresses, { ...options, socketPath, version, host, setup: hostSetup() }, io);
    });

  program
    .command('handover')
    .description(
      'let another server take a function over with its client, which notices a pause: to upgrade its driver',
    )
    .requiredOption('--from <path>', 'control socket of the server that has it (--control-path)')
    .requiredOption('--to <path>', 'where the other server waits for it (--incoming)')
    .option('--address <address>', 'this function, where the server has several')
    .option('--max-pause <ms>', 'milliseconds that the client may have to wait (default 2000)', whole(1, 4000))
    .option('--json', 'one JSON document')
    .action(async (options: HandoverOptions) => {
      const { handover } = await import('./commands/handover.js');
      await handover(options, io);
    });

  const control = program
    .command('control')
    .description('what runs in a `vfio serve`, by its control socket (--control-path)');
  const controlMethod = (name: string, description: string): Command =>
    control
      .command(name)
      .description(description)
      .argument('<path>', 'the control socket')
      .option('--address <address>', 'this function, where the server has several')
      .option('--json', 'one JSON document');

  controlMethod(
    'info',
    'what each function is, its driver and version, whether it can be migrated, and who uses it',
  ).action(async (path: string, options: ControlOptions) => {
    const { controlInfo } = await import('./commands/control.js');
    await controlInfo(path, options, io);
  });
  controlMethod('state', 'what each function does now: migration state, power, whether it is in use').action(
    async (path: string, options: ControlOptions) => {
      const { controlState } = await import('./commands/control.js');
      await controlState(path, options, io);
    },
  );
  controlMethod('metrics', 'counts of messages and bytes by command, and what waits now').action(
    async (path: string, options: ControlOptions) => {
      const { controlMetrics } = await import('./commands/control.js');
      await controlMetrics(path, options, io);
    },
  );
  controlMethod('trace', 'one decoded line for each message, until Ctrl-C')
    .addOption(new Option('--file <file>', 'the server appends the lines to a file').conflicts('stop'))
    .option('--stop', 'the server writes that file no longer')
    .action(async (path: string, options: ControlOptions & { file?: string; stop?: boolean }) => {
      const { controlTrace } = await import('./commands/control.js');
      await controlTrace(path, options, io);
    });

  program
    .command('migrate')
    .description('move a device from one `vfio serve` to another, or into a file and out of it')
    .option('--from <path>', 'control socket of the server that has the device')
    .option('--to <path>', 'control socket of the server that takes it; a client has attached to its device')
    .option('--save <file>', 'save the device and its memory into a file; the device goes on')
    .option('--load <file>', 'load a device from a file')
    .option('--from-address <address>', 'this function, where the server at --from has several')
    .option('--to-address <address>', 'this function, where the server at --to has several')
    .option('--device-only', 'without the memory that its client has mapped')
    .option('--trust-log', 'the client writes nothing into its memory itself: do not look for it')
    .option('--max-downtime <ms>', 'stop the device when the rest takes no longer (default 300)', whole(0, 3_600_000))
    .option('--max-rounds <n>', 'stop it after so many rounds in any case (default 30)', whole(0, 1_000_000))
    .option('--bandwidth <size>', 'bytes a second while the device runs, as 100M', byteCount)
    .option('--dry-run', 'only ask whether it could be done')
    .option('--json', 'one JSON document')
    .action(async (options: MigrateOptions) => {
      const { migrate } = await import('./commands/migrate.js');
      await migrate(options, io);
    });

  const demoCommand = program
    .command('demo')
    .description('the emulated host from match to a served device, in a few seconds')
    .option('--json', 'one JSON document')
    .action(async (options: JsonOption) => {
      onlyEmulated('demo');
      const { demo } = await import('./commands/demo.js');
      if (!(await demo(options, io))) setExitCode(1);
    });
  demoCommand
    .command('load')
    .description(
      'keep a served ConnectX function at work, wherever it is moved among these sockets, and check what came of it',
    )
    .argument('<socket...>', 'the sockets of its servers; it is at the first')
    .action(async (sockets: string[]) => {
      const { load } = await import('./commands/load.js');
      if (!(await load(sockets, io))) setExitCode(1);
    });

  return program;
}
