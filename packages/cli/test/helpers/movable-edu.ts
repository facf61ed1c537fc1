import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { folder, ROOT } from './run.js';

/**
 * The driver of a project that nobody here knows: it migrates the emulated edu functions. The state is what their liveness
 * register shows, in front of as many bytes as EDU_STATE_BYTES says, which the destination checks one by one.
 */
const DRIVER = `
import { defineVfioDriver, pciDriverOverrideDeviceVfio, vfioPciCoreProbe, vfioPciCoreRemove } from '@vfio/core';

const SIZE = Number(process.env.EDU_STATE_BYTES ?? 4096);
const LIVENESS = 4;
const [STOP, RUNNING, STOP_COPY, RESUMING] = [1, 2, 3, 4];
const byteAt = (at) => (at * 31 + (at >> 8)) & 0xff;

class Migration {
  #base;
  #state = RUNNING;
  #loaded = 0;
  #head = new Uint8Array(4);

  constructor(base) {
    this.#base = base;
  }

  reset() {
    this.#state = RUNNING;
  }

  ops = {
    getState: () => this.#state,
    getDataSize: () => BigInt(4 + SIZE),
    setState: (dev, next) => {
      if (this.#state === RESUMING) this.#finish(dev);
      this.#state = next;
      if (next === STOP_COPY) return this.#save(dev);
      return next === RESUMING ? this.#load(dev) : undefined;
    },
  };

  #save(dev) {
    const head = new Uint8Array(4);
    this.#base.read(dev, 0, LIVENESS, head);
    let at = 0;
    return {
      read(into) {
        const count = Math.min(into.length, 4 + SIZE - at);
        for (let n = 0; n < count; n++, at++) into[n] = at < 4 ? head[at] : byteAt(at - 4);
        return count;
      },
      write: () => this.#refuse(dev, 'write', 'the stream is for reading'),
      precopyInfo: () => this.#refuse(dev, 'precopyInfo', 'there is no pre-copy'),
      close() {},
    };
  }

  #load(dev) {
    this.#loaded = 0;
    return {
      write: (from) => {
        for (const byte of from) {
          const at = this.#loaded++;
          if (at < 4) this.#head[at] = byte;
          else if (at >= 4 + SIZE || byte !== byteAt(at - 4)) this.#refuse(dev, 'write', 'byte ' + at + ' of the state is wrong');
        }
        return from.length;
      },
      read: () => this.#refuse(dev, 'read', 'the stream is for writing'),
      precopyInfo: () => this.#refuse(dev, 'precopyInfo', 'there is no pre-copy'),
      close() {},
    };
  }

  #finish(dev) {
    if (this.#loaded !== 4 + SIZE) {
      this.#state = 0;
      this.#refuse(dev, 'MIG_DEVICE_STATE', 'the state ends after ' + this.#loaded + ' bytes');
    }
    this.#base.write(dev, 0, LIVENESS, this.#head.map((byte) => ~byte & 0xff));
  }

  #refuse(dev, op, why) {
    throw dev.error('EINVAL', op, why);
  }
}

const ops = (base) => ({
  ...base,
  name: 'movable-edu',
  init(dev) {
    base.init(dev);
    const migration = new Migration(base);
    dev.migrationFlags = 1;
    dev.migrationOps = migration.ops;
    dev.resetDone.push(() => migration.reset());
  },
});

export const driver = defineVfioDriver({
  name: 'movable_edu',
  idTable: [pciDriverOverrideDeviceVfio(0x1234, 0x11e8), pciDriverOverrideDeviceVfio(0x1234, 0x11e9)],
  async probe(fn, _id, bus) {
    await vfioPciCoreProbe(bus, fn, { ops });
  },
  remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
});
`;

/** A project whose only driver is that one. */
export const EDU_PROJECT = join(folder, 'edu-project');
const PACKAGE = join(EDU_PROJECT, 'node_modules/movable-edu');
mkdirSync(PACKAGE, { recursive: true });
mkdirSync(join(EDU_PROJECT, 'node_modules/@vfio'));
// The driver imports the one; what has the other is the command's own project, whose drivers are used.
for (const name of ['core', 'cli']) {
  symlinkSync(join(ROOT, 'packages', name), join(EDU_PROJECT, 'node_modules/@vfio', name));
}
writeFileSync(
  join(EDU_PROJECT, 'package.json'),
  JSON.stringify({ name: 'edu-project', dependencies: { 'movable-edu': '*' } }),
);
writeFileSync(
  join(PACKAGE, 'package.json'),
  JSON.stringify({
    name: 'movable-edu',
    version: '1.2.3',
    type: 'module',
    exports: { './driver': './driver.js', './package.json': './package.json' },
    vfio: { api: 1, drivers: [{ name: 'movable_edu', export: './driver', alias: 'modules.alias', requires: [] }] },
  }),
);
writeFileSync(join(PACKAGE, 'driver.js'), DRIVER);
writeFileSync(
  join(PACKAGE, 'modules.alias'),
  ['11E8', '11E9'].map((id) => `alias vfio_pci:v00001234d0000${id}sv*sd*bc*sc*i* movable_edu\n`).join(''),
);
