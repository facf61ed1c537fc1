/** The value of QEMU's `-device` for a socket. QEMU takes the JSON form only: `socket` is an object. */
export interface QemuDevice {
  readonly driver: 'vfio-user-pci';
  readonly socket: { readonly type: 'unix'; readonly path: string };
}

export const qemuDevice = (path: string): QemuDevice => ({ driver: 'vfio-user-pci', socket: { type: 'unix', path } });

/** A word for a POSIX shell, whatever is in it. */
export const shellQuote = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

/** A command line that starts QEMU with these devices; guest memory is shared, or DMA would go to a copy. */
export function qemuCommandLine(devices: readonly QemuDevice[]): string {
  const lines = [
    'qemu-system-x86_64 -M q35,memory-backend=m -object memory-backend-memfd,id=m,size=1G,share=on -m 1G',
    ...devices.map((device) => `  -device ${shellQuote(JSON.stringify(device))}`),
  ];
  return lines.join(' \\\n');
}
