import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { ListReport } from '../src/commands/list.js';
import { folder, vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

const ids = join(folder, 'pci.ids');
writeFileSync(ids, '1b36  Red Hat, Inc.\n\t0010  QEMU NVM Express Controller\nC 01  Mass storage controller\n');

async function list(...args: string[]): Promise<ListReport> {
  const { out, code } = await vfio(['list', '--json', ...args], { env: { VFIO_PCI_IDS: ids } });
  expect(code).toBe(0);
  return JSON.parse(out) as ListReport;
}

test('the JSON document is what its schema says', async () => {
  expectSchema('list', await list());
});

test('every function has its ids, names, class, group and best driver', async () => {
  const { functions, names } = await list();
  expect(names).toBe(ids);
  expect(functions.find(({ address }) => address === '0000:01:00.0')).toEqual({
    address: '0000:01:00.0',
    ids: '1b36:0010',
    subsystem: '1af4:1100',
    class: '010802',
    revision: expect.any(Number),
    vendorName: 'Red Hat, Inc.',
    deviceName: 'QEMU NVM Express Controller',
    className: 'Mass storage controller',
    iommuGroup: expect.any(Number),
    physfn: null,
    driver: null,
    driverOverride: null,
    best: 'nvme_vfio_pci',
    kernelModule: null,
    numaNode: null,
  });
});

test('a bridge has no best driver: VFIO takes none', async () => {
  const { functions } = await list();
  const bridge = functions.find(({ address }) => address === '0000:00:1c.0');
  expect(bridge).toMatchObject({ class: '060400', best: null });
});

test('the table has a row for each function and names by pci.ids', async () => {
  const { out } = await vfio(['list'], { env: { VFIO_PCI_IDS: ids } });
  const [head, ...rows] = out.trimEnd().split('\n');
  expect(head).toMatch(/^ADDRESS +IDS +CLASS +GROUP +DRIVER +BEST +NAME$/);
  expect(rows).toHaveLength((await list()).functions.length);
  expect(rows.find((row) => row.startsWith('0000:01:00.0'))).toMatch(
    / 1b36:0010 +010802 +\d+ +- +nvme_vfio_pci +Mass storage controller: Red Hat, Inc. QEMU NVM Express Controller$/,
  );
});

test('without a pci.ids only base classes have names; one that was asked for and is not there is a warning', async () => {
  const { out, err, code } = await vfio(['list'], { env: { VFIO_PCI_IDS: join(folder, 'none') } });
  expect(code).toBe(0);
  expect(err).toMatch(/^warning: VFIO_PCI_IDS: .*none cannot be read/);
  expect(out).toMatch(/^0000:01:00.0 .* Mass storage controller$/m);
});

test('colours come only where the output takes them, and change nothing else', async () => {
  const plain = await vfio(['list']);
  const coloured = await vfio(['list'], { color: true });
  expect(plain.out).not.toContain('\x1b');
  expect(coloured.out).toContain('\x1b[1mADDRESS');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the escape sequences are what is taken out.
  expect(coloured.out.replaceAll(/\x1b\[\d+m/g, '')).toBe(plain.out);
});
