import type { EventTrigger } from '@vfio/core';

/** A trigger that counts what is done to it. */
export class CountingTrigger implements EventTrigger {
  readonly fd = undefined;
  signals = 0;
  releases = 0;
  readonly #watchers = new Set<() => void>();

  signal(): void {
    this.signals += 1;
    for (const watcher of this.#watchers) watcher();
  }

  watch(handler: () => void): () => void {
    this.#watchers.add(handler);
    return () => {
      this.#watchers.delete(handler);
    };
  }

  release(): void {
    this.releases += 1;
  }
}

/** A signal may come back over a socket: looks for a while, without a fixed sleep. */
export async function arrives(condition: () => boolean): Promise<boolean> {
  for (let n = 0; n < 400 && !condition(); n++) await new Promise((resolve) => setTimeout(resolve, 5));
  return condition();
}
