import { readFileSync } from 'node:fs';
import { renderManifest } from './manifest.js';
import { describeRows, rowFunctions, rowTable } from './match.js';
import type { Driver } from './options.js';
import { fillTemplate, type TemplateValues } from './template.js';

/** What the root package.json of a workspace says of all its packages. */
export interface WorkspaceAbout {
  readonly license?: string;
  readonly author?: unknown;
  readonly homepage?: unknown;
  readonly bugs?: unknown;
  readonly repository?: Readonly<Record<string, unknown>>;
}

/** Where a driver is generated. */
export interface Setting {
  /** Of the `@vfio` packages that it is generated for: `0.1.0`. */
  readonly version: string;
  /** The monorepo that it becomes a package of; without one it stands alone. */
  readonly workspace?: {
    /** Its folder from the root: `packages/hisi-acc-vfio-pci`. */
    readonly directory: string;
    /** The root has `tsconfig.base.json`, `tsup.config.base.ts` and `vitest.config.base.ts` for its packages. */
    readonly sharesConfig: boolean;
    /** The text of the root's licence. */
    readonly license?: string;
    readonly about: WorkspaceAbout;
  };
}

/** Each file of a driver, and the fact without which it is not there. */
const FILES: Readonly<Record<string, string>> = {
  LICENSE: '',
  'README.md': '',
  'src/ids.ts': '',
  'src/ops.ts': '',
  'src/device.ts': '',
  'src/index.ts': '',
  'src/control-bar.ts': 'feature',
  'src/cmd.ts': 'commands',
  'src/migration.ts': 'migration',
  'src/stream.ts': 'migration',
  'src/dirty.ts': 'dirty-tracking',
  'src/regions.ts': 'regions',
  'src/caps.ts': 'caps',
  'test/contract.test.ts': '',
  'test/match.test.ts': '',
  'test/control-bar.test.ts': 'feature',
  'test/migration.test.ts': 'migration',
  'test/dirty.test.ts': 'dirty-tracking',
  'test/regions.test.ts': 'regions',
  'test/caps.test.ts': 'caps',
  'test/helpers/setup.ts': '',
  'test/helpers/model.ts': '',
  'test/helpers/control-page.ts': 'feature',
  'tsconfig.json': '',
  'tsconfig.build.json': '',
  'tsup.config.ts': '',
  'vitest.config.ts': '',
  'biome.json': 'alone',
  '.gitignore': 'alone',
  '.github/workflows/ci.yml': 'alone',
};

const TEMPLATES = new URL('../templates/', import.meta.url);

function valuesOf(driver: Driver, { workspace }: Setting): TemplateValues {
  const { name, base, camel, pascal, rows, features, requires, description } = driver;
  const facts = new Set<string>(features);
  if (features.size > 0) facts.add('feature');
  if (features.has('migration') || features.has('dirty-tracking')) facts.add('commands');
  if (features.size > 0 && !features.has('migration')) facts.add('bare-control');
  if (requires.length > 0) facts.add('requires');
  if (rows.some(({ kind }) => kind === 'class')) facts.add('class');
  if (workspace === undefined) facts.add('alone');
  facts.add(workspace?.sharesConfig === true ? 'shared' : 'own');
  const root = workspace === undefined ? '' : '../'.repeat(workspace.directory.split('/').length);
  return {
    facts,
    texts: {
      name,
      base,
      camel,
      pascal,
      root,
      package: driver.package,
      driver: driver.driver,
      description: escapeMarkdown(description),
      matches: describeRows(rows),
      requires: requires.map((name) => `\`${name}\``).join(', '),
      rowFunctions: rowFunctions(rows),
      rows: rowTable(rows, 'export const ids: readonly PciDeviceId[] = '.length),
    },
  };
}

/** A text that means nothing in Markdown or HTML. */
const escapeMarkdown = (text: string): string => text.replaceAll(/[\\`*_[\]<>#|&~]/g, '\\$&');

/** The files of a driver's package, by path within it. The same driver and setting give the same bytes. */
export function renderVariantDriver(driver: Driver, setting: Setting): Map<string, string> {
  const values = valuesOf(driver, setting);
  const files = new Map([['package.json', renderManifest(driver, setting)]]);
  for (const [path, fact] of Object.entries(FILES)) {
    if (fact !== '' && !values.facts.has(fact)) continue;
    // A file with a dot in front would be left out of a tarball, or be obeyed in it.
    const template = new URL(`${path.replace(/^\./, 'dot-')}.template`, TEMPLATES);
    files.set(path, fillTemplate(readFileSync(template, 'utf8'), values));
  }
  if (setting.workspace?.license !== undefined) files.set('LICENSE', setting.workspace.license);
  return files;
}

/** The entry of a driver in the changelog of a monorepo. */
export function renderChangeset(driver: Driver, text = driver.description): string {
  return `---\n${JSON.stringify(driver.package)}: minor\n---\n\n${escapeMarkdown(text)}.\n`;
}
