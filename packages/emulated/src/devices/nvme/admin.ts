import type { NvmeCommand } from './command.js';
import { ADMIN, CNS, EVENT, FEATURE, LOG, NSID_ALL } from './constants.js';
import type { DataQueues } from './data-queues.js';
import type { AsyncEvents } from './events.js';
import type { NvmeFeatures } from './features.js';
import type { NvmeHealth } from './health.js';
import {
  type ControllerIdentity,
  IDENTIFY_SIZE,
  identifyActive,
  identifyController,
  identifyDescriptors,
  identifyNamespace,
} from './identify.js';
import { changedNamespacesPage, commandsPage, type ErrorLog, firmwarePage, smartPage } from './logs.js';
import type { MigrationManager } from './migration-manager.js';
import { LBA_FORMATS, type NvmeNamespace } from './namespace.js';
import { CompletionQueue, SubmissionQueue } from './queues.js';
import { HELD, STATUS } from './status.js';
import type { PrpTransfer } from './transfer.js';

/** What admin commands work on. */
export interface AdminHost {
  readonly identity: ControllerIdentity;
  readonly namespaces: ReadonlyMap<number, NvmeNamespace>;
  readonly changedNamespaces: Set<number>;
  readonly features: NvmeFeatures;
  readonly events: AsyncEvents;
  readonly errors: ErrorLog;
  readonly health: NvmeHealth;
  readonly transfer: PrpTransfer;
  readonly sqs: (SubmissionQueue | undefined)[];
  readonly cqs: (CompletionQueue | undefined)[];
  /** Entries that a queue may have. */
  readonly maxEntries: number;
  /** Submission and completion queues that Set Features allocated. */
  readonly allocatedSqs: number;
  readonly allocatedCqs: number;
  readonly vectors: number;
  readonly criticalWarning: number;
  readonly powerOnHours: number;
  /** All blocks of a namespace are other ones now. */
  formatted(nsid: number): void;
  /** Where the controller manages the migration of others. */
  readonly manager: MigrationManager | undefined;
  /** The status for a namespace id that no namespace has. */
  missing(nsid: number): number;
  /** Whether the entry sizes in CC are right for I/O queues. */
  readonly entrySizesValid: boolean;
  queuesChanged(): void;
}

/** Executes admin commands (NVM Express 1.4, section 5). */
export class AdminCommands {
  readonly #host: AdminHost;

  constructor(host: AdminHost) {
    this.#host = host;
  }

  /** The status, {@link HELD}, or a promise of the status. */
  execute(command: NvmeCommand): number | Promise<number> {
    // Neither fused commands nor SGLs.
    if (command.flags !== 0) return command.fail(STATUS.INVALID_FIELD, 1);
    switch (command.opcode) {
      case ADMIN.DELETE_SQ:
        return this.#deleteSq(command);
      case ADMIN.CREATE_SQ:
        return this.#createSq(command);
      case ADMIN.GET_LOG_PAGE:
        return this.#getLogPage(command);
      case ADMIN.DELETE_CQ:
        return this.#deleteCq(command);
      case ADMIN.CREATE_CQ:
        return this.#createCq(command);
      case ADMIN.IDENTIFY:
        return this.#identify(command);
      case ADMIN.ABORT:
        return this.#abort(command);
      case ADMIN.SET_FEATURES:
        return this.#dataQueues(command)?.setHead(command) ?? this.#host.features.set(command);
      case ADMIN.GET_FEATURES:
        return this.#getDataQueue(command) ?? this.#host.features.get(command);
      case ADMIN.ASYNC_EVENT:
        return this.#host.events.hold(command) ? HELD : STATUS.ASYNC_EVENT_LIMIT;
      case ADMIN.FORMAT_NVM:
        return this.#format(command);
      default:
        return this.#host.manager?.execute(command) ?? command.fail(STATUS.INVALID_OPCODE, 0);
    }
  }

