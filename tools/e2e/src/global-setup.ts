import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { type Artifacts, prepare } from './prepare.js';

declare module 'vitest' {
  interface ProvidedContext {
    artifacts: Artifacts;
  }
}

const KEEP_RUNS = 5;

/** Prepares what guests need before the first suite, and gives this run its own folder of logs. */
export async function setup(project: TestProject): Promise<void> {
  const artifacts = await prepare((line) => console.log(`e2e: ${line}`));
  const logs = join(artifacts.logs, `${new Date().toISOString().replaceAll(':', '-')}-${process.pid}`);
  mkdirSync(logs, { recursive: true });
  dropOldRuns(artifacts.logs);
  const { milliseconds, made } = artifacts.preparation;
  console.log(
    `e2e: prepared in ${(milliseconds / 1000).toFixed(1)} s (${made.length > 0 ? `made ${made.join(', ')}` : 'all cached'})`,
  );
  console.log(`e2e: QEMU ${artifacts.qemu.version} (${artifacts.qemu.origin}), kernel ${artifacts.kernel.release}`);
  console.log(`e2e: logs of the guests are in ${logs}`);
  project.provide('artifacts', { ...artifacts, logs });
}

function dropOldRuns(folder: string): void {
  const runs = readdirSync(folder).map((name) => join(folder, name));
  runs.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
  for (const run of runs.slice(KEEP_RUNS)) rmSync(run, { recursive: true, force: true });
}
