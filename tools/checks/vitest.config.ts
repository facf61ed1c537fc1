import { defineConfig } from 'vitest/config';
import { base } from '../../vitest.config.base.ts';

// Many tests here start processes, each of which may have to wait for its turn on a busy machine.
export default defineConfig({ ...base, test: { ...base.test, testTimeout: 120_000 } });
