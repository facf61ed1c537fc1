import { readFileSync } from 'node:fs';

/** Of all `@vfio` packages that belong together: they are released under one number. */
export const version: string = (
  JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
).version;
