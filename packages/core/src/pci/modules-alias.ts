import { VfioError } from '@vfio/uapi';

/** A line `alias <pattern> <module>` that can concern a PCI function. */
export interface AliasLine {
  readonly pattern: string;
  /** Third column: the module in the kernel's files, the driver in ours. */
  readonly driver: string;
  /** From 1; 0 where the line was not read from a file. */
  readonly line: number;
}

/** A line that was skipped. */
export interface AliasFileWarning {
  readonly line: number;
  /** Names the line. */
  readonly message: string;
}

/** What a `modules.alias` holds. */
export interface ModulesAlias {
  /** Lines that can match a PCI function, in file order. */
  readonly aliases: readonly AliasLine[];
  /** Number of alias lines of other buses (usb, acpi, ...), which are not kept. */
  readonly others: number;
  /** The first {@link MAX_WARNINGS} skipped lines. */
  readonly warnings: readonly AliasFileWarning[];
  /** Number of all skipped lines. */
  readonly skipped: number;
}

/** How many warnings are kept: a file that is garbage altogether is told well enough by its beginning. */
export const MAX_WARNINGS = 100;
/** Longest line in characters. Real ones have some hundred at most; what has no line ends must not fill memory. */
export const MAX_LINE_LENGTH = 4096;

const PREFIXES = ['pci:', 'vfio_pci:'] as const;

/**
 * Whether a pattern can match a modalias of the two namespaces: it starts with one, or its characters before the first
 * special one are the start of one (`p*:v*`).
 */