  /** Where a command is about the feature of the data queues, and the controller has any. */
  #dataQueues(command: NvmeCommand): DataQueues | undefined {
    const isMeant = (command.dword(10) & 0xff) === FEATURE.CONTROLLER_DATA_QUEUE;
    return isMeant ? this.#host.manager?.dataQueues : undefined;
  }

  #getDataQueue(command: NvmeCommand): number | Promise<number> | undefined {
    const queues = this.#dataQueues(command);
    if (queues === undefined) return undefined;
    const head = queues.headOf(command);
    if (head === undefined) return command.fail(STATUS.INVALID_CONTROLLER_DATA_QUEUE, 44);
    const data = new Uint8Array(512);
    new DataView(data.buffer).setUint32(0, head, true);
    return this.#reply(command, data);
  }

  #createCq(command: NvmeCommand): number {
    const host = this.#host;
    const id = command.dword(10) & 0xffff;
    const size = (command.dword(10) >>> 16) + 1;
    const flags = command.dword(11) & 0xffff;
    const vector = command.dword(11) >>> 16;
    if (id === 0 || id > host.allocatedCqs || host.cqs[id] !== undefined)
      return command.fail(STATUS.INVALID_QUEUE_ID, 40);
    if (size < 2 || size > host.maxEntries) return command.fail(STATUS.INVALID_QUEUE_SIZE, 42);
    // Queues must be contiguous (CAP.CQR).
    if ((flags & 1) === 0) return command.fail(STATUS.INVALID_FIELD, 44);
    if (!host.entrySizesValid) return STATUS.INVALID_QUEUE_SIZE;
    if (vector >= host.vectors) return command.fail(STATUS.INVALID_INTERRUPT_VECTOR, 46);
    if (command.prp1 % host.transfer.pageSize !== 0) return command.fail(STATUS.PRP_OFFSET_INVALID, 24);
    host.cqs[id] = new CompletionQueue(id, command.prp1, size, vector, (flags & 2) !== 0);
    host.queuesChanged();
    return STATUS.SUCCESS;
  }

  #createSq(command: NvmeCommand): number {
    const host = this.#host;
    const id = command.dword(10) & 0xffff;
    const size = (command.dword(10) >>> 16) + 1;
    const flags = command.dword(11) & 0xffff;
    const cqId = command.dword(11) >>> 16;
    if (id === 0 || id > host.allocatedSqs || host.sqs[id] !== undefined)
      return command.fail(STATUS.INVALID_QUEUE_ID, 40);
    if (size < 2 || size > host.maxEntries) return command.fail(STATUS.INVALID_QUEUE_SIZE, 42);
    if ((flags & 1) === 0) return command.fail(STATUS.INVALID_FIELD, 44);
    if (!host.entrySizesValid) return STATUS.INVALID_QUEUE_SIZE;
    if (cqId === 0) return command.fail(STATUS.INVALID_QUEUE_ID, 46);
    const cq = host.cqs[cqId];
    if (cq === undefined) return command.fail(STATUS.COMPLETION_QUEUE_INVALID, 46);
    if (command.prp1 % host.transfer.pageSize !== 0) return command.fail(STATUS.PRP_OFFSET_INVALID, 24);
    host.sqs[id] = new SubmissionQueue(id, command.prp1, size, cq);
    host.queuesChanged();
    return STATUS.SUCCESS;
  }

  #deleteSq(command: NvmeCommand): number | Promise<number> {
    const host = this.#host;
    const id = command.dword(10) & 0xffff;
    const sq = host.sqs[id];
    if (id === 0 || sq === undefined || sq.deleting) return command.fail(STATUS.INVALID_QUEUE_ID, 40);
    const remove = (): number => {
      sq.cq.users -= 1;
      host.sqs[id] = undefined;
      host.queuesChanged();
      return STATUS.SUCCESS;
    };
    sq.deleting = true;
    if (sq.isIdle) return remove();
    // Commands that were fetched complete before the deletion does.
    return new Promise<void>((resolve) => {
      sq.onIdle = resolve;
    }).then(remove);
  }

  #deleteCq(command: NvmeCommand): number {
    const host = this.#host;
    const id = command.dword(10) & 0xffff;
    const cq = host.cqs[id];
    if (id === 0 || cq === undefined) return command.fail(STATUS.INVALID_QUEUE_ID, 40);
    if (cq.users > 0) return command.fail(STATUS.INVALID_QUEUE_DELETION, 40);
    host.cqs[id] = undefined;
    host.queuesChanged();
    return STATUS.SUCCESS;
  }

  #identify(command: NvmeCommand): number | Promise<number> {
    const { identity, namespaces, manager } = this.#host;
    const { nsid } = command;
    const isInRange = nsid >= 1 && nsid <= identity.namespaces;
    const namespace = namespaces.get(nsid);
    switch (command.dword(10) & 0xff) {
      case CNS.CONTROLLER:
        return this.#reply(command, identifyController(identity));
      case CNS.NAMESPACE:
        if (!isInRange) return command.fail(STATUS.INVALID_NAMESPACE, 4);
        return this.#reply(
          command,
          namespace === undefined
            ? new Uint8Array(IDENTIFY_SIZE)
            : identifyNamespace(namespace, identity.role !== 'only'),
        );
      case CNS.ACTIVE_NAMESPACES:
        if (nsid >= 0xfffffffe) return command.fail(STATUS.INVALID_NAMESPACE, 4);
        return this.#reply(command, identifyActive(namespaces.keys(), nsid));
      case CNS.NAMESPACE_DESCRIPTORS:
        if (namespace === undefined) return command.fail(this.#host.missing(nsid), 4);
        return this.#reply(command, identifyDescriptors(namespace));
      case CNS.COMMAND_SET_CONTROLLER:
        // Nothing but zeros: entries of data queues are of type 0 (LBAMQF; NVM Command Set 1.1, figure 120).
        if (manager === undefined || command.dword(11) >>> 24 !== 0) return command.fail(STATUS.INVALID_FIELD, 40);
        return this.#reply(command, new Uint8Array(IDENTIFY_SIZE));
      case CNS.SECONDARY_CONTROLLERS:
        if (manager === undefined) return command.fail(STATUS.INVALID_FIELD, 40);
        return this.#reply(command, manager.secondaries(command.dword(10) >>> 16));
      case CNS.CONTROLLER_STATE_FORMATS:
        if (manager === undefined) return command.fail(STATUS.INVALID_FIELD, 40);
        return this.#reply(command, manager.formats());
      default:
        return command.fail(STATUS.INVALID_FIELD, 40);
    }
  }

  #getLogPage(command: NvmeCommand): number | Promise<number> {
    const host = this.#host;
    const dword10 = command.dword(10);
    const page = dword10 & 0xff;
    const keepsEvent = (dword10 & 0x8000) !== 0;
    const length = 4 * ((dword10 >>> 16) + (command.dword(11) & 0xffff) * 0x10000 + 1);
    const offset = command.quad(48);
    if (length > 4096 * 2 ** host.identity.mdts) return command.fail(STATUS.INVALID_FIELD, 42);
    if (offset % 4 !== 0) return command.fail(STATUS.INVALID_FIELD, 48);
    // Every page here is about the controller as a whole (LPA bit 0 is clear).
    if (command.nsid !== 0 && command.nsid !== NSID_ALL)
      return command.fail(host.namespaces.has(command.nsid) ? STATUS.INVALID_FIELD : host.missing(command.nsid), 4);
    let bytes: Uint8Array;
    let eventType: number | undefined;
    switch (page) {
      case LOG.ERROR:
        bytes = host.errors.page();
        eventType = EVENT.TYPE_ERROR;
        break;
      case LOG.SMART:
        bytes = smartPage(host.health, host.criticalWarning, host.powerOnHours);
        eventType = EVENT.TYPE_SMART;
        break;
      case LOG.FIRMWARE:
        bytes = firmwarePage(host.identity.firmware);
        break;
      case LOG.CHANGED_NAMESPACES:
        bytes = changedNamespacesPage(host.changedNamespaces);
        eventType = EVENT.TYPE_NOTICE;
        break;
      case LOG.COMMANDS:
        bytes = commandsPage(host.manager !== undefined);
        break;
      default:
        return command.fail(STATUS.INVALID_LOG_PAGE, 40);
    }
    if (offset > bytes.length) return command.fail(STATUS.INVALID_FIELD, 48);
    // What is asked for beyond the page reads as zeros.
    const data = new Uint8Array(length);
    data.set(bytes.subarray(offset, offset + length));
    const status = this.#reply(command, data);
    if (keepsEvent) return status;
    const done = (result: number): number => {
      if (result !== STATUS.SUCCESS) return result;
      if (page === LOG.CHANGED_NAMESPACES) host.changedNamespaces.clear();
      if (eventType !== undefined) host.events.logRead(eventType);
      return result;
    };
    return typeof status === 'number' ? done(status) : status.then(done);
  }

  #abort(command: NvmeCommand): number {
    const sqId = command.dword(10) & 0xffff;
    const cid = command.dword(10) >>> 16;
    if (this.#host.sqs[sqId] === undefined) return command.fail(STATUS.INVALID_FIELD, 40);
    // Commands end too soon to be aborted, but for the requests that wait for an event.
    const aborted = sqId === 0 && this.#host.events.abort(cid);
    command.result = aborted ? 0 : 1;
    return STATUS.SUCCESS;
  }

  #format(command: NvmeCommand): number {
    const dword10 = command.dword(10);
    const format = dword10 & 0xf;
    const { namespaces } = this.#host;
    const targets =
      command.nsid === NSID_ALL
        ? [...namespaces.values()]
        : [namespaces.get(command.nsid)].filter((ns) => ns !== undefined);
    if (targets.length === 0) return command.fail(this.#host.missing(command.nsid), 4);
    // No metadata, no protection information; secure erase by discarding (0 and 1), not by cryptography.
    if (LBA_FORMATS[format] === undefined || (dword10 & 0x1f0) !== 0) return command.fail(STATUS.INVALID_FORMAT, 40);
    if (((dword10 >>> 9) & 7) > 1) return command.fail(STATUS.INVALID_FIELD, 41);
    try {
      for (const namespace of targets) {
        namespace.reformat(format);
        this.#host.formatted(namespace.nsid);
      }
    } catch {
      return STATUS.INTERNAL_ERROR;
    }
    return STATUS.SUCCESS;
  }

  #reply(command: NvmeCommand, data: Uint8Array): number | Promise<number> {
    return this.#host.transfer.run(command, data, 'to-host');
  }
}
