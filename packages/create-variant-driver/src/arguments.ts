import { parseArgs } from 'node:util';
import { FEATURE_TEXTS, FEATURES } from '@vfio/nx';

const features = FEATURES.map((name) => `                       ${name}: ${FEATURE_TEXTS[name]}`).join('\n');

export const USAGE = `Usage: npm create @vfio/variant-driver NAME -- [options]

Makes a package with a VFIO variant driver, in a folder of its own. On a driver that is there it adds features; files
that were changed are left alone. At a terminal it asks for what is not said.

  NAME                 what the driver is called by: hisi-acc, with or without -vfio-pci
  --id <id>            a function that it is for: vendor:device, or with a subsystem
                       vendor:device:subvendor:subdevice, as lspci -nn shows them; repeatable
  --class <code>       a class that it is for: 2, 4 or 6 hex digits (0108); repeatable
  --features <list>    what it has beyond its ids, with commas between:
${features}
  --requires <name>    a condition that must hold where it is used, such as zpci; repeatable
  --scope <scope>      of the package: @acme
  --directory <path>   where it goes, below the working directory (default: NAME-vfio-pci)
  --description <text> one sentence, for package.json and the README
  --dry-run            write nothing, say what would be written
  -h, --help           show this

Exit codes: 0 done, 1 failed, 2 wrong usage.
`;

const commas = (lists: readonly string[] | undefined): string[] | undefined =>
  lists?.flatMap((list) => list.split(',').map((item) => item.trim()));

/** What the command line says. @throws TypeError where it is wrong. */
export function readArguments(args: readonly string[]) {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      id: { type: 'string', multiple: true },
      class: { type: 'string', multiple: true },
      features: { type: 'string', multiple: true },
      requires: { type: 'string', multiple: true },
      scope: { type: 'string' },
      directory: { type: 'string' },
      description: { type: 'string' },
      'dry-run': { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (positionals.length > 1) throw new TypeError(`one NAME at most, not ${positionals.join(' ')}`);
  return {
    name: positionals[0],
    ids: commas(values.id),
    classes: commas(values.class),
    features: commas(values.features),
    requires: commas(values.requires),
    scope: values.scope,
    directory: values.directory,
    description: values.description,
    dryRun: values['dry-run'] === true,
    help: values.help === true,
  };
}
