import { defineConfig } from 'vitest/config';
import { base } from '../../vitest.config.base.ts';

export default defineConfig({
  ...base,
  test: {
    ...base.test,
    include: ['test/**/*.e2e.ts'],
    testTimeout: 300_000,
    // Downloads where the cache is cold.
    hookTimeout: 1_200_000,
  },
});
