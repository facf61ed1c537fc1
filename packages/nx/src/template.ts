/** What a template may ask for. */
export interface TemplateValues {
  /** Texts for `{{name}}`. */
  readonly texts: Readonly<Record<string, string>>;
  /** Names that hold, for `%% if name`. */
  readonly facts: ReadonlySet<string>;
}

/**
 * Fills a template. A line `%% if a | b` keeps the lines up to its `%% end` where one of the names holds, `%% if !a` where
 * it does not; `{{name}}` becomes a text. Texts are never looked at again, so nothing in them is taken for a template.
 *
 * @throws Error where the template is wrong: a mistake of this package, not of its user.
 */
export function fillTemplate(template: string, { texts, facts }: TemplateValues): string {
  const kept: string[] = [];
  const open: boolean[] = [];
  for (const line of template.split('\n')) {
    const [, directive, names = ''] = /^%% (if|end)\b(.*)$/.exec(line) ?? [];
    if (directive === 'if') open.push(names.split('|').some((name) => holds(name.trim(), facts)));
    else if (directive === 'end') {
      if (open.pop() === undefined) throw new Error('template: an end without an if');
    } else if (open.every(Boolean)) kept.push(line);
  }
  if (open.length > 0) throw new Error('template: an if without an end');
  return kept.join('\n').replaceAll(/\{\{(\w+)\}\}/g, (_, name: string) => {
    const text = texts[name];
    if (text === undefined) throw new Error(`template: no text "${name}"`);
    return text;
  });
}

const holds = (name: string, facts: ReadonlySet<string>): boolean =>
  name.startsWith('!') ? !facts.has(name.slice(1)) : facts.has(name);
