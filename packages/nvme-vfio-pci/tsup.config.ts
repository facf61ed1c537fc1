import { defineConfig } from 'tsup';
import { base } from '../../tsup.config.base.ts';

export default defineConfig({
  ...base,
  entry: { index: 'src/index.ts', device: 'src/device.ts', 'parent/index': 'src/parent/index.ts' },
});
