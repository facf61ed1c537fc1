/** The recorded runs of the kernel's mtty, step by step: `tools/oracles/vectors/mtty`. */
import { readFileSync } from 'node:fs';
import { isVfioError, type MigrationData, migrationStateName } from '@vfio/core';
import { ERRNO, VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_SET } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import type { StreamMinor } from '../src/stream.js';
import { Card, STATE } from './helpers/setup.js';

const VECTORS = new URL('../../../../tools/oracles/vectors/mtty/', import.meta.url);
const SCRATCH = 7;

/** Lines that say how the device was reached, not what it did. */
const OPENING = /^(cdev|BIND_IOMMUFD|ATTACH_IOMMUFD_PT|group|device fd) /;

/** What is compared: which number a descriptor has, and what the caller passed as argsz, is not the device's. */
function comparable(line: string): string {
  return line.replace(/data_fd \d+/, 'data_fd n').replace(/ argsz \d+/, '');
}

function recorded(name: string): string[] {
  const lines = readFileSync(new URL(name, VECTORS), 'utf8').split(/\r?\n/);
  const from = lines.findIndex((line) => line.startsWith('GET_INFO'));
  const to = lines.findIndex((line) => line.startsWith('RESET'));
  return lines
    .slice(from, to + 1)
    .filter((line) => !OPENING.test(line))
    .map(comparable);
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Does to a card, and to the one that it is moved to, what the recorded program did to mtty. Gives the lines that it printed. */
async function replay(source: Card, target: Card): Promise<string[]> {
  const lines: string[] = [];
  const errnoOf = async (call: () => unknown): Promise<string> => {
    try {
      await call();
      return '0';
    } catch (error) {
      if (!isVfioError(error)) throw error;
      return error.errno ?? 'no errno';
    }
  };
  const { device } = source;

  const info = device.getInfo();
  lines.push(`GET_INFO 0 flags ${info.flags} regions ${info.numRegions} irqs ${info.numIrqs}`);
  for (let index = 0; index < 9; index++) {
    let [flags, size, offset] = [0, 0, 0];
    const errno = await errnoOf(() => {
      ({ flags, size, offset } = device.getRegionInfo(index));
    });
    lines.push(`REGION ${index} ${errno} flags ${flags} size ${size.toString(16)} off ${offset.toString(16)}`);
  }
  for (let index = 0; index < 5; index++) {
    let [flags, count] = [0, 0];
    const errno = await errnoOf(() => {
      ({ flags, count } = device.getIrqInfo(index));
    });
    lines.push(`IRQ ${index} ${errno} flags ${flags} count ${count}`);
  }
  const config = new Uint8Array(64);
  device.read(7, 0, config);
  lines.push(`cfg 64 ${hex(config)}`);
  for (let feature = 0; feature < 14; feature++) {
    const probe = (way: number) =>
      errnoOf(() => device.deviceFeature({ flags: feature | VFIO_DEVICE_FEATURE_PROBE | way }));
    const errnos = [await probe(0), await probe(VFIO_DEVICE_FEATURE_GET), await probe(VFIO_DEVICE_FEATURE_SET)];
    lines.push(`FEATURE ${feature} ${errnos.join('/')}`);
  }

  const state = async (card: Card) => migrationStateName(await card.state());
  const set = async (card: Card, name: keyof typeof STATE): Promise<MigrationData | undefined> => {
    let data: MigrationData | undefined;
    const errno = await errnoOf(async () => {
      data = await card.set(STATE[name]);
    });
    lines.push(`  SET ${name} ${errno} data_fd ${data === undefined ? -1 : 'n'}`);
    return data;
  };
  const read = async (what: string, data: MigrationData | undefined): Promise<Uint8Array> => {
    const bytes = new Uint8Array(4096);
    const count = (await data?.read(bytes)) ?? -1;
    lines.push(`   ${what} read ${count} bytes ${hex(bytes.subarray(0, count))}`);
    return bytes.subarray(0, count);
  };
  const precopyInfo = async (what: string, data: MigrationData | undefined) => {
    const found = await data?.precopyInfo();
    lines.push(`  ${what} 0 initial ${found?.initialBytes}n dirty ${found?.dirtyBytes}n`);
  };

  const migration = (await device.deviceFeature({ flags: 1 | VFIO_DEVICE_FEATURE_GET })) as { flags: number };
  lines.push(`MIGRATION flags 0 ${migration.flags.toString(2)} (1 STOP_COPY,2 P2P,4 PRE_COPY)`);
  lines.push(`state ${await state(source)}`);
  const size = (await device.deviceFeature({ flags: 9 | VFIO_DEVICE_FEATURE_GET })) as { stopCopyLength: bigint };
  lines.push(`MIG_DATA_SIZE 0 ${size.stopCopyLength}n`);
  source.write(0, SCRATCH, 0xa5);
  lines.push(`scratch reg before ${source.read(0, SCRATCH).toString(16)}`);

  const precopy = await set(source, 'PRE_COPY');
  await precopyInfo('PRECOPY_INFO', precopy);
  await read('precopy', precopy);
  source.write(0, SCRATCH, 0x77);
  await precopyInfo('PRECOPY_INFO2', precopy);
  await set(source, 'STOP_COPY');
  lines.push(`state ${await state(source)}`);
  await read('stopcopy via precopy fd', precopy);
  await set(source, 'STOP');
  const image = await read('fresh stop_copy', await set(source, 'STOP_COPY'));
  await set(source, 'STOP');
  await set(source, 'RUNNING');
  lines.push(`state ${await state(source)}`);

  lines.push(`dst state ${await state(target)}`);
  const resuming = await set(target, 'RESUMING');
  lines.push(`dst state ${await state(target)}`);
  lines.push(`  wrote ${await resuming?.write(image)}`);
  await set(target, 'STOP');
  await set(target, 'RUNNING_P2P');
  await set(target, 'RUNNING');
  lines.push(`dst state ${await state(target)}`);
  lines.push(`dst scratch reg ${target.read(0, SCRATCH).toString(16)}`);
  lines.push(`src scratch reg ${source.read(0, SCRATCH).toString(16)}`);

  lines.push('bad transition: RUNNING->?99', await errnoOf(() => target.set(99)));
  const refusing = await set(target, 'RESUMING');
  // How many bytes is not recorded: more than there are in a stream, since nothing else is ENOMEM.
  lines.push(`garbage write ${await errnoOf(() => refusing?.write(new Uint8Array(4096).fill(0xa5)))}`);
  await set(target, 'STOP');
  const errno = await errnoOf(() => target.set(STATE.STOP));
  lines.push(`then STOP: ${-ERRNO[errno as keyof typeof ERRNO]} ${await state(target)}`);
  await target.device.reset();
  lines.push(`RESET 0 ${await state(target)}`);
  return lines;
}

/** Where the two differ: what mtty answered, what ours answers, and why. */
type Difference = readonly [mtty: string, ours: string, why: string];

const NO_BAR = 'flags of a BAR that is not there are 0: mtty says read and write of every region';
const OF_PCI = 'every PCI device has it: mtty is no PCI device, it only looks like one';

/** None is of the migration: this is what vfio_pci_core does for each PCI function, and mtty does not for its sample. */
const OF_THE_CORE: readonly Difference[] = [
  [
    'GET_INFO 0 flags 2 regions 9 irqs 5',
    'GET_INFO 0 flags 3 regions 9 irqs 5',
    'mtty can be reset and does not say so',
  ],
  ...[1, 2, 3, 4, 5, 6].map((index): Difference => {
    const rest = `size 0 off ${index}0000000000`;
    return [`REGION ${index} 0 flags 3 ${rest}`, `REGION ${index} 0 flags 0 ${rest}`, NO_BAR];
  }),
  [
    'REGION 7 0 flags 3 size ff off 70000000000',
    'REGION 7 0 flags 3 size 100 off 70000000000',
    'config space has 256 bytes: mtty leaves the last one out',
  ],
  [
    'REGION 8 0 flags 3 size 0 off 80000000000',
    'REGION 8 EINVAL flags 0 size 0 off 0',
    'a function that is no VGA has no VGA region',
  ],
  ['IRQ 2 EINVAL flags 0 count 0', 'IRQ 2 0 flags 9 count 0', `MSI-X without vectors: ${OF_PCI}`],
  ['IRQ 3 EINVAL flags 0 count 0', 'IRQ 3 0 flags 9 count 1', `ERR: ${OF_PCI}`],
  ['IRQ 4 EINVAL flags 0 count 0', 'IRQ 4 0 flags 9 count 1', `REQ: ${OF_PCI}`],
  [
    'cfg 64 48435332010000021002000700000000010000000000000000000000000000000000000000000000000000004843533200000000000000000000000000010000',
    'cfg 64 48435332010010001002000700000000011000000000000000000000000000000000000000000000000000004843533200000000400000000000000013010000',
    'firmware has given BAR 0 an address and the pin a line; MSI is in a list of capabilities, of which mtty has none',
  ],
  ...[3, 4, 5].map(
    (feature): Difference => [
      `FEATURE ${feature} ENOTTY/ENOTTY/ENOTTY`,
      `FEATURE ${feature} 0/EINVAL/0`,
      `low power: ${OF_PCI}`,
    ],
  ),
  [
    'FEATURE 11 ENOTTY/ENOTTY/ENOTTY',
    'FEATURE 11 EOPNOTSUPP/EOPNOTSUPP/EOPNOTSUPP',
    'the core knows dma-buf; an emulated BAR cannot give one',
  ],
];

/** Version 1 of the stream: 8 bytes before the ports and 64 for each port, in place of 36. */
const MORE = 'the transmitter and the errors of received characters are in the stream';
const PORT = `${'00'.repeat(6)}77${'00'.repeat(57)}`;
const OLD_HEADER = '4e2c3e8c89099d7e01000000000000000100000000000000';
const OLD_PORT = '000000000000007700000000000000000000000000000000000000000000000000100000';
const HEADER = '4e2c3e8c89099d7e01000000010000000100000000000000';
const LENGTHS = '4000000000000000';
const OF_VERSION_1: readonly Difference[] = [
  ['MIG_DATA_SIZE 0 60n', 'MIG_DATA_SIZE 0 96n', MORE],
  [`   precopy read 24 bytes ${OLD_HEADER}`, `   precopy read 24 bytes ${HEADER}`, 'its minor version is 1'],
  [
    `   stopcopy via precopy fd read 36 bytes ${OLD_PORT}`,
    `   stopcopy via precopy fd read 72 bytes ${LENGTHS}${PORT}`,
    MORE,
  ],
  [
    `   fresh stop_copy read 60 bytes ${OLD_HEADER}${OLD_PORT}`,
    `   fresh stop_copy read 96 bytes ${HEADER}${LENGTHS}${PORT}`,
    MORE,
  ],
  ['  wrote 60', '  wrote 96', MORE],
];

describe.each(['linux-7.3.4-cdev.log', 'linux-7.3.4-group.log'])('%s', (name) => {
  test.each<[StreamMinor, readonly Difference[]]>([
    [0, OF_THE_CORE],
    [1, [...OF_THE_CORE, ...OF_VERSION_1]],
  ])(
    'with streams of version 1.%i a card answers each request as mtty did, but for what is named',
    async (minor, named) => {
      const wanted = recorded(name);
      const found = await replay(await Card.open({ ports: 1, minor }), await Card.open({ ports: 1, minor }));
      expect(found.length).toBe(wanted.length);
      const different = wanted.flatMap((line, at) => (line === found[at] ? [] : [[line, found[at]]]));
      expect(different).toEqual(named.map(([mtty, ours]) => [mtty, ours]));
    },
  );

  test('the stream that mtty wrote is loaded', async () => {
    const [, stream = ''] = recorded(name)
      .map((line) => /fresh stop_copy read 60 bytes (\w+)/.exec(line) ?? [])
      .find(({ length }) => length > 0)!;
    const card = await Card.open({ ports: 1 });
    await card.load(Buffer.from(stream, 'hex'));
    await card.set(STATE.RUNNING);
    expect(card.read(0, SCRATCH)).toBe(0x77);
  });
});
