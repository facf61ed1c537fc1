import type { Driver } from './options.js';
import type { Setting } from './render.js';

/** What a package needs to be built, tested and checked where no workspace brings it; versions that run on Node 20.19. */
export const TOOLS: Readonly<Record<string, string>> = {
  '@arethetypeswrong/cli': '0.18.5',
  '@biomejs/biome': '2.6.8',
  '@types/node': '20.19.43',
  publint: '0.3.25',
  tsup: '8.5.1',
  typescript: '6.0.3',
  vitest: '4.1.12',
};

const NODE = '>=20.19';

const sorted = (versions: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(versions).sort(([a], [b]) => (a < b ? -1 : 1)));

/** The package.json of a driver. */
export function renderManifest(driver: Driver, { version, workspace }: Setting): string {
  const shared = workspace?.sharesConfig === true;
  const source = (file: string) => (shared ? { '@vfio/source': `./src/${file}.ts` } : {});
  const built = (file: string) => ({
    ...source(file),
    types: `./dist/${file}.d.ts`,
    default: `./dist/${file}.js`,
  });
  const { repository, ...about } = workspace?.about ?? {};
  const range = `^${version}`;
  const manifest = {
    name: driver.package,
    version: '0.0.0',
    description: driver.description,
    license: 'MIT',
    author: `the ${driver.base} contributors`,
    ...about,
    ...(repository === undefined ? {} : { repository: { ...repository, directory: workspace?.directory } }),
    keywords: ['vfio', 'pci', 'passthrough'],
    type: 'module',
    engines: { node: NODE },
    sideEffects: false,
    exports: { '.': built('index'), './driver': built('device'), './package.json': './package.json' },
    types: './dist/index.d.ts',
    files: ['dist', 'src', '!src/**/*.test.ts'],
    // npm refuses provenance for a package that does not say where it is from.
    publishConfig: { access: 'public', ...(repository === undefined ? {} : { provenance: true }) },
    scripts: {
      build: 'tsup && tsc -p tsconfig.build.json && vfio-alias --quiet',
      typecheck: 'tsc -p tsconfig.json --noEmit',
      ...(workspace === undefined ? { lint: 'biome check .', format: 'biome check --write .' } : {}),
      test: 'vitest run',
      'check:package': 'publint --strict && attw --pack . --profile esm-only',
      ...(workspace === undefined ? { prepack: 'npm run build' } : {}),
    },
    dependencies: { '@vfio/core': range, '@vfio/uapi': range },
    devDependencies: sorted({ '@vfio/emulated': range, '@vfio/testing': range, ...(shared ? {} : TOOLS) }),
    vfio: {
      api: 1,
      drivers: [{ name: driver.driver, export: './driver', alias: 'dist/modules.alias', requires: driver.requires }],
    },
  };
  return `${JSON.stringify(manifest, null, 2)}\n`;
}
