import { defineConfig } from 'vitest/config';
import { base } from '../../vitest.config.base.ts';

const scale = Number(process.env['VFIO_E2E_TIME_SCALE'] || 1);

export default defineConfig({
  ...base,
  test: {
    ...base.test,
    include: ['test/**/*.e2e.ts'],
    fileParallelism: false,
    testTimeout: 600_000 * scale,
    hookTimeout: 300_000 * scale,
  },
});
