/**
 * The control socket's protocol: JSON-RPC 2.0 with `Content-Length` framing, progress and cancellation as the Language
 * Server Protocol has them (`$/progress`, `$/cancelRequest`). docs/architecture/control-socket.md is its description.
 */
import { ProgressType } from 'vscode-jsonrpc/node';

/** Counts up when an old client could misunderstand a new server. */
export const CONTROL_PROTOCOL = 1;

/** What a client asks first; answered without the serving threads, so at once. */
export const HELLO = 'hello';

/** The answer to {@link HELLO}. */
export interface Hello {
  readonly server: 'vfio serve';
  readonly version: string;
  readonly protocol: number;
  readonly pid: number;
  /** Addresses of the functions that it serves. */
  readonly functions: readonly string[];
  readonly methods: readonly string[];
}

/** Values of any method's progress, under the token that the call gave as `progressToken`. */
export const PROGRESS = new ProgressType<unknown>();

/** Error codes of JSON-RPC 2.0 that are used; VFIO's own code and errno are in `data`. */
export const RPC_ERROR = {
  /** The method failed. */
  FAILED: -32000,
  METHOD_NOT_FOUND: -32601,
  INVALID_PARAMS: -32602,
  /** As in the Language Server Protocol. */
  CANCELLED: -32800,
} as const;

/** `data` of an error. */
export interface ErrorData {
  readonly code: string | null;
  readonly errno: string | null;
  readonly device: string | null;
}

/** Bytes of a message to the server: a request names a method, a few numbers and a few paths (at most 4096 bytes each). */
export const MAX_REQUEST_SIZE = 64 * 1024;

/** Bytes of a message to a client: the largest are batches of trace lines, some hundred KiB. More than a server sends. */
export const MAX_RESPONSE_SIZE = 16 * 1024 * 1024;

/** Bytes of the lines before a message: `Content-Length` and perhaps `Content-Type`. */
export const MAX_HEADER_SIZE = 1024;

/** Clients at once: a management daemon and a few people. A further one is let go at once. */
export const MAX_CONNECTIONS = 64;

/** Calls of one client that run at once; a further one is answered with an error. */
export const MAX_CALLS = 32;

/** Messages to one client that it does not read; it is let go. */
export const MAX_UNREAD = 64;

/** Milliseconds in which a server answers {@link HELLO}. */
export const HELLO_TIMEOUT_MS = 5000;

/** Milliseconds that calls are given to end when the server ends. */
export const CALL_GRACE_MS = 1000;
