import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent, type RunResult } from './agent.js';
import { tail } from './command.js';
import { freshFolder } from './logs.js';
import type { Artifacts } from './prepare.js';
import { Qmp } from './qmp.js';

/** A device as QEMU's JSON form of `-device` takes it. */
export interface DeviceSpec {
  driver: string;
  id?: string;
  bus?: string;
  addr?: string;
  [property: string]: unknown;
}

export interface GuestOptions {
  /** Names the guest's log folder. */
  name: string;
  memoryMiB?: number;
  cpus?: number;
  /**
   * `shared`: guest memory is a memfd that a device server can map. `private`: plain memory, no fd to pass on.
   */
  memory?: 'shared' | 'private';
  /** Gives the guest a virtual IOMMU with interrupt remapping, so that its own vfio-pci works. */
  iommu?: boolean;
  /** PCIe root ports to plug devices into while the guest runs; each name is a bus. */
  rootPorts?: readonly string[];
  devices?: readonly DeviceSpec[];
  /** More words for QEMU's command line. */
  args?: readonly string[];
  /** More words for the kernel's command line. */
  append?: string;
}

export interface RunOptions {
  /** Seconds that the script may take in the guest. Default: 60. */
  seconds?: number;
}

/** Slow machines multiply every time limit. */
const { VFIO_E2E_TIME_SCALE } = process.env;
const SCALE = Number(VFIO_E2E_TIME_SCALE || 1);
const BOOT_MS = 120_000;
const PANIC = 'Kernel panic - not syncing';

/** One virtual machine under TCG, with an agent in it that runs scripts. */
export class Guest {
  readonly qmp: Qmp;
  /** Folder with QEMU's command line (`command`), console.log, qemu.log and agent.log. */
  readonly logs: string;
  /** Milliseconds from starting QEMU to the agent's first word. */
  readonly bootMs: number;
  readonly #agent: Agent;
  readonly #process: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #work: string;

  private constructor(parts: {
    qmp: Qmp;
    logs: string;
    bootMs: number;
    agent: Agent;
    process: ChildProcess;
    exited: Promise<unknown>;
    work: string;
  }) {
    this.qmp = parts.qmp;
    this.logs = parts.logs;
    this.bootMs = parts.bootMs;
    this.#agent = parts.agent;
    this.#process = parts.process;
    this.#exited = parts.exited;
    this.#work = parts.work;
  }

