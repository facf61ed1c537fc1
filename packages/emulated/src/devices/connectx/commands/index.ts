import type { Command } from '../command.js';
import { capabilityCommands } from './capabilities.js';
import { eventQueueCommands } from './event-queues.js';
import { lifecycleCommands } from './lifecycle.js';
import { memoryKeyCommands } from './memory-keys.js';
import { migrationCommands } from './migration.js';
import { pageTrackerCommands } from './page-trackers.js';
import { pageCommands } from './pages.js';
import { queueCommands } from './queues.js';
import { registerCommands } from './registers.js';
import { resourceCommands } from './resources.js';

/** Every command of the model by its opcode. */
export const COMMANDS: ReadonlyMap<number, Command> = new Map(
  [
    ...lifecycleCommands,
    ...pageCommands,
    ...capabilityCommands,
    ...registerCommands,
    ...eventQueueCommands,
    ...resourceCommands,
    ...memoryKeyCommands,
    ...queueCommands,
    ...migrationCommands,
    ...pageTrackerCommands,
  ].map((command) => [command.opcode, command]),
);
