const { existsSync, readdirSync, readFileSync } = require('node:fs');
const { join } = require('node:path');

const PACKAGES = join(__dirname, 'packages');
/** Packages that declare drivers: one that was just generated keeps the rules of all others. */
const DRIVERS = readdirSync(PACKAGES).filter((name) => {
  const manifest = join(PACKAGES, name, 'package.json');
  return existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).vfio !== undefined;
});

/**
 * The layer rules of the architecture (docs/architecture/layers.md), as data: what each package's sources may import
 * from this repository. Tests are free to import what their package declares in devDependencies.
 */
const MAY_IMPORT = {
  uapi: [],
  core: ['uapi'],
  native: ['uapi'],
  ...Object.fromEntries(DRIVERS.map((name) => [name, ['core', 'uapi']])),
  emulated: ['core', 'uapi'],
  testing: ['core', 'uapi'],
  'vfio-user': ['core', 'native', 'uapi'],
  linux: ['core', 'native', 'uapi'],
  cli: ['core', 'vfio-pci', 'linux', 'emulated', 'vfio-user'],
  nx: [],
  'create-variant-driver': ['nx'],
};

/** Packages whose main entry also runs in a browser: no Node built-ins outside the folder `src/node`. */
const PURE = ['uapi', 'core', ...DRIVERS, 'emulated', 'testing'];

const sources = (name) => `(^|/)packages/${name}/src/`;
const TESTS = '\\.(test|prop\\.test)\\.ts$';

module.exports = {
  forbidden: [
    {
      name: 'no-circular',
      comment: 'Data flows one way; a cycle of values is a missing file. Types may refer to each other.',
      severity: 'error',
      from: { path: '(^|/)(packages|docs/examples)/' },
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    ...Object.entries(MAY_IMPORT).map(([name, allowed]) => ({
      name: `layers-${name}`,
      comment: `${name} may import ${allowed.length === 0 ? 'no other package' : allowed.join(', ')}.`,
      severity: 'error',
      from: { path: sources(name), pathNot: TESTS },
      to: { path: '(^|/)packages/', pathNot: `(^|/)packages/(${[name, ...allowed].join('|')})/` },
    })),
    ...PURE.map((name) => ({
      name: `pure-${name}`,
      comment: `The main entry of ${name} runs where there is no Node.`,
      severity: 'error',
      from: { path: sources(name), pathNot: [TESTS, `${sources(name)}node/`] },
      to: { dependencyTypes: ['core'] },
    })),
    {
      name: 'layers-examples',
      comment: 'An example is a driver like any other: it may import core, uapi.',
      severity: 'error',
      from: { path: '(^|/)docs/examples/[^/]+/src/', pathNot: TESTS },
      to: { path: '(^|/)(packages|tools)/', pathNot: '(^|/)packages/(core|uapi)/' },
    },
    {
      name: 'no-package-imports-examples',
      comment: 'Examples are private and never published.',
      severity: 'error',
      from: { path: '(^|/)packages/' },
      to: { path: '(^|/)docs/' },
    },
    {
      name: 'no-package-imports-tools',
      comment: 'Tools are private and never published.',
      severity: 'error',
      from: { path: '(^|/)packages/', pathNot: TESTS },
      to: { path: '(^|/)tools/(contract|oracles|e2e|bench)/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '(^|/)(dist|build|coverage)/' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.base.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['@vfio/source', 'import', 'node', 'default', 'types'],
      mainFields: ['module', 'main', 'types'],
    },
  },
};
