import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';

/** A folder of its own for each guest and server of a run, however often a name is used. */
export function freshFolder(parent: string, name: string): string {
  for (let count = 1; ; count++) {
    const folder = join(parent, count === 1 ? name : `${name}-${count}`);
    if (existsSync(folder)) continue;
    mkdirSync(folder, { recursive: true });
    return folder;
  }
}
