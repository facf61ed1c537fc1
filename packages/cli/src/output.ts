import { stripVTControlCharacters, styleText } from 'node:util';
import Table from 'cli-table3';
import type { Io } from './io.js';

export type Style = Parameters<typeof styleText>[0];

/** `text` in a style, where the output takes colours. */
export function paint(io: Io, style: Style, text: string): string {
  return io.color ? styleText(style, text, { validateStream: false }) : text;
}

/** One JSON document, the only thing that a command with `--json` writes to standard output. */
export function printJson(io: Io, value: unknown): void {
  io.out(`${JSON.stringify(value, (_, v: unknown) => (typeof v === 'bigint' ? `0x${v.toString(16)}` : v), 2)}\n`);
}

const PLAIN = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
};

/** A table without lines: columns of aligned text under bold heads. Nothing is cut: a terminal may wrap, a pipe must not lose. */
export function printTable(io: Io, head: readonly string[], rows: readonly (readonly string[])[], indent = ''): void {
  const table = new Table({
    chars: PLAIN,
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [], compact: true },
  });
  table.push(
    head.map((name) => paint(io, 'bold', name)),
    ...rows.map((row) => [...row]),
  );
  for (const line of table.toString().split('\n')) {
    const text = line.trimEnd();
    if (stripVTControlCharacters(text) !== '') io.out(`${indent}${text}\n`);
  }
}
