import { readdir, realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { compilePattern } from '../pci/fnmatch.js';
import {
  isFile,
  nearestPackage,
  nearestPackageAsGiven,
  type PackageJson,
  readPackageJson,
  resolvePackage,
} from './package-files.js';

/** Where packages are looked for. */
export interface SearchOptions {
  /** A directory; its nearest package.json says what is considered. */
  readonly from: string;
  /** A file of the program that asks, where that is a command that may be installed globally. */
  readonly cli?: string | undefined;
}

/** What is considered: real directories in no particular order, each once. */
export interface PackageSearch {
  /** The nearest package, or undefined where there is none or the program is a global one. */
  readonly project: string | undefined;
  readonly directories: readonly string[];
  /** `node_modules` directories in which a package that is not considered may lie. */
  readonly searched: readonly string[];
  /** A package.json on the way that could not be read. */
  readonly broken: readonly { readonly directory: string; readonly cause: unknown }[];
}

const DEPENDENCY_FIELDS = ['dependencies', 'devDependencies', 'optionalDependencies', 'peerDependencies'] as const;

/** A package name as npm allows it: it becomes a path here. */
const PACKAGE_NAME = /^(?:@[a-z0-9~_-][a-z0-9._~-]*\/)?[a-z0-9~_-][a-z0-9._~-]*$/i;

/** Names of the packages that a package.json depends on directly. */
export function directDependencies(json: Readonly<Record<string, unknown>>): string[] {
  const names = new Set<string>();
  for (const field of DEPENDENCY_FIELDS) {
    const value = json[field];
    if (typeof value !== 'object' || value === null) continue;
    for (const name of Object.keys(value)) if (PACKAGE_NAME.test(name)) names.add(name);
  }
  return [...names];
}

/** Patterns of a `workspaces` field, npm's and yarn's form. */
function workspacePatterns(json: Readonly<Record<string, unknown>>): string[] {
  const field = json['workspaces'];
  const list = Array.isArray(field) ? field : (field as { packages?: unknown } | undefined)?.packages;
  return Array.isArray(list) ? list.filter((item) => typeof item === 'string') : [];
}

/** How deep `**` looks: deeper trees of workspaces are not met. */
const MAX_DEPTH = 5;

/** Names of the folders in a directory, links included; none where it cannot be read: nothing could be loaded from there. */
async function subdirectories(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
  return entries
    .filter(
      (entry) =>
        (entry.isDirectory() || entry.isSymbolicLink()) && entry.name !== 'node_modules' && !entry.name.startsWith('.'),
    )
    .map((entry) => entry.name)
    .sort();
}

async function expand(directory: string, parts: readonly string[], depth = 0): Promise<string[]> {
  const [part, ...rest] = parts;
  if (part === undefined) return [directory];
  // Workspaces lie below their root.
  if (part === '..') return [];
  if (part === '' || part === '.') return await expand(directory, rest, depth);
  if (part === '**') {
    const found = await expand(directory, rest, depth);
    if (depth >= MAX_DEPTH) return found;
    for (const name of await subdirectories(directory))
      found.push(...(await expand(join(directory, name), parts, depth + 1)));
    return found;
  }
  const matches = compilePattern(part);
  const found: string[] = [];
  for (const name of await subdirectories(directory)) {
    if (matches(name)) found.push(...(await expand(join(directory, name), rest, depth)));
  }
  return found;
}

/** Directories of a workspace root's members. */
async function workspaceMembers(root: PackageJson): Promise<string[]> {
  const members = new Set<string>();
  for (const pattern of workspacePatterns(root.json)) {
    const exclude = pattern.startsWith('!');
    for (const directory of await expand(root.directory, pattern.replace(/^!/, '').split('/'))) {
      if (exclude) members.delete(directory);
      else if (await isFile(join(directory, 'package.json'))) members.add(directory);
    }
  }
  return [...members];
}

/** The packages in one `node_modules` directory, scoped ones too. */
export async function packagesIn(modules: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of await subdirectories(modules)) {
    if (!name.startsWith('@')) found.push(join(modules, name));
    else for (const scoped of await subdirectories(join(modules, name))) found.push(join(modules, name, scoped));
  }
  const packages = await Promise.all(
    found.map(async (path) => ((await isFile(join(path, 'package.json'))) ? path : undefined)),
  );
  return packages.filter((path) => path !== undefined);
}

