import { formatModalias } from '@vfio/core';
import type { Binding } from './binding.js';
import type { LinuxPciFunction } from './function.js';
import { NAME } from './kernel-modules.js';
import type { LinuxSystem } from './system.js';

/** What a function was before `vfio bind` changed it. */
export interface SavedBinding {
  readonly address: string;
  /** Tells whether what is at the address now is the same function. */
  readonly modalias: string;
  /** What it was, with the module of its driver, which may not be loaded when it is wanted back. */
  readonly from: Binding & { readonly module: string | undefined };
  /** The driver that it was given. */
  readonly to: string;
}

const FOLDER = '/var/lib/vfio/bindings';
const VERSION = 1;

/** Files that survive a reboot, one a function, so that two runs on different functions never meet. */
export class SavedBindings {
  readonly #system: LinuxSystem;

  constructor(system: LinuxSystem) {
    this.#system = system;
  }

  path(address: string): string {
    return this.#system.file(`${FOLDER}/${address}.json`);
  }

  /** Addresses of which there is one, sorted. */
  addresses(): string[] {
    return this.#system
      .list(this.#system.file(FOLDER))
      .filter((name) => /^[0-9a-f:.]+\.json$/.test(name))
      .map((name) => name.slice(0, -'.json'.length));
  }

  /** What is kept for an address; undefined where there is nothing, or nothing that can be used. */
  read(address: string): SavedBinding | undefined {
    const text = this.#system.text(this.path(address));
    if (text === undefined) return undefined;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      return undefined;
    }
    return parseSaved(value, address);
  }

  /** What is kept for this function; undefined where that was another one at its address. */
  readFor(fn: LinuxPciFunction): SavedBinding | undefined {
    const saved = this.read(fn.address);
    return saved?.modalias === formatModalias(fn) ? saved : undefined;
  }

  /** The text of the file for a function that is about to be given to a driver. */
  content(fn: LinuxPciFunction, to: string): string {
    const saved = this.readFor(fn);
    // Bound by us before: what it was before that is what counts.
    const from =
      saved !== undefined && saved.to === fn.driver
        ? saved.from
        : { driver: fn.driver, override: fn.driverOverride, module: fn.driverModule };
    const { driver = null, override = null, module = null } = from;
    const { address } = fn;
    return `${JSON.stringify({ version: VERSION, address, modalias: formatModalias(fn), from: { driver, override, module }, to }, null, 2)}\n`;
  }
}

/** Names of a file end up in paths that are written to: only such are taken as can be names. */
function parseSaved(value: unknown, address: string): SavedBinding | undefined {
  if (!isObject(value) || value['version'] !== VERSION || value['address'] !== address) return undefined;
  const { modalias, from, to } = value;
  if (typeof modalias !== 'string' || typeof to !== 'string' || !NAME.test(to) || !isObject(from)) return undefined;
  const names = [from['driver'], from['override'], from['module']];
  if (!names.every((name) => name === null || (typeof name === 'string' && NAME.test(name)))) return undefined;
  const [driver, override, module] = names.map((name) => (typeof name === 'string' ? name : undefined));
  return { address, modalias, from: { driver, override, module }, to };
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}
