import type { ViteUserConfig } from 'vitest/config';

/** What every package's tests have in common: packages of this repository are read from source. */
export const base: ViteUserConfig = {
  resolve: { conditions: ['@vfio/source', 'node', 'import', 'default'] },
  ssr: { resolve: { conditions: ['@vfio/source', 'node', 'import', 'default'] } },
  test: {
    include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
    passWithNoTests: false,
    // For a machine that has other things to do; no test waits for it to pass.
    testTimeout: 60_000,
  },
};
