import { defineMethod } from './method.js';

/** After a `migrate-out` that ended `undecided`, when the other side is known not to run the device. */
export const migrateTakeBack = defineMethod({
  params: () => ({}),
  run: async ({ server }): Promise<Record<string, never>> => {
    await server.takeBack();
    return {};
  },
});
