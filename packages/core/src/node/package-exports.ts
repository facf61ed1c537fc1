/**
 * Which file a subpath of a package's `exports` names, by Node's rules. Node's own resolver answers only for what the asking
 * module can see, which is not where a driver package is looked up from, and runs no conditions but its own.
 */

/** What an `import` of Node's resolves with. */
export const NODE_CONDITIONS: readonly string[] = ['node', 'import', 'module-sync', 'default'];

/**
 * The path that a subpath leads to, relative to the package and beginning with `./`; undefined where the package does not
 * export it. The path is as the package has it: who uses it checks that it stays inside.
 */
export function resolveExport(
  packageJson: Readonly<Record<string, unknown>>,
  subpath: string,
  conditions: readonly string[] = NODE_CONDITIONS,
): string | undefined {
  const { exports, main } = packageJson as { exports?: unknown; main?: unknown };
  const active = new Set([...conditions, 'default']);
  if (exports === undefined || exports === null) {
    // Without exports every file is one.
    if (subpath !== '.') return subpath;
    return typeof main === 'string' ? `./${main.replace(/^\.\//, '')}` : './index.js';
  }
  if (!isSubpathMap(exports)) return subpath === '.' ? resolveTarget(exports, active, undefined) : undefined;
  if (Object.hasOwn(exports, subpath) && !subpath.includes('*'))
    return resolveTarget(exports[subpath], active, undefined);
  const pattern = bestPattern(Object.keys(exports), subpath);
  if (pattern === undefined) return undefined;
  const [before = '', after = ''] = pattern.split('*');
  return resolveTarget(exports[pattern], active, subpath.slice(before.length, subpath.length - after.length));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Keys of exports are all subpaths or all conditions. */
function isSubpathMap(exports: unknown): exports is Record<string, unknown> {
  return isObject(exports) && Object.keys(exports).some((key) => key.startsWith('.'));
}

/** The pattern with the longest part before its star, then the longest altogether. */
function bestPattern(keys: readonly string[], subpath: string): string | undefined {
  let best: string | undefined;
  for (const key of keys) {
    const star = key.indexOf('*');
    if (star === -1 || key.indexOf('*', star + 1) !== -1) continue;
    const before = key.slice(0, star);
    const after = key.slice(star + 1);
    const fits = subpath.length >= key.length && subpath.startsWith(before) && subpath.endsWith(after);
    if (!fits) continue;
    const bestStar = best?.indexOf('*') ?? -1;
    if (best === undefined || star > bestStar || (star === bestStar && key.length > best.length)) best = key;
  }
  return best;
}

function resolveTarget(target: unknown, conditions: ReadonlySet<string>, star: string | undefined): string | undefined {
  if (typeof target === 'string') {
    if (!target.startsWith('./')) return undefined;
    return star === undefined ? target : target.replaceAll('*', () => star);
  }
  if (Array.isArray(target)) {
    for (const item of target) {
      const path = resolveTarget(item, conditions, star);
      if (path !== undefined) return path;
    }
    return undefined;
  }
  if (!isObject(target)) return undefined;
  for (const [condition, value] of Object.entries(target)) {
    if (!conditions.has(condition)) continue;
    // The first that is active and not a dead end; an explicit null ends the search.
    if (value === null) return undefined;
    const path = resolveTarget(value, conditions, star);
    if (path !== undefined) return path;
  }
  return undefined;
}
