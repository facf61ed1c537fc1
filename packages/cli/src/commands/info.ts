import {
  type DecodedBar,
  type DecodedCapability,
  type DecodedConfigSpace,
  decodeConfigSpace,
  hex,
  isVfioError,
  type RegionInfo,
  type VfioDeviceClient,
} from '@vfio/core';
import { formatClass, formatIds, formatSize, formatSubsystem } from '../format.js';
import type { Io } from '../io.js';
import { migrationFlags } from '../migration-features.js';
import { paint, printJson, printTable } from '../output.js';

export interface InfoOptions {
  readonly json?: boolean;
  /** What the driver says of it. */
  readonly whyNotMigratable?: string | undefined;
}

/** A part of a region. */
interface Area {
  readonly offset: number;
  readonly size: number;
}

interface RegionReport {
  readonly index: number;
  readonly name: string;
  readonly size: number;
  readonly flags: readonly string[];
  /** What of it may be mapped; empty where nothing may. */
  readonly mappable: readonly Area[];
  /** Of a device region: what is in it. */
  readonly type: { readonly type: number; readonly subtype: number } | null;
}

interface IrqReport {
  readonly index: number;
  readonly name: string;
  readonly count: number;
  readonly flags: readonly string[];
}

type Ids = 'vendor' | 'device' | 'subvendor' | 'subdevice' | 'class';

interface ConfigReport extends Omit<DecodedConfigSpace, Ids | 'bars' | 'rom' | 'capabilities'> {
  readonly ids: string;
  readonly subsystem: string;
  readonly class: string;
  readonly bars: readonly (Omit<DecodedBar, 'address'> & { readonly address: string })[];
  readonly rom: { readonly address: string; readonly enabled: boolean } | null;
  readonly capabilities: readonly (Omit<DecodedCapability, 'version'> & { readonly version: number | null })[];
}

/** What `vfio info --json` shows: schemas/info.json. */
export interface InfoReport {
  /** Name of the ops: `vfio-pci`; of a served device, what it says of itself. */
  readonly ops: string;
  readonly flags: readonly string[];
  readonly regions: readonly RegionReport[];
  readonly irqs: readonly IrqReport[];
  /** Of VFIO_MIGRATION_*; empty: it cannot be migrated. */
  readonly migration: readonly string[];
  /** The condition that is missing; null where it can, where its driver never could, and for a served device. */
  readonly whyNotMigratable: string | null;
  readonly config: ConfigReport;
}

const REGION_NAMES = ['BAR 0', 'BAR 1', 'BAR 2', 'BAR 3', 'BAR 4', 'BAR 5', 'ROM', 'config', 'VGA'];
const IRQ_NAMES = ['INTx', 'MSI', 'MSI-X', 'ERR', 'REQ'];
const CONFIG_REGION = 7;
const DEVICE_FLAGS = ['reset', 'pci', 'platform', 'amba', 'ccw', 'ap', 'fsl-mc', 'caps', 'cdx'];
const REGION_FLAGS = ['read', 'write', 'mmap', 'caps'];
const IRQ_FLAGS = ['eventfd', 'maskable', 'automasked', 'noresize'];

const flagNames = (flags: number, names: readonly string[]): string[] => names.filter((_, bit) => (flags >>> bit) & 1);

const words = (flags: readonly string[]): string => flags.join(' ') || '-';

/** Asks a device everything that its info calls and its config space tell. */
export async function gather(device: VfioDeviceClient, whyNotMigratable?: string): Promise<InfoReport> {
  const { flags, numRegions, numIrqs } = await device.getInfo();
  const regions: RegionReport[] = [];
  for (let index = 0; index < numRegions; index++) {
    const region = await unlessInvalid(device.getRegionInfo(index));
    if (region !== undefined) regions.push(regionReport(region));
  }
  const irqs: IrqReport[] = [];
  for (let index = 0; index < numIrqs; index++) {
    const irq = await unlessInvalid(device.getIrqInfo(index));
    if (irq === undefined) continue;
    const name = IRQ_NAMES[index] ?? `device ${index}`;
    irqs.push({ index, name, count: irq.count, flags: flagNames(irq.flags, IRQ_FLAGS) });
  }
  const config = new Uint8Array(regions.find((region) => region.index === CONFIG_REGION)?.size ?? 256);
  await device.read(CONFIG_REGION, 0, config);
  return {
    ops: device.name,
    flags: flagNames(flags, DEVICE_FLAGS),
    regions,
    irqs,
    migration: await migrationFlags(device),
    whyNotMigratable: whyNotMigratable ?? null,
    config: configReport(decodeConfigSpace(config)),
  };
}

