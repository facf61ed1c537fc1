import {
  type AliasCandidate,
  type AliasExplanation,
  type PciFunction,
  type PciIdentity,
  parseModalias,
  parsePciIds,
  VfioError,
} from '@vfio/core';
import type { Io } from '../io.js';
import { paint, printJson, printTable } from '../output.js';
import { findFunction, isAddress, type Session } from '../session.js';

export interface MatchOptions {
  readonly json?: boolean;
  /** Also show drivers none of whose aliases match, with what is closest. */
  readonly all?: boolean;
}

/** What `vfio match --json` shows: schemas/match.json. */
export interface MatchReport {
  readonly modalias: string;
  /** Name of the driver to bind. */
  readonly winner: string | null;
  /** Why no driver can take the function whatever matches; null where one can. */
  readonly refused: string | null;
  readonly candidates: readonly MatchedCandidate[];
}

type MatchedCandidate = Omit<AliasCandidate, 'package' | 'place'> & {
  readonly package: string | null;
  readonly place: number | null;
};

/** Wildcards of an id that was given in part: a real function has a value there, 0 is what an unset subsystem reads. */
const ANY = 0xffffffff;

/** A function of the host, where that was named, and what the index says of its ids. */
interface Asked {
  readonly fn?: PciFunction;
  readonly explanation: AliasExplanation;
}

/** What a person wrote, as ids to match: an address, a modalias, or `vendor:device[:subvendor[:subdevice[:class]]]`. */
function explain(session: Session, what: string, all: boolean): Asked {
  const { drivers, host } = session;
  if (isAddress(what)) {
    const fn = findFunction(host, what);
    return { fn, explanation: drivers.explain(fn, { mismatches: all }) };
  }
  return { explanation: drivers.index.explain(parseIdentity(what), { mismatches: all }) };
}

function parseIdentity(what: string): PciIdentity {
  try {
    if (/^(vfio_)?pci:/.test(what)) return parseModalias(what);
    const given = parsePciIds(what);
    const known = (value: number): number => (value === ANY ? 0 : value);
    return {
      vendor: given.vendor,
      device: given.device,
      subvendor: known(given.subvendor),
      subdevice: known(given.subdevice),
      class: known(given.class) & 0xffffff,
    };
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
  const { fn, explanation } = explain(session, what, options.all === true);
  const refused =
    fn === undefined || fn.headerType === 0 ? null : `${fn.address} is a bridge, and VFIO takes none whatever matches`;
  if (options.json === true) {
    const { modalias, winner, candidates } = explanation;
    printJson(io, {
      modalias,
      winner: winner?.driver ?? null,
      refused,
      candidates: candidates.map((candidate) => ({
        ...candidate,
        package: candidate.package ?? null,
        place: candidate.place ?? null,
      })),
    } satisfies MatchReport);
  } else {
    printExplanation(explanation, io);
    if (refused !== null) io.out(`${paint(io, 'yellow', 'but')} ${refused}\n`);
  }
  return explanation.winner !== undefined && refused === null;
}

/** The explanation as a table: a row for each candidate, a column for each field. */
export function printExplanation(explanation: AliasExplanation, io: Io, indent = ''): void {
  const { candidates, winner } = explanation;
  io.out(`${indent}${explanation.modalias}\n`);
  if (candidates.length === 0) {
    io.out(`${indent}no installed driver matches; \`npm install @vfio/vfio-pci\` brings the generic one\n`);
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