/** The `node_modules` directory in which a package is installed; undefined where it is not in one (a checkout, a linked one). */
function modulesOf(directory: string): string | undefined {
  const parent = dirname(directory);
  if (basename(parent) === 'node_modules') return parent;
  const grandparent = dirname(parent);
  return basename(parent).startsWith('@') && basename(grandparent) === 'node_modules' ? grandparent : undefined;
}

/** `node_modules` directories that modules in `directory` can see. */
function visibleModules(directory: string): string[] {
  const found: string[] = [];
  for (let at = directory; ; at = dirname(at)) {
    if (basename(at) !== 'node_modules') found.push(join(at, 'node_modules'));
    if (dirname(at) === at) return found;
  }
}

/**
 * Finds the packages to consider: the nearest package, what it depends on directly, and the members where it is the root of
 * workspaces. A command that is not part of that project (a global one) considers its own siblings and dependencies
 * instead: running it in a stranger's folder must not run the stranger's code. One that is part of it adds what it
 * itself depends on, after the project's.
 */
export async function findPackages({ from, cli }: SearchOptions): Promise<PackageSearch> {
  const broken: { directory: string; cause: unknown }[] = [];
  const directories = new Set<string>();
  const read = async (directory: string): Promise<PackageJson | undefined> => {
    try {
      return await readPackageJson(directory);
    } catch (cause) {
      broken.push({ directory, cause });
      return undefined;
    }
  };
  const addDependencies = async (root: PackageJson, unlessSeenFrom?: string): Promise<void> => {
    for (const name of directDependencies(root.json)) {
      const seen = unlessSeenFrom === undefined ? undefined : await resolvePackage(unlessSeenFrom, name);
      if (seen !== undefined && directories.has(seen)) continue;
      const directory = await resolvePackage(root.directory, name);
      if (directory !== undefined) directories.add(directory);
    }
  };
  const addProject = async (root: PackageJson): Promise<void> => {
    directories.add(root.directory);
    for (const member of await workspaceMembers(root)) directories.add(await realpath(member));
    await addDependencies(root);
  };

  const projectDirectory = await nearestPackage(from);
  const project = projectDirectory === undefined ? undefined : await read(projectDirectory);
  const cliDirectory = cli === undefined ? undefined : await nearestPackage(cli);
  const command = cliDirectory === undefined ? undefined : await read(cliDirectory);

  if (project !== undefined) await addProject(project);
  if (command === undefined) {
    return search(
      project?.directory,
      directories,
      project === undefined ? [] : visibleModules(project.directory),
      broken,
    );
  }
  const own = project !== undefined && (await isPartOf(project, command, directories));
  if (own) {
    // Of a package in two versions, the project's own counts.
    await addDependencies(command, project.directory);
    return search(project.directory, directories, visibleModules(project.directory), broken);
  }
  directories.clear();
  // A linked installation has its siblings where the link is.
  const linked = await nearestPackageAsGiven(cli as string);
  for (const siblings of new Set([modulesOf(command.directory), modulesOf(linked ?? command.directory)])) {
    if (siblings !== undefined) for (const path of await packagesIn(siblings)) directories.add(await realpath(path));
  }
  await addDependencies(command);
  return search(undefined, directories, visibleModules(command.directory), broken);
}

function search(
  project: string | undefined,
  directories: ReadonlySet<string>,
  searched: readonly string[],
  broken: PackageSearch['broken'],
): PackageSearch {
  return { project, directories: [...directories], searched, broken };
}

/** Whether a command belongs to a project: it is the project, one of what it considers, or what the project resolves its name to. */
async function isPartOf(project: PackageJson, command: PackageJson, considered: ReadonlySet<string>): Promise<boolean> {
  if (considered.has(command.directory)) return true;
  return (await resolvePackage(project.directory, command.name)) === command.directory;
}