function regionReport({ index, size, flags, caps }: RegionInfo): RegionReport {
  const names = flagNames(flags, REGION_FLAGS);
  let mappable: readonly Area[] = names.includes('mmap') ? [{ offset: 0, size }] : [];
  let type: RegionReport['type'] = null;
  for (const cap of caps) {
    if ('areas' in cap) mappable = cap.areas;
    if ('subtype' in cap) type = { type: cap.type, subtype: cap.subtype };
  }
  const name = REGION_NAMES[index] ?? `device ${index}`;
  return { index, name, size, flags: names, mappable, type };
}

function configReport(config: DecodedConfigSpace): ConfigReport {
  const { vendor, device, subvendor, subdevice, class: code, bars, rom, capabilities, ...rest } = config;
  const identity = { vendor, device, subvendor, subdevice, class: code };
  return {
    ids: formatIds(identity),
    subsystem: formatSubsystem(identity),
    class: formatClass(identity),
    ...rest,
    bars: bars.map((bar) => ({ ...bar, address: hex(bar.address) })),
    rom: rom === undefined ? null : { address: hex(rom.address), enabled: rom.enabled },
    capabilities: capabilities.map((cap) => ({ ...cap, version: cap.version ?? null })),
  };
}

/** What migration there is, as a user is told. */
export const migrationWords = ({ migration, whyNotMigratable }: Pick<InfoReport, 'migration' | 'whyNotMigratable'>) =>
  migration.length > 0 ? migration.join(' ') : whyNotMigratable === null ? 'no' : `no: ${whyNotMigratable}`;

/** The answer, or undefined for an index that the device does not have (EINVAL: VGA on most). */
async function unlessInvalid<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (isVfioError(error) && error.errno === 'EINVAL') return undefined;
    throw error;
  }
}

/** `vfio info`: device, regions, interrupts, and config space in words. */
export async function info(device: VfioDeviceClient, title: string, options: InfoOptions, io: Io): Promise<void> {
  const report = await gather(device, options.whyNotMigratable);
  if (options.json === true) {
    printJson(io, report);
    return;
  }
  const { config } = report;
  io.out(`${paint(io, 'bold', title)}  ${config.ids}  ops ${report.ops}\n`);
  io.out(`flags: ${words(report.flags)}\n`);
  io.out(`migration: ${migrationWords(report)}\n\n`);
  printTable(
    io,
    ['REGION', 'SIZE', 'FLAGS', 'MAPPABLE'],
    report.regions
      .filter(({ size }) => size > 0)
      .map((region) => [region.name, formatSize(region.size), words(region.flags), mappable(region)]),
  );
  io.out('\n');
  printTable(
    io,
    ['INTERRUPT', 'COUNT', 'FLAGS'],
    report.irqs.map(({ name, count, flags }) => [name, String(count), words(flags)]),
  );
  io.out('\n');
  printConfig(config, io);
}

function mappable({ mappable: areas, flags, size }: RegionReport): string {
  if (areas.some((area) => area.offset === 0 && area.size === size)) return 'all';
  if (areas.length > 0) return areas.map((area) => `${hex(area.offset)}+${hex(area.size)}`).join(' ');
  return flags.includes('mmap') ? 'none' : '-';
}

function printConfig(config: ConfigReport, io: Io): void {
  const on = (flags: readonly { name: string; value: string }[]): string =>
    flags.map(({ name, value }) => `${name}${value}`).join(' ');
  io.out(`command ${hex(config.command)}: ${on(config.commandFlags)}\n`);
  io.out(`status ${hex(config.status)}: ${on(config.statusFlags)}\n`);
  for (const bar of config.bars) {
    const kind = bar.kind === 'io' ? 'I/O ports' : `memory, ${bar.is64Bit ? 64 : 32}-bit`;
    io.out(`BAR ${bar.index}: ${kind}${bar.prefetchable ? ', prefetchable' : ''} at ${bar.address}\n`);
  }
  for (const cap of config.capabilities) {
    const version = cap.version === null ? '' : ` v${cap.version}`;
    const fields = cap.fields
      .map(({ name, value }) => (value === '+' || value === '-' ? `${name}${value}` : `${name} ${value}`))
      .join(', ');
    const at = cap.offset.toString(16).padStart(cap.extended ? 3 : 2, '0');
    io.out(`[${at}] ${cap.name}${version}${fields && `: ${fields}`}\n`);
  }
  for (const problem of config.problems) io.out(`${paint(io, 'yellow', 'problem')}: ${problem}\n`);
}
