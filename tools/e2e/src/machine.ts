import type { Guest, GuestOptions } from './guest.js';
import type { Artifacts } from './prepare.js';

/** Where the userland is in the guest. */
const HOST = '/tmp/host';

/** A guest as somebody's machine: a Debian userland with Node, in which the built command is installed. */
export class Machine {
  readonly guest: Guest;

  private constructor(guest: Guest) {
    this.guest = guest;
  }

  /** The disks that such a guest needs: the userland, and a project with the command. Behind ports, so that the root disk stays the first. */
  static disks(artifacts: Artifacts, cliImage: string): Required<Pick<GuestOptions, 'rootPorts' | 'devices' | 'args'>> {
    const disks = { userland: artifacts.userlandImage, vfio: cliImage };
    return {
      rootPorts: Object.keys(disks).map((name) => `port-${name}`),
      devices: Object.keys(disks).map((name) => ({
        driver: 'virtio-blk-pci',
        drive: name,
        serial: name,
        bus: `port-${name}`,
      })),
      args: Object.entries(disks).flatMap(([name, filename]) => [
        '-blockdev',
        JSON.stringify({ driver: 'file', 'node-name': name, filename, 'read-only': true }),
      ]),
    };
  }

  /** Mounts the userland of a guest that was booted with {@link disks}. What is written to it lasts as long as the guest. */
  static async enter(guest: Guest): Promise<Machine> {
    await guest.ok(`
      disk() { for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "$1" ] && echo /dev/\${d##*/}; done; }
      mkdir -p ${HOST}
      mount -t erofs -o ro "$(disk userland)" ${HOST} || exit 1
      for folder in dev proc run sys tmp usr/lib/modules; do mount -o bind /$folder ${HOST}/$folder || exit 1; done
      for folder in etc/driverctl.d etc/udev/rules.d var/lib; do mount -t tmpfs none ${HOST}/$folder || exit 1; done
      mount -t erofs -o ro "$(disk vfio)" ${HOST}/opt/vfio`);
    return new Machine(guest);
  }

  /** A script for {@link Guest.run} and its siblings, run in the userland's own root. */
  script(text: string): string {
    const encoded = Buffer.from(
      `cd /opt/vfio\nexport PATH=/opt/vfio/bin:/usr/local/bin:/usr/bin:/usr/sbin HOME=/tmp VFIO_CACHE=/tmp/vfio-cache\n${text}\n`,
    ).toString('base64');
    return `echo ${encoded} | base64 -d >/tmp/host.sh && chroot ${HOST} /bin/sh /tmp/host.sh`;
  }

  /** Runs the command: its exit code and what it wrote. */
  vfio(args: string) {
    return this.guest.run(this.script(`exec node node_modules/@vfio/cli/bin/vfio.js ${args}`), { seconds: 120 });
  }

  /** Runs a script in the userland. */
  run(text: string) {
    return this.guest.run(this.script(text), { seconds: 120 });
  }

  /** Runs a script in the userland that must succeed. */
  ok(text: string) {
    return this.guest.ok(this.script(text), { seconds: 120 });
  }
}
