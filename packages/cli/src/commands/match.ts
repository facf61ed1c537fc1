import {
  type AliasCandidate,
  type AliasExplanation,
  explainMatch,
  normalizePciAddress,
  type PciIdentity,
  parseModalias,
  parsePciIds,
  VfioError,
} from '@vfio/core';
import type { Io } from '../io.js';
import { paint, printJson, printTable } from '../output.js';
import { findFunction, type Session } from '../session.js';

export interface MatchOptions {
  readonly json?: boolean;
  /** Also show drivers none of whose aliases match, with what is closest. */
  readonly all?: boolean;
}

/** Wildcards of an id that was given in part: a real function has a value there, 0 is what an unset subsystem reads. */
const ANY = 0xffffffff;

/** What a person wrote, as ids to match: an address, a modalias, or `vendor:device[:subvendor[:subdevice[:class]]]`. */
function explain(session: Session, what: string, all: boolean): AliasExplanation {
  const { drivers, host } = session;
  if (/^([0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/i.test(what)) {
    return drivers.explain(findFunction(host, normalizePciAddress(what)), { mismatches: all });
  }
  if (/^(vfio_)?pci:/.test(what)) return explainMatch(drivers.index, parseModalias(what), { mismatches: all });
  try {
    const given = parsePciIds(what);
    const known = (value: number): number => (value === ANY ? 0 : value);
    const identity: PciIdentity = {
      vendor: given.vendor,
      device: given.device,
      subvendor: known(given.subvendor),
      subdevice: known(given.subdevice),
      class: known(given.class) & 0xffffff,
    };
    return explainMatch(drivers.index, identity, { mismatches: all });
  } catch (cause) {
    throw new VfioError(
      'ERR_VFIO_INVALID_ID',
      `cannot match "${what}": give an address (0000:00:04.0), a modalias (pci:v00008086d…), or ids ` +
        '(8086:5845, 8086:5845:1af4:1100:010802)',
      { errno: 'EINVAL', op: 'match', cause },
    );
  }
}

/** `vfio match`: every driver that could take a function, field by field, and why one wins. Returns whether one does. */
export function match(session: Session, what: string, options: MatchOptions, io: Io): boolean {
  const explanation = explain(session, what, options.all === true);
  if (options.json === true) {
    printJson(io, explanation);
    return explanation.winner !== undefined;
  }
  printExplanation(explanation, io);
  return explanation.winner !== undefined;
}

/** The explanation as a table: a row for each candidate, a column for each field. */
export function printExplanation(explanation: AliasExplanation, io: Io, indent = ''): void {
  const { candidates, winner } = explanation;
  io.out(`${indent}${explanation.modalias}\n`);
  if (candidates.length === 0) {
    io.out(`${indent}no installed driver matches; install @vfio/vfio-pci for the generic one\n`);
    return;
  }
  const fieldNames =
    candidates.find((candidate) => candidate.fields.length > 0)?.fields.map((field) => field.tag) ?? [];
  printTable(
    io,
    ['', 'DRIVER', 'PACKAGE', ...fieldNames.map((name) => name.toUpperCase()), 'WILDCARDS', 'WHY'],
    candidates.map((candidate) => [
      mark(candidate, io),
      candidate.driver,
      candidate.package ?? '-',
      ...fieldNames.map((_, index) => fieldCell(candidate, index, io)),
      String(candidate.wildcards),
      candidate.why,
    ]),
    indent,
  );
  io.out(
    winner === undefined
      ? `${indent}no driver can take it\n`
      : `${indent}${paint(io, 'bold', winner.driver)} takes it, because it ${winner.why}\n`,
  );
}

function mark(candidate: AliasCandidate, io: Io): string {
  switch (candidate.outcome) {
    case 'won':
      return paint(io, 'green', '*');
    case 'lost':
      return ' ';
    case 'excluded':
      return paint(io, 'yellow', '!');
    case 'mismatch':
      return paint(io, 'red', 'x');
  }
}

function fieldCell(candidate: AliasCandidate, index: number, io: Io): string {
  const field = candidate.fields[index];
  if (field === undefined) return '';
  if (field.wildcard) return '*';
  return paint(io, field.matches ? 'green' : 'red', field.pattern);
}
