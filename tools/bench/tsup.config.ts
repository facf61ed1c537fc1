import { defineConfig } from 'tsup';
import { base } from '../../tsup.config.base.ts';

export default defineConfig({
  ...base,
  entry: ['src/main.ts', 'src/edu-server.ts', 'src/move-end.ts', 'src/nvme-server.ts'],
});
