import { errnoError, isVfioError, messageOf, VfioError } from '@vfio/uapi';
import { type Binding, bindingOf, bindWrite, type SysfsWrite, shellLine, writesToRestore } from './binding.js';
import type { LinuxPciFunction } from './function.js';
import type { LinuxSystem } from './system.js';

/** What is done to the machine, told before it is done. */
export type Step =
  | ({ readonly kind: 'write' } & SysfsWrite)
  | { readonly kind: 'file'; readonly path: string; readonly content: string }
  | { readonly kind: 'remove'; readonly path: string }
  | { readonly kind: 'own'; readonly path: string; readonly uid: number };

/**
 * Changes to the machine that are made all or not at all. Undoing goes by what is there, not by what was done: a write that
 * failed may have had its effect.
 */
export class Transaction {
  readonly #system: LinuxSystem;
  readonly #tell: (step: Step) => void;
  readonly #functions = new Set<LinuxPciFunction>();
  readonly #undo: (() => void)[] = [];

  constructor(system: LinuxSystem, tell: (step: Step) => void) {
    this.#system = system;
    this.#tell = tell;
  }

  /** Writes to a function's attributes, one after the other. What it is now is what it goes back to. */
  write(fn: LinuxPciFunction, writes: readonly SysfsWrite[]): void {
    if (writes.length === 0) return;
    if (!this.#functions.has(fn)) {
      const before = bindingOf(fn);
      this.#functions.add(fn);
      this.#undo.push(() => this.#restore(fn, before));
    }
    for (const write of writes) this.#write(write);
  }

  /** Makes or replaces a file. */
  file(path: string, content: string): void {
    this.#keep(path);
    this.#tell({ kind: 'file', path, content });
    this.#system.replace(path, content);
  }

  /** Removes a file, where it is there. */
  remove(path: string): void {
    if (!this.#system.exists(path)) return;
    this.#keep(path);
    this.#tell({ kind: 'remove', path });
    this.#system.remove(path);
  }

  /** Gives a file to a user. */
  own(path: string, uid: number): void {
    const before = this.#system.ownerOf(path);
    if (before === uid) return;
    // Where the node goes away with what is undone, there is nothing to give back.
    if (before !== undefined) this.#undo.push(() => this.#system.exists(path) && this.#system.own(path, before));
    this.#tell({ kind: 'own', path, uid });
    this.#system.own(path, uid);
  }

  /** Undoes everything, the last first. What could not be undone is returned, a sentence each. */
  rollBack(): string[] {
    const problems: string[] = [];
    for (const undo of this.#undo.reverse()) {
      try {
        undo();
      } catch (error) {
        problems.push(messageOf(error));
      }
    }
    return problems;
  }

  #keep(path: string): void {
    const before = this.#system.text(path);
    this.#undo.push(() => {
      if (before === undefined) this.#system.remove(path);
      else this.#system.replace(path, before);
    });
  }

  #write(write: SysfsWrite): void {
    this.#tell({ kind: 'write', ...write });
    this.#system.write(write.path, write.text);
  }

  #restore(fn: LinuxPciFunction, before: Binding): void {
    // Unplugged: there is nothing to put back.
    if (!fn.isPresent) return;
    const writes = writesToRestore(fn, before);
    try {
      for (const write of writes) this.#write(write);
    } catch (error) {
      const rest = writesToRestore(fn, before).map(shellLine);
      throw new Error(`${fn.address} is not as it was (${messageOf(error)}); by hand: ${rest.join(' && ')}`);
    }
  }
}

/** The sentence and advice of a failure, with what became of the rest. */
export function failure(
  what: string,
  op: string,
  device: string | undefined,
  cause: unknown,
  problems: string[],
): VfioError {
  const known = isVfioError(cause) ? cause : undefined;
  const after = problems.length === 0 ? 'every function is as it was' : problems.join('; ');
  return new VfioError(known?.code ?? 'ERR_VFIO_IO', `${what}: ${messageOf(cause)}; ${after}`, {
    errno: known?.errno ?? 'EIO',
    op,
    device,
    cause,
    details: { ...known?.details, restored: problems.length === 0, ...advice(known) },
  });
}

function advice(error: VfioError | undefined): { readonly try?: string } {
  if (error?.code !== 'ERR_VFIO_SYSCALL') return {};
  switch (error.errno) {
    case 'EACCES':
    case 'EPERM':
      return { try: 'it takes root: run it with sudo' };
    case 'EROFS':
      return { try: 'sysfs is read-only here, as in most containers: run it on the host' };
    default:
      return {};
  }
}

/** Checks that a driver has a function after a probe that is silent about failures. @throws what the driver's probe gives */
export function confirmBound(transaction: Transaction, fn: LinuxPciFunction, driver: string): void {
  if (fn.driver === driver) return;
  const about = { op: 'bind', device: fn.address };
  if (!fn.isPresent) throw errnoError('ENODEV', 'it has gone', about);
  const other = fn.driver;
  if (other !== undefined) throw errnoError('EBUSY', `${other} took it first`, about);
  // Unlike drivers_probe, this says what is wrong.
  let errno: string | undefined;
  try {
    transaction.write(fn, [bindWrite(fn, driver)]);
  } catch (error) {
    errno = isVfioError(error) ? error.errno : undefined;
  }
  if (fn.driver === driver) return;
  throw errnoError('EIO', `${driver} refuses it (${errno ?? 'it does not say why'})`, {
    ...about,
    details: {
      driver,
      refused: errno ?? null,
      try: '`dmesg` may say why; `vfio doctor` checks what passthrough needs',
    },
  });
}
