import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type MeetingPoint, type MovedIn, meetAt } from '@vfio/vfio-user';
import { defineMethod } from './method.js';
import { type MoveProgressReport, moveProgressReport } from './move-progress.js';

/** First where the other side is to come, then how far it is. */
export type MigrateInProgress =
  | { readonly type: 'waiting'; readonly path: string }
  | ({ readonly type: 'moving' } & MoveProgressReport);

export const migrateIn = defineMethod<Record<string, never>, MovedIn, MigrateInProgress>({
  params: () => ({}),
  run: async ({ server, loop, driverVersion }, _, { progress, signal }) => {
    // Nobody but its owner may look into the folder, so nobody else can come first.
    const folder = await mkdtemp(join(tmpdir(), 'vfio-move-'));
    let meeting: MeetingPoint | undefined;
    const callOff = () => meeting?.close();
    try {
      meeting = meetAt(join(folder, 'socket'), loop);
      signal.addEventListener('abort', callOff, { once: true });
      signal.throwIfAborted();
      progress({ type: 'waiting', path: meeting.path });
      const fd = await meeting.arrival;
      return await server.moveIn(
        { fd },
        {
          ...(driverVersion === undefined ? {} : { driverVersion }),
          signal,
          onProgress: (value) => progress({ type: 'moving', ...moveProgressReport(value) }),
        },
      );
    } finally {
      signal.removeEventListener('abort', callOff);
      meeting?.close();
      await rm(folder, { recursive: true, force: true });
    }
  },
});
