import { GeneratorError } from './error.js';
import { namesOf } from './name.js';
import { FEATURES } from './options.js';
import { checkDirectory, kindOf } from './place.js';
import { type Plan, planMore, planNew } from './plan.js';
import { renderChangeset, type Setting, type WorkspaceAbout } from './render.js';
import { describeMissing } from './report.js';
import { version } from './version.js';

/** What the generator needs of Nx's virtual file system; its paths are from the root of the workspace. */
export interface GeneratorTree {
  readonly root: string;
  exists(path: string): boolean;
  isFile(path: string): boolean;
  children(path: string): string[];
  read(path: string, encoding: 'utf-8'): string | null;
  write(path: string, content: string): void;
}

/** The options, as schema.json has them. */
export interface VariantDriverSchema {
  readonly name: string;
  readonly id?: readonly string[];
  /** Nx takes digits for a number. */
  readonly class?: readonly (string | number)[];
  readonly features?: readonly string[];
  readonly requires?: readonly string[];
  readonly scope?: string;
  readonly directory?: string;
  readonly description?: string;
}

/** Files that the packages of a workspace share, where it has them. */
const SHARED = ['tsconfig.base.json', 'tsup.config.base.ts', 'vitest.config.base.ts'];

/**
 * The Nx generator `variant-driver`: a driver as a package of the workspace. Nx writes what it leaves in the tree, or with
 * `--dry-run` shows it.
 *
 * @returns what Nx calls when all is written.
 * @throws GeneratorError; the tree is as it was then.
 */
export function variantDriverGenerator(tree: GeneratorTree, schema: VariantDriverSchema): () => void {
  const { base } = namesOf(schema.name, schema.scope);
  const directory = checkDirectory(schema.directory ?? `packages/${base}`);
  const options = { ...schema, ids: schema.id, classes: schema.class?.map(String) };
  const setting = settingOf(tree, directory);
  const plan = isFree(tree, directory)
    ? planNew(options, setting)
    : planMore(options, setting, (path) => readText(tree, `${directory}/${path}`));
  const files = new Map<string, string>();
  for (const [path, content] of [...plan.created, ...plan.updated]) files.set(`${directory}/${path}`, content);
  for (const [path, content] of changeset(tree, plan)) files.set(path, content);
  for (const path of files.keys()) kindOf(tree.root, path);
  for (const [path, content] of files) tree.write(path, content);
  return () => {
    process.stdout.write(`\n${describeMissing(plan)}`);
    if (plan.isNew) process.stdout.write(`"npm install" makes ${plan.driver.package} a package of the workspace.\n`);
  };
}

function isFree(tree: GeneratorTree, directory: string): boolean {
  kindOf(tree.root, directory);
  if (!tree.exists(directory)) return true;
  if (tree.isFile(directory)) throw new GeneratorError(`${directory} is a file`);
  return directory !== '.' && tree.children(directory).length === 0;
}

const readText = (tree: GeneratorTree, path: string): string | undefined =>
  tree.exists(path) && tree.isFile(path) ? (tree.read(path, 'utf-8') ?? undefined) : undefined;

function settingOf(tree: GeneratorTree, directory: string): Setting {
  const root = JSON.parse(readText(tree, 'package.json') ?? '{}') as Record<string, unknown>;
  const license = readText(tree, 'LICENSE');
  // Both or neither: a text without its name says nothing, and a name is false with another text.
  const isLicensed = typeof root['license'] === 'string' && license !== undefined;
  const about = Object.fromEntries(
    ['author', 'homepage', 'bugs', 'repository'].flatMap((key) => (key in root ? [[key, root[key]]] : [])),
  ) as WorkspaceAbout;
  return {
    version,
    workspace: {
      directory,
      sharesConfig: SHARED.every((path) => tree.exists(path)),
      about: { ...(isLicensed ? { license: root['license'] as string } : {}), ...about },
      ...(isLicensed ? { license } : {}),
    },
  };
}

/** The changeset of what is new, where the workspace keeps changesets. */
function changeset(tree: GeneratorTree, { driver, isNew, created }: Plan): [path: string, content: string][] {
  if (!tree.exists('.changeset/config.json') || created.size === 0) return [];
  const features = FEATURES.filter((feature) => driver.features.has(feature));
  const path = `.changeset/${isNew ? driver.base : [driver.base, ...features].join('-')}.md`;
  if (tree.exists(path)) return [];
  return [[path, isNew ? renderChangeset(driver) : renderChangeset(driver, `Has ${features.join(', ')}`)]];
}
