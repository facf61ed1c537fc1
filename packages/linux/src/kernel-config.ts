import { gunzipSync } from 'node:zlib';
import type { LinuxSystem } from './system.js';

/** The options that the running kernel was built with. */
export interface KernelConfig {
  /** The file that they are from. */
  readonly path: string;
  /** `y`, `m`, or undefined where it is not set. */
  option(name: string): string | undefined;
}

/** Reads the options of the running kernel where it or its distribution keeps them; undefined where neither does. */
export function readKernelConfig(system: LinuxSystem): KernelConfig | undefined {
  const { release } = system;
  const places = [
    '/proc/config.gz',
    `/boot/config-${release}`,
    `/usr/lib/modules/${release}/config`,
    `/lib/modules/${release}/config`,
    `/lib/modules/${release}/build/.config`,
  ];
  for (const place of places) {
    const path = system.file(place);
    const text = readText(system, path);
    if (text === undefined) continue;
    const options = new Map<string, string>();
    for (const [, name = '', value = ''] of text.matchAll(/^(CONFIG_\w+)=(.*)$/gm)) options.set(name, value);
    // A file of another kind, or an empty one, says nothing of the kernel.
    if (options.size > 0) return { path, option: (name) => options.get(`CONFIG_${name}`) };
  }
  return undefined;
}

function readText(system: LinuxSystem, path: string): string | undefined {
  try {
    const bytes = system.bytes(path);
    if (bytes === undefined || !path.endsWith('.gz')) return bytes?.toString('utf8');
    return gunzipSync(bytes, { maxOutputLength: 16 * 1024 * 1024 }).toString('utf8');
  } catch {
    // Not for us to read (/boot is root's alone on some systems), or no gzip file: the next place may tell.
    return undefined;
  }
}
