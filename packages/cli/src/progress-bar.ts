import { Presets, SingleBar } from 'cli-progress';
import { formatRoughly } from './format.js';
import type { Io } from './io.js';
import type { MoveProgressReport } from './serve/methods/move-progress.js';

/** Shows how far a move is, where somebody looks at it. */
export interface ProgressBar {
  show(progress: Omit<MoveProgressReport, 'state'> & { readonly state: string }): void;
  /** Takes it away: what is printed next has the line. */
  end(): void;
}

const NONE: ProgressBar = { show: () => {}, end: () => {} };

/** A bar on a terminal; nothing where there is none, or where a program reads the output. */
export function progressBar(io: Io, isWanted: boolean): ProgressBar {
  if (io.terminal === undefined || !isWanted) return NONE;
  const format = '{bar} {percentage}%  {rate}/s  {rest} left  round {round}  {state}';
  const bar = new SingleBar(
    { stream: io.terminal, format, clearOnComplete: true, hideCursor: true, barsize: 24, fps: 10 },
    Presets.shades_classic,
  );
  let isShown = false;
  return {
    show({ stateBytes, memoryBytes, remainingBytes, bytesPerSecond, round, state }) {
      const done = stateBytes + memoryBytes;
      const words = { rate: formatRoughly(bytesPerSecond), rest: formatRoughly(remainingBytes), round, state };
      if (!isShown) bar.start(done + remainingBytes, done, words);
      isShown = true;
      bar.setTotal(Math.max(1, done + remainingBytes));
      bar.update(done, words);
    },
    end() {
      if (isShown) bar.stop();
      isShown = false;
    },
  };
}
