import { defineConfig } from 'tsup';
import { base } from '../../tsup.config.base.ts';

export default defineConfig({
  ...base,
  entry: { index: 'src/index.ts', bin: 'src/bin.ts', 'serve/worker': 'src/serve/worker.ts' },
});
