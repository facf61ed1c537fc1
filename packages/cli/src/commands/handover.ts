import { resolve } from 'node:path';
import { formatSize } from '../format.js';
import type { Io } from '../io.js';
import { paint, printJson } from '../output.js';
import { ControlClient } from '../serve/control/client.js';

export interface HandoverOptions {
  /** Control socket of the server that has the client. */
  readonly from: string;
  /** Where the server waits that is to have it: its --incoming. */
  readonly to: string;
  readonly address?: string;
  readonly maxPause?: number;
  readonly json?: boolean;
}

/** `vfio handover`: schemas/handover.json. */
export async function handover(options: HandoverOptions, io: Io): Promise<void> {
  await using client = await ControlClient.connect(resolve(io.cwd, options.from));
  const { address, maxPause } = options;
  const to = resolve(io.cwd, options.to);
  const result = await client.call('handover', { to, maxPauseMs: maxPause }, { address, signal: io.signal });
  if (options.json === true) return printJson(io, result);
  const { pid, pauseMs, stateBytes, maps, waiting } = result;
  const served = pid === null ? '' : `, now served by pid ${pid}`;
  io.out(`${paint(io, 'bold', result.address)}  handed over${served}\n`);
  io.out(`  pause:   ${pauseMs.toFixed(1)} ms, in which ${waiting} commands came\n`);
  io.out(`  moved:   ${formatSize(stateBytes)} of device state, ${maps} mappings of the client's memory\n`);
}
