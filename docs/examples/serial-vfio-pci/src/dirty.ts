import type { VfioLogOps, VfioPciCoreDevice } from '@vfio/core';

/**
 * The dirty log of a card that cannot write to memory: every report is empty, and that is the truth. It is there so that
 * a VMM needs no other way to track what this device does (it would have to take all of the guest's memory for dirty).
 */
export class DirtyLog {
  readonly ops: VfioLogOps<VfioPciCoreDevice> = {
    logStart: (dev, _ranges, pageSize) => {
      if (this.#isStarted) throw dev.error('EINVAL', 'DMA_LOGGING_START', 'logging has been started already');
      this.#isStarted = true;
      return pageSize;
    },
    logStop: () => this.stop(),
    logReadAndClear: (dev) => {
      if (!this.#isStarted) throw dev.error('EINVAL', 'DMA_LOGGING_REPORT', 'logging has not been started');
    },
  };
  #isStarted = false;

  stop(): void {
    this.#isStarted = false;
  }
}
