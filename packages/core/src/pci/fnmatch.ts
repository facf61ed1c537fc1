/**
 * Shell patterns as `fnmatch(3)` matches them with no flags in the C locale, which is how kmod compares aliases: `*`,
 * `?`, bracket expressions (ranges, classes, `!` or `^` to negate) and `\` before a character to be taken as it is.
 */

type Token = '*' | ((code: number) => boolean);

/** A pattern made ready to be matched many times. */
export type CompiledPattern = (text: string) => boolean;

const CLASSES: Readonly<Record<string, RegExp>> = {
  alnum: /[0-9A-Za-z]/,
  alpha: /[A-Za-z]/,
  blank: /[ \t]/,
  // biome-ignore lint/suspicious/noControlCharactersInRegex: this is the class of control characters
  cntrl: /[\x00-\x1f\x7f]/,
  digit: /[0-9]/,
  graph: /[\x21-\x7e]/,
  lower: /[a-z]/,
  print: /[\x20-\x7e]/,
  punct: /[!-/:-@[-`{-~]/,
  space: /[ \t\n\v\f\r]/,
  upper: /[A-Z]/,
  xdigit: /[0-9A-Fa-f]/,
};

interface Bracket {
  readonly test: (code: number) => boolean;
  /** Index after the closing bracket. */
  readonly end: number;
}

/**
 * Reads the bracket expression that starts after `[` at `start`; undefined where it has no end: the bracket is a
 * character then. `never` where it ends within a range or an escape: glibc lets such a pattern match nothing.
 */
function readBracket(pattern: string, start: number): Bracket | undefined | 'never' {
  let at = start;
  const negate = pattern[at] === '!' || pattern[at] === '^';
  if (negate) at++;
  const ranges: [number, number][] = [];
  const classes: RegExp[] = [];
  for (let first = true; ; first = false) {
    const char = pattern[at];
    if (char === undefined) return undefined;
    if (char === ']' && !first) break;
    const named = /^\[:([a-z]+):\]/.exec(pattern.slice(at));
    if (named !== null) {
      const known = CLASSES[named[1] as string];
      if (known !== undefined) classes.push(known);
      at += named[0].length;
      continue;
    }
    const low = readBracketChar(pattern, at);
    if (low === undefined) return 'never';
    at = low.end;
    let high = low.code;
    if (pattern[at] === '-' && pattern[at + 1] !== ']') {
      const upper = readBracketChar(pattern, at + 1);
      if (upper === undefined) return 'never';
      at = upper.end;
      high = upper.code;
    }
    ranges.push([low.code, high]);
  }
  const test = (code: number): boolean =>
    negate !==
    (ranges.some(([low, high]) => low <= code && code <= high) ||
      classes.some((known) => known.test(String.fromCharCode(code))));
  return { test, end: at + 1 };
}

function readBracketChar(pattern: string, at: number): { code: number; end: number } | undefined {
  // [.x.] and [=x=] of one character, which is all that the C locale has.
  const collating = /^\[([.=])(.)\1\]/s.exec(pattern.slice(at));
  if (collating !== null) return { code: (collating[2] as string).charCodeAt(0), end: at + 5 };
  const escaped = pattern[at] === '\\' ? at + 1 : at;
  const code = pattern.charCodeAt(escaped);
  return Number.isNaN(code) ? undefined : { code, end: escaped + 1 };
}

/** Makes a pattern ready. A pattern that ends in a single `\` matches nothing. */
export function compilePattern(pattern: string): CompiledPattern {
  const tokens: Token[] = [];
  for (let at = 0; at < pattern.length; ) {
    const char = pattern[at] as string;
    if (char === '*') {
      if (tokens.at(-1) !== '*') tokens.push('*');
      at++;
      continue;
    }
    if (char === '?') {
      tokens.push(() => true);
      at++;
      continue;
    }
    if (char === '[') {
      const bracket = readBracket(pattern, at + 1);
      if (bracket === 'never') return () => false;
      if (bracket !== undefined) {
        tokens.push(bracket.test);
        at = bracket.end;
        continue;
      }
    }
    if (char === '\\') {
      if (at + 1 === pattern.length) return () => false;
      at++;
    }
    const wanted = pattern.charCodeAt(at);
    tokens.push((code) => code === wanted);
    at++;
  }
  return (text) => matchTokens(tokens, text);
}

/** Only the last star is ever tried again, so the time is bounded by pattern times text, whatever the pattern. */
function matchTokens(tokens: readonly Token[], text: string): boolean {
  let token = 0;
  let at = 0;
  let starToken = -1;
  let starAt = 0;
  while (at < text.length) {
    const current = tokens[token];
    if (current === '*') {
      starToken = token++;
      starAt = at;
    } else if (current?.(text.charCodeAt(at))) {
      token++;
      at++;
    } else if (starToken !== -1) {
      token = starToken + 1;
      at = ++starAt;
    } else {
      return false;
    }
  }
  while (tokens[token] === '*') token++;
  return token === tokens.length;
}

/** Whether a text matches a pattern. */
export function fnmatch(pattern: string, text: string): boolean {
  return compilePattern(pattern)(text);
}

/** Whether a text has characters with a meaning to {@link fnmatch}. */
export function isPattern(text: string): boolean {
  return /[*?[\\]/.test(text);
}