  /** Starts QEMU and returns when the guest's agent answers. Nothing is left running when it fails. */
  static async boot(artifacts: Artifacts, options: GuestOptions): Promise<Guest> {
    const logs = freshFolder(artifacts.logs, options.name);
    const work = mkdtempSync(join(tmpdir(), 'vfio-e2e-'));
    const started = performance.now();
    // QEMU connects to us, so there is no moment at which its sockets do not exist yet.
    const agentSocket = listenOnce(join(work, 'agent'));
    const qmpSocket = listenOnce(join(work, 'qmp'));
    const argv = [...artifacts.qemu.argv, ...qemuArgs(artifacts, options, work, logs)];
    const words = argv.map((word) => (/[\s{]/.test(word) ? `'${word}'` : word));
    writeFileSync(join(logs, 'command'), `${words.join(' ')}\n`);
    const log = openSync(join(logs, 'qemu.log'), 'a');
    // QEMU ends with the process that started it, however that one ends.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...argv], {
      env: { ...process.env, ...artifacts.qemu.env },
      stdio: ['ignore', log, log],
    });
    const exited = once(child, 'exit').catch(() => undefined);
    let agent: Agent | undefined;
    try {
      const died = exited.then(() => {
        throw new Error(`QEMU ended with ${child.exitCode ?? child.signalCode}`);
      });
      died.catch(() => undefined);
      const [qmp, channel] = await Promise.race([
        Promise.all([qmpSocket.connected.then((socket) => Qmp.attach(socket)), agentSocket.connected]),
        died,
        late(30_000, 'QEMU did not open its control sockets'),
      ]);
      agent = new Agent(channel);
      exited.then(() => agent?.fail(new Error(`QEMU ended with ${child.exitCode ?? child.signalCode}`)));
      await Promise.race([agent.booted(1), panicked(logs, agent), late(BOOT_MS, 'the guest did not boot')]);
      const bootMs = Math.round(performance.now() - started);
      return new Guest({ qmp, logs, bootMs, agent, process: child, exited, work });
    } catch (error) {
      // Of a QEMU that ended, the first sign may have been a closed socket; its exit says more.
      await Promise.race([exited, new Promise((resolve) => setTimeout(resolve, 300))]);
      const code = child.exitCode ?? child.signalCode;
      const what = code === null ? messageOf(error) : `QEMU ended with ${code}`;
      child.kill('SIGKILL');
      await exited;
      rmSync(work, { recursive: true, force: true });
      throw new Error(`guest ${options.name}: ${what}\n${lastWords(logs)}`, { cause: error });
    } finally {
      agentSocket.server.close();
      qmpSocket.server.close();
    }
  }

  get pid(): number {
    return this.#process.pid!;
  }

  /** Whether QEMU still runs. */
  get running(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** Runs a shell script in the guest and gives its exit code and output. */
  async run(script: string, options: RunOptions = {}): Promise<RunResult> {
    const seconds = Math.ceil((options.seconds ?? 60) * SCALE);
    const started = performance.now();
    const result = await Promise.race([
      this.#agent.run(script, seconds),
      // The guest's own limit comes first unless the guest hangs.
      late((seconds + 30) * 1000, `the guest gave no answer to: ${script}`),
    ]).catch((error: unknown) => {
      this.#agent.abandon(new Error('given up'));
      throw new Error(`${messageOf(error)}\n${lastWords(this.logs)}`, { cause: error });
    });
    const took = Math.round(performance.now() - started);
    appendFileSync(
      join(this.logs, 'agent.log'),
      `$ ${script}\n${result.stdout}${result.stderr}[exit ${result.code}, ${took} ms]\n`,
    );
    return result;
  }

  /** Runs a script that must succeed and gives what it printed. */
  async ok(script: string, options: RunOptions = {}): Promise<string> {
    const result = await this.run(script, options);
    if (result.code !== 0) {
      throw new Error(`in the guest: ${script}\nexit code ${result.code}\n${tail(result.stdout + result.stderr, 40)}`);
    }
    return result.stdout;
  }

  /** Runs a script again and again until it succeeds; fails with its last output when it never does. */
  async until(script: string, options: RunOptions = {}): Promise<string> {
    const deadline = Date.now() + (options.seconds ?? 30) * 1000 * SCALE;
    for (;;) {
      const result = await this.run(script, options);
      if (result.code === 0) return result.stdout;
      if (Date.now() > deadline) {
        throw new Error(`in the guest, to the end: ${script}\n${tail(result.stdout + result.stderr, 40)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }

  /** Restarts the guest from inside and returns when its agent answers again, with the milliseconds it took. */
  reboot(): Promise<number> {
    return this.#restart(() => this.#agent.send('reboot -f'));
  }

  /** The same from outside and at once, whatever the guest is doing. */
  reset(): Promise<number> {
    return this.#restart(() => this.qmp.execute('system_reset'));
  }

  async #restart(begin: () => unknown): Promise<number> {
    const started = performance.now();
    const count = this.#agent.boots + 1;
    await begin();
    await Promise.race([
      this.#agent.booted(count),
      panicked(this.logs, this.#agent),
      late(BOOT_MS, 'the guest did not come back from a restart'),
    ]).catch((error: unknown) => {
      throw new Error(`${messageOf(error)}\n${lastWords(this.logs)}`, { cause: error });
    });
    return Math.round(performance.now() - started);
  }

  /** What the guest's kernel printed on its console so far. */
  console(): string {
    return readLog(this.logs, 'console.log');
  }

  /** What QEMU itself printed. */
  qemuLog(): string {
    return readLog(this.logs, 'qemu.log');
  }

  /** The last lines of every log, for a message about a failure. */
  lastWords(): string {
    return lastWords(this.logs);
  }

  /** Switches the machine off: at once, as when the power fails. */
  async kill(): Promise<void> {
    if (this.running) this.#process.kill('SIGKILL');
    await this.#exited;
    this.qmp.close();
    rmSync(this.#work, { recursive: true, force: true });
  }
}

function qemuArgs(artifacts: Artifacts, options: GuestOptions, work: string, logs: string): string[] {
  const { kernel } = artifacts;
  const memory = options.memoryMiB ?? 512;
  const shared = (options.memory ?? 'shared') === 'shared';
  const append = [
    // The self-tests of the kernel's ciphers take two seconds under TCG. A busy machine fails the test of the timer.
    'console=ttyS0 quiet panic=-1 nokaslr mitigations=off cryptomgr.notests random.trust_cpu=on',
    'tsc=reliable no_timer_check',
    options.iommu ? 'intel_iommu=on iommu=nopt' : '',
    options.append ?? '',
  ];
  const device = (spec: DeviceSpec) => ['-device', JSON.stringify(spec)];
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-vga', 'none', '-monitor', 'none'],
    ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', String(options.cpus ?? 1), '-m', `${memory}M`],
    ...['-machine', shared ? 'q35,memory-backend=ram' : 'q35'],
    ...(shared ? ['-object', `memory-backend-memfd,id=ram,size=${memory}M,share=on`] : []),
    ...['-kernel', kernel.image, '-initrd', kernel.initramfs, '-append', append.filter(Boolean).join(' ')],
    ...['-chardev', `file,id=console,path=${join(logs, 'console.log')}`, '-serial', 'chardev:console'],
    ...['-qmp', `unix:${join(work, 'qmp')}`],
    // First among the devices: an IOMMU must exist before the functions that it serves.
    ...(options.iommu ? device({ driver: 'intel-iommu', intremap: 'on', 'caching-mode': true }) : []),
    ...device({ driver: 'virtio-serial-pci', addr: '1e.0' }),
    ...['-chardev', `socket,id=agent,path=${join(work, 'agent')}`],
    ...device({ driver: 'virtserialport', chardev: 'agent', name: 'agent' }),
    ...[
      '-blockdev',
      JSON.stringify({ driver: 'file', 'node-name': 'root', filename: artifacts.rootImage, 'read-only': true }),
    ],
    ...device({ driver: 'virtio-blk-pci', drive: 'root', addr: '1d.0' }),
    ...(options.rootPorts ?? []).flatMap((id, index) => device({ driver: 'pcie-root-port', id, chassis: index + 1 })),
    ...(options.devices ?? []).flatMap(device),
    ...(options.args ?? []),
  ];
}

/** A Unix socket that waits for one peer. */
function listenOnce(path: string): { server: Server; connected: Promise<Socket> } {
  const server = createServer();
  const connected = new Promise<Socket>((resolve, reject) => {
    server.once('connection', resolve);
    server.once('error', reject);
  });
  connected.catch(() => undefined);
  server.listen(path);
  return { server, connected };
}

function late(milliseconds: number, sentence: string): Promise<never> {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`${sentence} (waited ${milliseconds} ms)`)), milliseconds * SCALE).unref();
  });
}

/** Rejects when the kernel panics, which is sooner than a time limit would. */
function panicked(logs: string, agent: Agent): Promise<never> {
  return new Promise((_, reject) => {
    const boots = agent.boots;
    const timer = setInterval(() => {
      if (agent.closed || agent.boots > boots) return clearInterval(timer);
      if (!readLog(logs, 'console.log').includes(PANIC)) return;
      clearInterval(timer);
      reject(new Error('the guest kernel panicked'));
    }, 500);
    timer.unref();
  });
}

function readLog(logs: string, name: string): string {
  const file = join(logs, name);
  return existsSync(file) ? readFileSync(file, 'utf8') : '';
}

function lastWords(logs: string): string {
  const part = (name: string, lines: number) => `--- ${name}\n${tail(readLog(logs, name), lines)}`;
  return `${part('console.log', 30)}\n${part('qemu.log', 10)}\n--- logs: ${logs}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
