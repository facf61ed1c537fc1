import type { Options } from 'tsup';

/** What every package's bundle has in common; declarations come from `tsc` (see tsconfig.build.json). */
export const base: Options = {
  entry: ['src/index.ts'],
  format: ['esm'],
  target: 'node20',
  platform: 'node',
  dts: false,
  sourcemap: true,
  clean: true,
  splitting: true,
  treeshake: true,
};
