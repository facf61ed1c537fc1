import {
  type AliasCandidate,
  type AliasCondition,
  type AliasExplanation,
  type PciFunction,
  type PciIdentity,
  PLATFORM_CONDITIONS,
  parseModalias,
  parsePciIds,
  VfioError,
} from '@vfio/core';
import type { Io } from '../io.js';
import { betterDriver } from '../known-drivers.js';
import { paint, printJson, printTable } from '../output.js';
import { findFunction, isAddress, type LinuxSession, type Session } from '../session.js';

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
  /** A driver that is not installed and would take the function if it were; null where the best one is installed. */
  readonly better: { readonly driver: string; readonly package: string } | null;
  /** The same for the kernel's own VFIO drivers, named by their modules; null where the host is none with a kernel. */
  readonly kernel: { readonly winner: string | null; readonly candidates: readonly MatchedCandidate[] } | null;
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
  readonly better: { readonly driver: string; readonly package: string } | null;
  /** What the kernel's index says. */
  readonly kernel?: AliasExplanation;
}

/** What a person wrote, as ids to match: an address, a modalias, or `vendor:device[:subvendor[:subdevice[:class]]]`. */
function explain(session: Session | LinuxSession, what: string, all: boolean): Asked {
  const { drivers, host } = session;
  const options = { mismatches: all };
  const ofKernel = (id: PciIdentity) => ('modules' in session ? { kernel: session.modules.explain(id, options) } : {});
  if (isAddress(what)) {
    const fn = findFunction(host, what);
    const holds = (name: string): boolean =>
      Object.hasOwn(PLATFORM_CONDITIONS, name) && PLATFORM_CONDITIONS[name]?.(fn) === true;
    return { fn, explanation: drivers.explain(fn, options), better: better(session, fn, holds), ...ofKernel(fn) };
  }
  const id = parseIdentity(what);
  // Of ids alone nothing is known that a driver may require.
  const none = () => false;
  return { explanation: drivers.index.explain(id, options), better: better(session, id, none), ...ofKernel(id) };
}

function better({ drivers }: Session | LinuxSession, id: PciIdentity, holds: AliasCondition): Asked['better'] {
  const found = betterDriver(id, holds, drivers);
  return found === undefined ? null : { driver: found.name, package: found.package };
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

const matched = ({ winner, candidates }: AliasExplanation) => ({
  winner: winner?.driver ?? null,
  candidates: candidates.map((candidate) => ({
    ...candidate,
    package: candidate.package ?? null,
    place: candidate.place ?? null,
  })),
});

/** `vfio match`: every driver that could take a function, field by field, and why one wins. Returns whether one does. */
export function match(session: Session | LinuxSession, what: string, options: MatchOptions, io: Io): boolean {
  const { fn, explanation, better, kernel } = explain(session, what, options.all === true);
  const refused =
    fn === undefined || fn.headerType === 0 ? null : `${fn.address} is a bridge, and VFIO takes none whatever matches`;
  if (options.json === true) {
    const { modalias } = explanation;
    printJson(io, {
      modalias,
      ...matched(explanation),
      better,
      refused,
      kernel: kernel === undefined ? null : matched(kernel),
    } satisfies MatchReport);
  } else {
    printExplanation(explanation, io);
    if (better !== null) io.out(`${better.driver} would match better: \`npm install ${better.package}\` brings it\n`);
    if (kernel !== undefined) printKernel(kernel, session, io);
    if (refused !== null) io.out(`${paint(io, 'yellow', 'but')} ${refused}\n`);
  }
  return (explanation.winner !== undefined || kernel?.winner !== undefined) && refused === null;
}

function printKernel(kernel: AliasExplanation, session: Session | LinuxSession, io: Io): void {
  const sources = 'modules' in session ? session.modules.sources : [];
  io.out(`\nmodules of the kernel, by ${sources.length === 0 ? 'no file: there is none' : sources.join(' and ')}\n`);
  if (kernel.candidates.length === 0) io.out('no module matches\n');
  else printCandidates(kernel, io, '', ['MODULE']);
}

/** The explanation as a table: a row for each candidate, a column for each field. */
export function printExplanation(explanation: AliasExplanation, io: Io, indent = ''): void {
  io.out(`${indent}${explanation.modalias}\n`);
  if (explanation.candidates.length > 0) printCandidates(explanation, io, indent);
  else io.out(`${indent}no installed driver matches; \`npm install @vfio/vfio-pci\` brings the generic one\n`);
}

function printCandidates(
  { candidates, winner }: AliasExplanation,
  io: Io,
  indent: string,
  owner: readonly ['DRIVER', 'PACKAGE'] | readonly ['MODULE'] = ['DRIVER', 'PACKAGE'],
): void {
  const fieldNames =
    candidates.find((candidate) => candidate.fields.length > 0)?.fields.map((field) => field.tag) ?? [];
  printTable(
    io,
    ['', ...owner, ...fieldNames.map((name) => name.toUpperCase()), 'WILDCARDS', 'WHY'],
    candidates.map((candidate) => [
      mark(candidate, io),
      candidate.driver,
      ...(owner.length === 1 ? [] : [candidate.package ?? '-']),
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
