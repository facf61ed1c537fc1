import { PCI_VENDOR_ID_MELLANOX } from '@vfio/uapi';
import type { DeviceModel, FunctionContext } from '../../model.js';
import type { CapabilityValues, General2Cap } from './capabilities.js';
import { CHECKSUM } from './command-queue.js';
import { DeviceMemory } from './device-memory.js';
import { Engine } from './engine.js';
import { type CommandRecord, Firmware } from './firmware.js';
import { FunctionRecord } from './function-record.js';
import { addGateway } from './gateway.js';
import { HcaFunction } from './hca.js';
import type { FirmwareVersion } from './init-segment.js';
import type { PageNeeds } from './page-supply.js';
import { VhcaMigration } from './vhca-migration.js';

/** Device ids: ConnectX-7, and "ConnectX Family mlx5Gen Virtual Function". */
export const CONNECTX_DEVICE = 0x1021;
export const CONNECTX_VF_DEVICE = 0x101e;

const VECTORS = 64;
const FREQUENCY_KHZ = 1_000_000;

/** MSI-X structures in BAR 0, between the parts of the initialization segment. */
const MSIX_TABLE = 0x2000;
const MSIX_PENDING = 0x3000;

/** Bytes of BAR 0. */
const BAR_SIZE = 0x2000000;
const VF_BAR_SIZE = 0x200000;

const VF_PAGES: PageNeeds = { boot: 4, init: 16 };

/** What a {@link ConnectX} is like. */
export interface ConnectXOptions {
  /** Default 28.39.1002. */
  readonly firmwareVersion?: FirmwareVersion;
  /** PSID. Default `VFIO000000001`. */
  readonly boardId?: string;
  /** Pages that the physical function asks for. Default 16 to boot and 64 to initialize. */
  readonly pages?: PageNeeds;
  /** Virtual functions, 1 to 127. Default 4. */
  readonly totalVfs?: number;
  /** Bytes of each virtual function's own memory, a multiple of 4096. Default 1 MiB. */
  readonly vfMemory?: number;
  /** Capabilities that the firmware does not have after all: of the physical function, or of the virtual ones. */
  readonly without?: readonly ('migration' | 'adv_virtualization' | General2Cap)[];
  /** Told of every command when it has ended. */
  readonly onCommand?: (record: CommandRecord) => void;
}

/** A ConnectX physical function with virtual functions. */
export class ConnectX implements DeviceModel {
  readonly firmware: Firmware;
  readonly hca: HcaFunction;
  /** The virtual functions that are enabled, by their index. */
  readonly virtualFunctions = new Map<number, ConnectXVf>();

  constructor(ctx: FunctionContext, options: ConnectXOptions = {}) {
    const { firmwareVersion: version = { major: 28, minor: 39, subminor: 1002 }, onCommand, without = [] } = options;
    ctx.identity({
      vendor: PCI_VENDOR_ID_MELLANOX,
      device: CONNECTX_DEVICE,
      subvendor: PCI_VENDOR_ID_MELLANOX,
      subdevice: 0x0021,
      class: 0x020700,
    });
    this.firmware = new Firmware({
      version,
      boardId: options.boardId ?? 'VFIO000000001',
      vectors: VECTORS,
      ...(onCommand === undefined ? {} : { onCommand }),
    });
    const totalVfs = options.totalVfs ?? 4;
    const record = new FunctionRecord(0, capabilities(0, without), options.pages ?? { boot: 16, init: 64 });
    this.firmware.add(record);
    for (let id = 1; id <= totalVfs; id++)
      this.firmware.add(new FunctionRecord(id, capabilities(id, without), VF_PAGES));
    this.hca = new HcaFunction(ctx, this.firmware, record, BAR_SIZE);
    record.live = this.hca;
    declareFunction(ctx, this.hca, BAR_SIZE);
    addGateway(ctx);
    ctx.aer();
    ctx.ari();
    ctx.sriov({
      totalVfs,
      device: CONNECTX_VF_DEVICE,
      bars: { 0: { size: VF_BAR_SIZE, is64Bit: true, prefetchable: true } },
      model: (vf, index) => new ConnectXVf(vf, this, index, options.vfMemory ?? 0x100000),
    });
  }

  reset(): void {
    this.hca.reset();
  }

  removed(): void {
    this.hca.reset();
  }
}

