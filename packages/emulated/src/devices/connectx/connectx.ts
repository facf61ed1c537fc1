import { PCI_VENDOR_ID_MELLANOX } from '@vfio/uapi';
import type { ResetKind } from '../../config/config-space.js';
import type { DeviceModel, FunctionContext } from '../../model.js';
import type { CapabilityValues } from './capabilities.js';
import { CHECKSUM } from './command-queue.js';
import { type CommandRecord, Firmware } from './firmware.js';
import { addGateway } from './gateway.js';
import { BAR_SIZE, HcaFunction } from './hca.js';
import type { FirmwareVersion } from './init-segment.js';
import type { PageNeeds } from './page-supply.js';

/** Device ids: ConnectX-7, and "ConnectX Family mlx5Gen Virtual Function". */
export const CONNECTX_DEVICE = 0x1021;
export const CONNECTX_VF_DEVICE = 0x101e;

const VECTORS = 64;
const FREQUENCY_KHZ = 1_000_000;

/** MSI-X structures in BAR 0, between the parts of the initialization segment. */
const MSIX_TABLE = 0x2000;
const MSIX_PENDING = 0x3000;

/** What a {@link ConnectX} is like. */
export interface ConnectXOptions {
  /** Default 28.39.1002. */
  readonly firmwareVersion?: FirmwareVersion;
  /** PSID. Default `VFIO000000001`. */
  readonly boardId?: string;
  /** Pages that the physical function asks for. Default 16 to boot and 64 to initialize. */
  readonly pages?: PageNeeds;
  /** Told of every command when it has ended. */
  readonly onCommand?: (record: CommandRecord) => void;
}

/** A ConnectX physical function. */
export class ConnectX implements DeviceModel {
  readonly firmware: Firmware;
  readonly hca: HcaFunction;

  constructor(ctx: FunctionContext, options: ConnectXOptions = {}) {
    const { firmwareVersion: version = { major: 28, minor: 39, subminor: 1002 }, onCommand } = options;
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
    this.hca = new HcaFunction(ctx, this.firmware, {
      id: 0,
      vhcaId: 0,
      capabilities: capabilities(0),
      pages: options.pages ?? { boot: 16, init: 64 },
    });
    this.firmware.add(this.hca);
    declareFunction(ctx, this.hca);
    addGateway(ctx);
    ctx.aer();
    ctx.ari();
  }

  reset(_kind: ResetKind): void {
    this.hca.reset();
  }

  removed(): void {
    this.hca.reset();
    this.firmware.remove(this.hca);
  }
}

/** What every function of the device declares. */
function declareFunction(ctx: FunctionContext, hca: HcaFunction): void {
  ctx.bar(0, { size: BAR_SIZE, is64Bit: true, prefetchable: true, handler: hca });
  ctx.msix({ vectors: VECTORS, table: { bar: 0, offset: MSIX_TABLE }, pba: { bar: 0, offset: MSIX_PENDING } });
  ctx.express({ flr: true });
  ctx.pm();
}

function capabilities(vhcaId: number): CapabilityValues {
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
      cmdif_checksum: CHECKSUM.NONE,
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
      adv_virtualization: 1,
      migration: 1,
    },
    general2: { migration_multi_load: 1, migration_tracking_state: 1, migration_in_chunks: 1, migration_state: 1 },
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
