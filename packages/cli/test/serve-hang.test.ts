import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connectUnix, sendMessage } from '@vfio/native';
import { expect, test } from 'vitest';
import { ControlClient } from '../src/serve/control/client.js';
import { Serving } from './helpers/command.js';
import { folder, ROOT } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

/** A driver for edu whose writes to BAR 0 do not come back for two seconds. */
const DRIVER = `
import { defineVfioDriver, pciDriverOverrideDeviceVfio, vfioPciCoreProbe, vfioPciCoreRemove } from '@vfio/core';

export const driver = defineVfioDriver({
  name: 'hanging',
  idTable: [pciDriverOverrideDeviceVfio(0x1234, 0x11e8)],
  async probe(fn, _id, bus) {
    await vfioPciCoreProbe(bus, fn, {
      ops: (core) => ({
        ...core,
        name: 'hanging',
        write(dev, region, offset, data) {
          if (region === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2000);
          return core.write(dev, region, offset, data);
        },
      }),
    });
  },
  remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
});
`;

function project(): string {
  const root = join(folder, 'hang');
  const driver = join(root, 'node_modules/hanging');
  mkdirSync(driver, { recursive: true });
  symlinkSync(join(ROOT, 'node_modules/@vfio'), join(root, 'node_modules/@vfio'));
  writeFileSync(join(root, 'package.json'), JSON.stringify({ name: 'hang', dependencies: { hanging: '1.0.0' } }));
  writeFileSync(
    join(driver, 'package.json'),
    JSON.stringify({
      name: 'hanging',
      version: '1.0.0',
      type: 'module',
      exports: { './driver': './driver.js', './package.json': './package.json' },
      vfio: { api: 1, drivers: [{ name: 'hanging', export: './driver', alias: 'modules.alias', requires: [] }] },
    }),
  );
  writeFileSync(join(driver, 'modules.alias'), 'alias vfio_pci:v00001234d000011E8sv*sd*bc*sc*i* hanging\n');
  writeFileSync(join(driver, 'driver.js'), DRIVER);
  return root;
}

test('[vfio-user 7.23] an operation of a driver that does not come back is named while it hangs; the control socket answers what it can', async () => {
  const [path, control] = [join(folder, 'hang.sock'), join(folder, 'hang.control')];
  const server = new Serving(['00:02.0', '--socket-path', path, '--control-path', control], { cwd: project() });
  await server.next('ready');
  expect(server.events[0]).toMatchObject({ driver: 'hanging' });
  const fd = connectUnix(path);
  const header = (id: number, command: number, size: number) => {
    const bytes = Buffer.alloc(16);
    bytes.writeUInt16LE(id, 0);
    bytes.writeUInt16LE(command, 2);
    bytes.writeUInt32LE(16 + size, 4);
    return bytes;
  };
  sendMessage(fd, [header(1, 1, 4), Buffer.alloc(4)]);
  await server.next('attached');
  const access = Buffer.alloc(20);
  access.writeUInt32LE(4, 0);
  access.writeUInt32LE(4, 12);
  sendMessage(fd, [header(2, 10, access.length), access]);
  const warning = await server.next('warning');
  expectSchema('serve', warning);
  expect(warning.address).toBe('0000:00:02.0');
  expect(warning.message).toMatch(/^REGION_WRITE of region 0, offset 0x4 has not come back for \d+ ms/);
  await using client = await ControlClient.connect(control);
  expect(client.hello.functions).toEqual(['0000:00:02.0']);
  await expect(client.call('state', {}, { timeoutMs: 50 })).rejects.toMatchObject({ code: 'ERR_VFIO_TIMEOUT' });
  // It comes back after two seconds.
  expect(await client.call('state', {})).toMatchObject({ inUse: true });
  expect(await server.end()).toBe(0);
});
