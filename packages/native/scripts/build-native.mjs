// Builds the addon into build/Release, or with --prebuilds the binary that is shipped in prebuilds/.
// Works without network: the headers are those beside the running Node, or those of the node-api-headers package.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, realpathSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const root = dirname(dirname(fileURLToPath(import.meta.url)));

if (process.platform !== 'linux') {
  process.stderr.write(`@vfio/native: the addon is for Linux; nothing is built on ${process.platform}\n`);
  process.exit(0);
}

/** A folder as node-gyp's --nodedir wants it: include/node with the headers and common.gypi. */
function findNodeDir() {
  const prefix = dirname(dirname(realpathSync(process.execPath)));
  const installed = join(prefix, 'include', 'node');
  if (existsSync(join(installed, 'node_api.h')) && existsSync(join(installed, 'common.gypi'))) return prefix;
  return makeNodeDir();
}

/** The addon uses Node-API only, so the four headers of node-api-headers are enough; node-gyp also asks for two gypi files. */
function makeNodeDir() {
  const dir = join(root, '.cache', 'node-headers');
  const include = join(dir, 'include', 'node');
  mkdirSync(include, { recursive: true });
  const source = require('node-api-headers').include_dir;
  for (const name of readdirSync(source)) copyFileSync(join(source, name), join(include, name));
  const common = {
    target_defaults: {
      default_configuration: 'Release',
      configurations: { Release: { cflags: ['-O2'] }, Debug: { cflags: ['-O0', '-g'] } },
      cflags: ['-pthread'],
      ldflags: ['-pthread'],
    },
  };
  writeFileSync(join(include, 'common.gypi'), `${JSON.stringify(common, null, 2)}\n`);
  const config = { target_defaults: {}, variables: { ...process.config.variables, node_shared_openssl: false } };
  writeFileSync(join(include, 'config.gypi'), `${JSON.stringify(config, null, 2)}\n`);
  return dir;
}

/** Runs a tool's own script with this Node, so that nothing depends on PATH. */
function run(script, args, env) {
  const result = spawnSync(process.execPath, [script, ...args], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  });
  if (result.error) throw result.error;
  if (result.status !== 0) process.exit(result.status ?? 1);
}

const nodeDir = process.env.VFIO_NODE_DIR ?? findNodeDir();
const nodeGyp = require.resolve('node-gyp/bin/node-gyp.js');
if (process.argv.includes('--prebuilds')) {
  run(require.resolve('prebuildify/bin.js'), ['--napi', '--strip', '--tag-libc'], {
    npm_config_nodedir: nodeDir,
    npm_config_node_gyp: nodeGyp,
  });
} else {
  // Not "rebuild": that deletes the addon under whoever uses it, for as long as the compiler runs.
  run(nodeGyp, ['configure', 'build', '--nodedir', nodeDir, '--loglevel', process.env.CI ? 'info' : 'warn'], {});
}