export function concernsPci(pattern: string): boolean {
  const first = pattern[0];
  // By far most patterns fail here, so the file's other lines cost one comparison.
  if (first !== 'p' && first !== 'v' && first !== '*' && first !== '?' && first !== '[' && first !== '\\') return false;
  if (pattern.startsWith('pci:') || pattern.startsWith('vfio_pci:')) return true;
  const special = pattern.search(/[*?[\\]/);
  return special !== -1 && PREFIXES.some((prefix) => prefix.startsWith(pattern.slice(0, special)));
}

/** Collects warnings up to {@link MAX_WARNINGS}. */
class Warnings {
  readonly list: AliasFileWarning[] = [];
  count = 0;

  add(line: number, unit: string, reason: string, text: string): void {
    this.count++;
    if (this.list.length >= MAX_WARNINGS) return;
    const shown = text.length > 60 ? `${text.slice(0, 60)}...` : text;
    this.list.push({ line, message: `${unit} ${line}: ${reason}: ${JSON.stringify(shown)}` });
  }
}

/**
 * Cuts a stream of characters or UTF-8 bytes at a separator. An item longer than {@link MAX_LINE_LENGTH} is reported once, cut,
 * and the rest of it dropped.
 */
class Splitter {
  readonly #separator: string;
  readonly #item: (text: string, tooLong: boolean) => void;
  readonly #decoder = new TextDecoder('utf-8');
  #rest = '';
  #dropping = false;

  constructor(separator: string, item: (text: string, tooLong: boolean) => void) {
    this.#separator = separator;
    this.#item = item;
  }

  push(chunk: string | Uint8Array): void {
    this.#take(typeof chunk === 'string' ? chunk : this.#decoder.decode(chunk, { stream: true }));
  }

  end(): void {
    this.#take(this.#decoder.decode());
    if (this.#rest !== '' && !this.#dropping) this.#item(this.#rest, false);
    this.#rest = '';
    this.#dropping = false;
  }

  #take(chunk: string): void {
    const text = this.#rest === '' ? chunk : this.#rest + chunk;
    let start = 0;
    for (let end = text.indexOf(this.#separator); end !== -1; end = text.indexOf(this.#separator, start)) {
      this.#emit(text.slice(start, end));
      start = end + 1;
    }
    this.#rest = text.slice(start);
    if (this.#rest.length > MAX_LINE_LENGTH) {
      if (!this.#dropping) this.#item(this.#rest.slice(0, MAX_LINE_LENGTH), true);
      this.#dropping = true;
      this.#rest = '';
    }
  }

  #emit(text: string): void {
    if (this.#dropping) {
      this.#dropping = false;
      return;
    }
    if (text.length > MAX_LINE_LENGTH) this.#item(text.slice(0, MAX_LINE_LENGTH), true);
    else this.#item(text, false);
  }
}

/** What the readers of both files have in common: items are cut from a stream, and kept, counted or skipped with a warning. */
abstract class AliasReader {
  readonly #unit: string;
  readonly #splitter: Splitter;
  readonly #aliases: AliasLine[] = [];
  readonly #warnings = new Warnings();
  #others = 0;
  #number = 0;

  constructor(separator: string, unit: string) {
    this.#unit = unit;
    this.#splitter = new Splitter(separator, (text, tooLong) => this.item(text, ++this.#number, tooLong));
  }

  push(chunk: string | Uint8Array): void {
    this.#splitter.push(chunk);
  }

  /** The end of the file; the last item needs no separator after it. */
  end(): ModulesAlias {
    this.#splitter.end();
    return {
      aliases: this.#aliases,
      others: this.#others,
      warnings: this.#warnings.list,
      skipped: this.#warnings.count,
    };
  }

  protected abstract item(text: string, number: number, tooLong: boolean): void;

  protected alias(pattern: string, driver: string, line: number, text: string): void {
    if (!concernsPci(pattern)) this.#others++;
    else if (isWord(pattern) && isWord(driver)) this.#aliases.push({ pattern, driver, line });
    else this.skip(line, 'characters that no alias has', text);
  }

  protected skip(number: number, reason: string, text: string): void {
    this.#warnings.add(number, this.#unit, reason, text);
  }

  protected skipTooLong(number: number, text: string): void {
    this.skip(number, `longer than ${MAX_LINE_LENGTH} characters`, text);
  }
}

/**
 * Reads a `modules.alias` as it comes, in pieces of any size. Comments and empty lines are passed over, CRLF is taken as a
 * line end, a line that is neither is skipped with a warning; nothing in a file makes it fail.
 */
export class ModulesAliasParser extends AliasReader {
  constructor() {
    super('\n', 'line');
  }

  protected item(raw: string, number: number, tooLong: boolean): void {
    if (tooLong) {
      this.skipTooLong(number, raw);
      return;
    }
    const text = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
    // The form that depmod writes, without splitting the line.
    if (text.startsWith('alias ')) {
      const space = text.indexOf(' ', 6);
      if (space > 6 && space + 1 < text.length && text.lastIndexOf(' ') === space && !text.includes('\t')) {
        this.alias(text.slice(6, space), text.slice(space + 1), number, text);
        return;
      }
    }
    const words = text.trim().split(/[ \t]+/);
    const [first, pattern, driver] = words;
    if (first === undefined || first === '' || first.startsWith('#')) return;
    if (first === 'alias' && words.length === 3 && pattern !== undefined && driver !== undefined) {
      this.alias(pattern, driver, number, text);
    } else {
      this.skip(number, 'not "alias <pattern> <module>"', text);
    }
  }
}

/** Printable ASCII without white space: what a pattern or a name is made of. */
function isWord(text: string): boolean {
  return /^[!-~]+$/.test(text);
}

/** Reads a whole `modules.alias`. */
export function parseModulesAlias(content: string | Uint8Array): ModulesAlias {
  const parser = new ModulesAliasParser();
  parser.push(content);
  return parser.end();
}

/**
 * Reads a `modules.builtin.modinfo`: records `<module>.<key>=<value>` that end in NUL. The records with key `alias` are what
 * modules.alias would hold if these modules were not built in; kernels older than 7 write none for device tables.
 */
export class BuiltinModinfoParser extends AliasReader {
  constructor() {
    super('\0', 'record');
  }

  protected item(text: string, number: number, tooLong: boolean): void {
    if (text === '') return;
    const equals = text.indexOf('=');
    const dot = text.indexOf('.');
    if (equals === -1 || dot < 1 || dot > equals) this.skip(number, 'not "<module>.<key>=<value>"', text);
    // Other keys (a parameter's description) may be as long as they like.
    else if (text.slice(dot + 1, equals) !== 'alias') return;
    else if (tooLong) this.skipTooLong(number, text);
    else this.alias(text.slice(equals + 1), text.slice(0, dot), number, text);
  }
}

/** Reads a whole `modules.builtin.modinfo`; `line` is the number of the record, from 1. */
export function parseBuiltinModinfo(content: string | Uint8Array): ModulesAlias {
  const parser = new BuiltinModinfoParser();
  parser.push(content);
  return parser.end();
}

/**
 * Writes a `modules.alias`: comment lines first, then one line for each pattern and driver, each pair once.
 *
 * @throws EINVAL (`ERR_VFIO_INVALID_ALIAS`) for a pattern or name that the format cannot hold.
 */
export function formatModulesAlias(
  lines: Iterable<Pick<AliasLine, 'pattern' | 'driver'>>,
  comment: readonly string[] = [],
): string {
  const written = new Set<string>();
  for (const { pattern, driver } of lines) {
    if (!isWord(pattern) || !isWord(driver)) {
      throw new VfioError(
        'ERR_VFIO_INVALID_ALIAS',
        `an alias line cannot hold ${JSON.stringify(pattern)} and ${JSON.stringify(driver)}: printable ASCII without spaces only`,
        { errno: 'EINVAL', op: 'modules.alias' },
      );
    }
    written.add(`alias ${pattern} ${driver}\n`);
  }
  const head = comment.flatMap((text) => text.split(/\r?\n/)).map((text) => `# ${text}\n`);
  return [...head, ...written].join('');
}
