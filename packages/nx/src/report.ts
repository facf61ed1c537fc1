import type { Plan } from './plan.js';

/** What the author has to do by hand: lines of files that were changed and so left alone. Empty where there are none. */
export function describeMissing({ kept }: Plan): string {
  return kept
    .map(
      ({ path, lines }) =>
        `${path} has your changes and was left alone. It lacks:\n${lines.map((line) => `    ${line}\n`).join('')}`,
    )
    .join('\n');
}
