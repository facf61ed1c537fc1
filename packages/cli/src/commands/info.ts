import {
  type DecodedConfigSpace,
  type DeviceInfo,
  decodeConfigSpace,
  hex,
  type IrqInfo,
  isVfioError,
  type RegionInfo,
  type VfioDeviceClient,
} from '@vfio/core';
import { formatIds, formatSize } from '../format.js';
import type { Io } from '../io.js';
import { paint, printJson, printTable } from '../output.js';

export interface InfoOptions {
  readonly json?: boolean;
}

/** What `vfio info --json` shows; documented in docs/reference/cli.md. */
export interface DeviceReport {
  readonly name: string;
  readonly info: DeviceInfo;
  readonly regions: readonly RegionInfo[];
  readonly irqs: readonly IrqInfo[];
  readonly config: DecodedConfigSpace;
}

const REGION_NAMES = ['BAR 0', 'BAR 1', 'BAR 2', 'BAR 3', 'BAR 4', 'BAR 5', 'ROM', 'config', 'VGA'];
const IRQ_NAMES = ['INTx', 'MSI', 'MSI-X', 'ERR', 'REQ'];
const CONFIG_REGION = 7;
const DEVICE_FLAGS = ['reset', 'pci', 'platform', 'amba', 'ccw', 'ap', 'fsl-mc', 'caps', 'cdx'];
const REGION_FLAGS = ['read', 'write', 'mmap', 'caps'];
const IRQ_FLAGS = ['eventfd', 'maskable', 'automasked', 'noresize'];

const flagNames = (flags: number, names: readonly string[]): string =>
  names.filter((_, bit) => (flags >>> bit) & 1).join(' ') || '-';

/** Asks a device everything that its info calls and its config space tell. */
export async function gather(device: VfioDeviceClient): Promise<DeviceReport> {
  const info = await device.getInfo();
  const regions: RegionInfo[] = [];
  for (let index = 0; index < info.numRegions; index++) {
    const region = await unlessInvalid(device.getRegionInfo(index));
    if (region !== undefined) regions.push(region);
  }
  const irqs: IrqInfo[] = [];
  for (let index = 0; index < info.numIrqs; index++) {
    const irq = await unlessInvalid(device.getIrqInfo(index));
    if (irq !== undefined) irqs.push(irq);
  }
  const config = new Uint8Array(regions.find((region) => region.index === CONFIG_REGION)?.size ?? 256);
  await device.read(CONFIG_REGION, 0, config);
  return { name: device.name, info, regions, irqs, config: decodeConfigSpace(config) };
}

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
  const report = await gather(device);
  if (options.json === true) {
    printJson(io, report);
    return;
  }
  const { config } = report;
  io.out(`${paint(io, 'bold', title)}  ${formatIds(config)}  ops ${report.name}\n`);
  io.out(`flags: ${flagNames(report.info.flags, DEVICE_FLAGS)}\n\n`);
  printTable(
    io,
    ['REGION', 'SIZE', 'FLAGS', 'MAPPABLE'],
    report.regions
      .filter((region) => region.size > 0)
      .map((region) => [
        REGION_NAMES[region.index] ?? `device ${region.index}`,
        formatSize(region.size),
        flagNames(region.flags, REGION_FLAGS),
        mappable(region),
      ]),
  );
  io.out('\n');
  printTable(
    io,
    ['INTERRUPT', 'COUNT', 'FLAGS'],
    report.irqs.map((irq) => [
      IRQ_NAMES[irq.index] ?? String(irq.index),
      String(irq.count),
      flagNames(irq.flags, IRQ_FLAGS),
    ]),
  );
  io.out('\n');
  printConfig(config, io);
}

function mappable(region: RegionInfo): string {
  for (const cap of region.caps) {
    if ('areas' in cap) return cap.areas.map(({ offset, size }) => `${hex(offset)}+${hex(size)}`).join(' ') || 'none';
  }
  return (region.flags & 4) !== 0 ? 'all' : '-';
}

function printConfig(config: DecodedConfigSpace, io: Io): void {
  const on = (flags: readonly { name: string; value: string }[]): string =>
    flags.map(({ name, value }) => `${name}${value}`).join(' ');
  io.out(`command ${hex(config.command)}: ${on(config.commandFlags)}\n`);
  io.out(`status ${hex(config.status)}: ${on(config.statusFlags)}\n`);
  for (const bar of config.bars) {
    const kind = bar.kind === 'io' ? 'I/O ports' : `memory, ${bar.is64Bit ? 64 : 32}-bit`;
    io.out(`BAR ${bar.index}: ${kind}${bar.prefetchable ? ', prefetchable' : ''} at ${hex(bar.address)}\n`);
  }
  for (const cap of config.capabilities) {
    const version = cap.version === undefined ? '' : ` v${cap.version}`;
    const fields = cap.fields
      .map(({ name, value }) => (value === '+' || value === '-' ? `${name}${value}` : `${name} ${value}`))
      .join(', ');
    io.out(
      `[${cap.offset.toString(16).padStart(cap.extended ? 3 : 2, '0')}] ${cap.name}${version}${fields && `: ${fields}`}\n`,
    );
  }
  for (const problem of config.problems) io.out(`${paint(io, 'yellow', 'problem')}: ${problem}\n`);
}
