import { defineConfig } from 'tsup';
import { base } from '../../tsup.config.base.ts';

export default defineConfig({
  ...base,
  // `index` runs in a browser; what needs Node is in `node/`.
  entry: { index: 'src/index.ts', 'node/index': 'src/node/index.ts', 'node/vfio-alias': 'src/node/vfio-alias.ts' },
});
