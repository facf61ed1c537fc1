import { defineConfig } from 'vitest/config';
import { base } from '../../vitest.config.base.ts';

export default defineConfig({
  ...base,
  test: {
    ...base.test,
    include: ['test/**/*.e2e.ts'],
    globalSetup: ['src/global-setup.ts'],
    // A guest takes two cores.
    fileParallelism: false,
    testTimeout: 180_000,
    hookTimeout: 300_000,
  },
});
