import { EMPTY_REPLY, type Reply } from '../request.js';
import type { Handler } from './handler.js';

/** DEVICE_RESET. Interrupts stay armed, as after the kernel's: QEMU sends only INTx again. */
export const deviceReset: Handler = (context): Reply | Promise<Reply> => {
  const done = (): Reply => {
    // A device that is reset runs again, whatever a migration had made of it.
    context.migrationState = undefined;
    context.hasMoved = false;
    context.migrationData?.close();
    context.migrationData = undefined;
    return EMPTY_REPLY;
  };
  const wait = context.device.reset();
  return wait === undefined ? done() : wait.then(done);
};
