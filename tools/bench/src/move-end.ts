/**
 * One end of a move, in a process of its own: `move-end.js SOCKET FOLDER BYTES` waits at the socket for a device, `move-end.js SOCKET
 * FOLDER BYTES out` moves one there. Prints how long it took, and how much more memory this process ever had than before.
 */
import { join } from 'node:path';
import { meetAt, VfioUserClient, VfioUserServer } from '@vfio/vfio-user';
import { largeDevice } from './large-device.js';

const [path = '', folder = '', bytes = '0', direction = 'in'] = process.argv.slice(2);
const device = await largeDevice(Number(bytes));
const server = new VfioUserServer(device);
const socket = join(folder, `${direction}-${process.pid}`);
await server.listen(socket);
const client = await VfioUserClient.connect(socket);
// KiB, of the whole life of the process.
const before = process.resourceUsage().maxRSS;
const milliseconds =
  direction === 'out'
    ? (await server.moveOut(path, { maxRounds: 0 })).downtimeMs
    : (await server.moveIn({ fd: await meetAt(path).arrival })).totalMs;
const grownBytes = (process.resourceUsage().maxRSS - before) * 1024;
process.stdout.write(`${JSON.stringify({ seconds: milliseconds / 1000, grownBytes })}\n`);
await client.close();
await server.close();