/** A virtual function: an HCA of its own, with an engine and memory in the place of a network port. */
export class ConnectXVf implements DeviceModel {
  readonly hca: HcaFunction;
  readonly memory: DeviceMemory;
  readonly engine: Engine;
  readonly migration: VhcaMigration;
  readonly #owner: ConnectX;
  readonly #index: number;

  constructor(ctx: FunctionContext, owner: ConnectX, index: number, memoryBytes: number) {
    this.#owner = owner;
    this.#index = index;
    ctx.identity({
      vendor: PCI_VENDOR_ID_MELLANOX,
      device: CONNECTX_VF_DEVICE,
      subvendor: PCI_VENDOR_ID_MELLANOX,
      subdevice: 0x0021,
      class: 0x020700,
    });
    const record = owner.firmware.record(index + 1);
    this.hca = new HcaFunction(ctx, owner.firmware, record, VF_BAR_SIZE);
    record.live = this.hca;
    this.memory = new DeviceMemory(memoryBytes);
    this.engine = new Engine(ctx, this.hca.dma, this.memory);
    this.migration = new VhcaMigration(this.hca, this.engine, this.memory);
    this.hca.virtual = this;
    owner.virtualFunctions.set(index, this);
    declareFunction(ctx, this.hca, VF_BAR_SIZE);
  }

  reset(): void {
    this.hca.reset();
  }

  removed(): void {
    this.hca.reset();
    if (this.hca.record.live === this.hca) this.hca.record.live = undefined;
    if (this.#owner.virtualFunctions.get(this.#index) === this) this.#owner.virtualFunctions.delete(this.#index);
  }
}

/** What every function of the device declares. */
function declareFunction(ctx: FunctionContext, hca: HcaFunction, barSize: number): void {
  ctx.bar(0, { size: barSize, is64Bit: true, prefetchable: true, handler: hca });
  ctx.msix({ vectors: VECTORS, table: { bar: 0, offset: MSIX_TABLE }, pba: { bar: 0, offset: MSIX_PENDING } });
  ctx.express({ flr: true });
  ctx.pm();
}

/** What a function can do; a virtual one moves and tracks no others. */
function capabilities(vhcaId: number, without: readonly string[]): CapabilityValues {
  const has = (name: string): number => (without.includes(name) ? 0 : 1);
  const isPhysical = vhcaId === 0;
  return {
    general: {
      hca_cap_2: 1,
      dtor: 1,
      vhca_id: vhcaId,
      log_max_qp_sz: 15,
      log_max_qp: 18,
      log_max_cq_sz: 22,
      log_max_cq: 24,
      log_max_eq_sz: 22,
      log_max_mkey: 24,
      log_max_eq: 6,
      log_max_mrw_sz: 64,
      pkey_table_size: 0,
      local_ca_ack_delay: 16,
      // InfiniBand: a port without Ethernet offloads.
      port_type: 0,
      num_ports: 1,
      log_max_msg: 30,
      cmdif_checksum: { max: CHECKSUM.ALL, current: CHECKSUM.NONE },
      rc: 1,
      uar_sz: 5,
      log_pg_sz: 12,
      bf: 1,
      driver_version: 1,
      log_bf_reg_size: 9,
      max_wqe_sz_sq: 1024,
      max_wqe_sz_rq: 512,
      log_max_pd: 23,
      max_num_eqs: VECTORS,
      log_uar_page_sz: 0,
      device_frequency_mhz: FREQUENCY_KHZ / 1000,
      device_frequency_khz: FREQUENCY_KHZ,
      num_of_uars_per_page: 1,
      adv_virtualization: isPhysical ? has('adv_virtualization') : 0,
      migration: isPhysical ? has('migration') : 0,
    },
    general2: {
      // Off until the physical function gives it.
      migratable: { max: isPhysical ? 0 : 1, current: 0 },
      migration_multi_load: has('migration_multi_load'),
      migration_tracking_state: has('migration_tracking_state'),
      migration_in_chunks: has('migration_in_chunks'),
      migration_state: has('migration_state'),
    },
    advVirtualization: {
      pg_track_log_max_num: 4,
      pg_track_max_num_range: 16,
      pg_track_log_min_addr_space: 12,
      pg_track_log_max_addr_space: 52,
      pg_track_log_min_msg_size: 12,
      pg_track_log_max_msg_size: 20,
      pg_track_log_min_page_size: 12,
      pg_track_log_max_page_size: 21,
    },
  };
}
