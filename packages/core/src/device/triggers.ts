/**
 * What an eventfd is to the kernel's VFIO: the thing that an interrupt signals, or that unmasks one. Core knows only
 * this shape; real eventfds come from `@vfio/native`, in-process ones from {@link callbackTrigger}.
 *
 * Lifetime: a trigger that is passed to `setIrqs`, `ioeventfd` or a feature belongs to the device from then on, also
 * when the call fails, and the device calls `release` exactly once when it lets go.
 */
export interface EventTrigger {
  /** The descriptor, for a base that hands it to the kernel; undefined for an in-process trigger. */
  readonly fd: number | undefined;
  /** Adds one. Never blocks or throws: a full counter is signalled already. */
  signal(): void;
  /** Calls the handler each time the trigger has been signalled by the other side, consuming the count; at once where
   * it is signalled already. The result stops it and may be called twice. */
  watch(handler: () => void): () => void;
  /** The holder lets go: closes the descriptor. */
  release(): void;
}

/** One VFIO_DEVICE_SET_IRQS, with descriptors already turned into triggers. */
export interface SetIrqsRequest {
  /** One VFIO_IRQ_SET_DATA_* and one VFIO_IRQ_SET_ACTION_*. */
  readonly flags: number;
  readonly index: number;
  readonly start: number;
  readonly count: number;
  /** DATA_BOOL: `count` bytes. */
  readonly bools?: Uint8Array;
  /** DATA_EVENTFD: `count` entries, null for -1. */
  readonly triggers?: readonly (EventTrigger | null)[];
}

/** One VFIO_DEVICE_IOEVENTFD: `data` of `width` bytes stored to the region whenever the trigger is signalled. */
export interface IoeventfdRequest {
  readonly region: number;
  readonly offset: number;
  readonly width: 1 | 2 | 4 | 8;
  readonly data: bigint;
  /** null removes. */
  readonly trigger: EventTrigger | null;
}

/** A trigger for programs in the same process: `signal` calls back synchronously. */
export function callbackTrigger(onSignal: () => void): EventTrigger {
  const watchers = new Set<() => void>();
  return {
    fd: undefined,
    signal() {
      onSignal();
      for (const watcher of watchers) watcher();
    },
    watch(handler) {
      watchers.add(handler);
      return () => {
        watchers.delete(handler);
      };
    },
    release() {
      watchers.clear();
    },
  };
}
