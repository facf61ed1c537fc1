import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type CommandOptions, command } from './command.js';

/** With the folders that libraries name by absolute RUNPATHs (Ceph's, which fio links). */
const LIBRARIES = ['usr/lib/x86_64-linux-gnu', 'usr/lib/x86_64-linux-gnu/ceph', 'usr/lib'] as const;
const LOADER = 'usr/lib64/ld-linux-x86-64.so.2';

/**
 * A tree of unpacked Debian packages whose programs run on this machine as it is: each is started through the
 * tree's own dynamic loader with the tree's libraries, so nothing is mounted, no root rights are needed and the
 * machine's C library may be older.
 */
export class Sysroot {
  readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  path(relative: string): string {
    return join(this.root, relative);
  }

  has(relative: string): boolean {
    return existsSync(this.path(relative));
  }

  /** The command line that runs one of the tree's programs; `argv0` for those that look at their own name. */
  argv(program: string, argv0?: string): string[] {
    const libraries = LIBRARIES.map((folder) => this.path(folder)).join(':');
    const name = argv0 === undefined ? [] : ['--argv0', argv0];
    return [this.path(LOADER), '--library-path', libraries, ...name, this.path(program)];
  }

  run(program: string, args: readonly string[], options?: CommandOptions & { argv0?: string }): Promise<string> {
    return command([...this.argv(program, options?.argv0), ...args], options);
  }

  /**
   * The shared libraries that a program needs, itself excluded, as paths relative to the root; the loader with them.
   * The tree's own loader resolves them, so what it lists is what it would load.
   */
  async libraries(program: string): Promise<string[]> {
    const loader = this.path(LOADER);
    const folders = LIBRARIES.map((folder) => this.path(folder)).join(':');
    const listed = await command([loader, '--library-path', folders, '--list', this.path(program)]);
    const needed = new Set<string>([LOADER]);
    for (const line of listed.split('\n')) {
      if (line.includes('not found')) throw new Error(`${program}: ${line.trim()}`);
      const at = /=> (\/\S+)/.exec(line)?.[1];
      if (at?.startsWith(`${this.root}/`)) needed.add(at.slice(this.root.length + 1));
    }
    return [...needed];
  }
}
