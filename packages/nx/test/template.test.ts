import { expect, test } from 'vitest';
import { fillTemplate } from '../src/template.js';

const fill = (template: string, facts: string[] = [], texts: Record<string, string> = {}) =>
  fillTemplate(template, { facts: new Set(facts), texts });

test('lines are kept where one of the names holds, within others too', () => {
  const template = '1\n%% if a | b\n2\n%% if !c\n3\n%% end\n%% end\n4';
  expect(fill(template)).toBe('1\n4');
  expect(fill(template, ['b'])).toBe('1\n2\n3\n4');
  expect(fill(template, ['a', 'c'])).toBe('1\n2\n4');
  expect(fill(template, ['c'])).toBe('1\n4');
});

test('a text is put in as it is, even where it looks like a template', () => {
  expect(fill('a {{x}} b {{ y }}', [], { x: '{{x}} $& %% if a' })).toBe('a {{x}} $& %% if a b {{ y }}');
});

test.each(['{{x}}', '%% if a', '%% end', '%% if a\n%% end\n%% end'])(
  'a template that is wrong fails: %j',
  (template) => {
    expect(() => fill(template)).toThrow('template');
  },
);
