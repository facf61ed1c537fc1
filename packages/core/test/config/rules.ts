/**
 * Which bits of a register are virtual and which may be written, written down from the reference as text:
 * `offset.width virtual/writable`, hex, least significant byte first is derived; `-` is all, `0` none. Bytes that are not
 * named are read-only hardware.
 */
export const RULES = {
  header: `00.4 -/0  04.2 400/-  06.2 10/0  0c.1 0/-  0d.1 0/-  0f.1 0/-  10.4 -/-  14.4 -/-  18.4 -/-  1c.4 -/-
    20.4 -/-  24.4 -/-  30.4 -/-  34.1 -/0  3c.1 -/-  3d.1 -/0`,
  pm: '01.1 -/0  02.2 f800/0  04.4 8100/ffff7efc',
  vpd: '01.1 -/0  02.2 -/-  04.4 -/-',
  pcix: '01.1 -/0  02.2 0/-  08.4 0/-',
  express: '01.1 -/0  08.2 f0e0/fdff  28.2 0/ffdf',
  af: '01.1 -/0  04.1 1/1',
  msi32: '01.1 -/0  02.1 -/-  04.4 -/-  08.2 -/-',
  msi64: '01.1 -/0  02.1 -/-  04.4 -/-  08.4 -/-  0c.2 -/-',
  msi32Maskable: '01.1 -/0  02.1 -/-  04.4 -/-  08.2 -/-  0c.4 0/-  10.4 0/-',
  msi64Maskable: '01.1 -/0  02.1 -/-  04.4 -/-  08.4 -/-  0c.2 -/-  10.4 0/-  14.4 0/-',
  readOnly: '01.1 -/0',
  vendor: '',
  raw: '',
  err: '00.4 -/0  04.4 0/3fff031  08.4 0/3fff031  0c.4 0/3fff031  10.4 0/f1c1  14.4 0/f1c1  18.4 0/140',
  pwr: '00.4 -/0  04.1 0/-  08.1 0/-',
  extReadOnly: '00.4 -/0',
} as const;

/** The named bytes of a rule with their bits. */
export function bitsOf(rule: string): { offset: number; virtual: number; writable: number }[] {
  const bits = (text: string, i: number) =>
    text === '-' ? 0xff : Number((BigInt(`0x${text}`) >> BigInt(8 * i)) & 0xffn);
  return [...rule.matchAll(/(\w+)\.(\d) (\S+)\/(\S+)/g)].flatMap(([, offset, width, v, w]) =>
    Array.from({ length: Number(width) }, (_, i) => ({
      offset: Number.parseInt(offset!, 16) + i,
      virtual: bits(v!, i),
      writable: bits(w!, i),
    })),
  );
}
