// Makes dist/known-drivers.json: every driver that is released with this command, from the alias files that their packages
// have built. By it the command names what would match better than what is installed.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

const PACKAGES = new URL('../../', import.meta.url);
const read = (path) => readFileSync(new URL(path, PACKAGES), 'utf8');

const known = readdirSync(PACKAGES)
  .sort()
  .flatMap((folder) => {
    const { name, vfio } = JSON.parse(read(`${folder}/package.json`));
    return (vfio?.drivers ?? []).flatMap(({ name: driver, alias, requires = [] }) => {
      if (alias === undefined) return [];
      const lines = read(`${folder}/${alias}`).matchAll(/^alias (\S+) (\S+)$/gm);
      const aliases = [...lines].flatMap(([, pattern, of]) => (of === driver ? [pattern] : []));
      return [{ name: driver, package: name, requires, aliases }];
    });
  });
writeFileSync(new URL('../dist/known-drivers.json', import.meta.url), `${JSON.stringify(known, undefined, 2)}\n`);
