import { GeneratorError } from './error.js';

/** A row of the id table that is asked for: ids of a function, or a class code as far as it counts. */
export type MatchRow =
  | { readonly kind: 'id'; readonly ids: readonly [vendor: string, device: string, ...subsystem: string[]] }
  | { readonly kind: 'class'; readonly code: string };

const ID = /^[0-9a-f]{4}:[0-9a-f]{4}(:[0-9a-f]{4}:[0-9a-f]{4})?$/;
const CLASS = /^([0-9a-f]{2}){1,3}$/;
/** What the bus answers where no function is (PCI 3.0, 6.1). */
const NO_VENDOR = 'ffff';

/** @throws GeneratorError */
export function parseId(text: string): MatchRow {
  const id = text.toLowerCase();
  if (!ID.test(id))
    throw new GeneratorError(
      `the id ${JSON.stringify(text)} must be vendor:device, or vendor:device:subvendor:subdevice, of four hex digits each ` +
        'without 0x, as lspci -nn shows them: 19e5:a251',
    );
  const [vendor = '', device = '', ...subsystem] = id.split(':');
  if (vendor === NO_VENDOR) throw new GeneratorError(`the id ${JSON.stringify(text)}: no function has vendor ffff`);
  return { kind: 'id', ids: [vendor, device, ...subsystem] };
}

/** @throws GeneratorError */
export function parseClass(text: string): MatchRow {
  const code = text.toLowerCase();
  if (!CLASS.test(code))
    throw new GeneratorError(
      `the class ${JSON.stringify(text)} must be 2, 4 or 6 hex digits without 0x: base class, subclass, interface; 0108 is every ` +
        'non-volatile memory controller',
    );
  return { kind: 'class', code };
}

const textOf = (row: MatchRow): string => (row.kind === 'id' ? row.ids.join(':') : `class ${row.code}`);

/** Rows as a person reads them: `19e5:a251, class 0108`. */
export const describeRows = (rows: readonly MatchRow[]): string => rows.map(textOf).join(', ');

/** Rows once each, in their order. */
export function distinctRows(rows: readonly MatchRow[]): MatchRow[] {
  return [...new Map(rows.map((row) => [textOf(row), row])).values()];
}

/** A row as the id table has it. */
function codeOf(row: MatchRow): string {
  if (row.kind === 'class') {
    const code = `0x${row.code.padEnd(6, '0')}`;
    const mask = `0x${'ff'.repeat(row.code.length / 2).padEnd(6, '0')}`;
    return `pciDriverOverrideClassVfio(${code}, ${mask})`;
  }
  const [vendor, device, subvendor, subdevice] = row.ids;
  const made = `pciDriverOverrideDeviceVfio(0x${vendor}, 0x${device})`;
  return subvendor === undefined ? made : `{ ...${made}, subvendor: 0x${subvendor}, subdevice: 0x${subdevice} }`;
}

const COLUMNS = 120;

/** The functions of core that the id table calls, for its import. */
export function rowFunctions(rows: readonly MatchRow[]): string {
  const named = ['pciDriverOverrideClassVfio', 'pciDriverOverrideDeviceVfio'];
  const code = rows.map(codeOf).join();
  return named.filter((name) => code.includes(name)).join(', ');
}

/** The id table as an array literal that begins at a column, laid out as the formatter does. */
export function rowTable(rows: readonly MatchRow[], column: number): string {
  const items = rows.map(codeOf);
  const line = `[${items.join(', ')}]`;
  return column + line.length + 1 <= COLUMNS ? line : `[\n${items.map((item) => `  ${item},\n`).join('')}]`;
}

/** Rows that an id table was generated from; none where it was made otherwise. */
export function readRows(source: string): MatchRow[] {
  const rows: MatchRow[] = [];
  const ROW =
    /pciDriverOverride(?:DeviceVfio\(0x([0-9a-f]{4}), 0x([0-9a-f]{4})\)(?:, subvendor: 0x([0-9a-f]{4}), subdevice: 0x([0-9a-f]{4}))?|ClassVfio\(0x([0-9a-f]{6}), 0x((?:ff){1,3})0*\))/g;
  for (const [, vendor = '', device = '', subvendor, subdevice, code, mask] of source.matchAll(ROW)) {
    if (code !== undefined && mask !== undefined) rows.push({ kind: 'class', code: code.slice(0, mask.length) });
    else {
      const subsystem = subvendor === undefined || subdevice === undefined ? [] : [subvendor, subdevice];
      rows.push({ kind: 'id', ids: [vendor, device, ...subsystem] });
    }
  }
  return rows;
}
