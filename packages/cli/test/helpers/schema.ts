import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { expect } from 'vitest';

type Schema = { readonly [key: string]: unknown };

/**
 * The schema with every object closed. What is published leaves them open, so that fields can be added; what the command
 * of the same version writes must be documented to the last field.
 */
function closed(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(closed);
  if (typeof schema !== 'object' || schema === null) return schema;
  const inner = Object.fromEntries(Object.entries(schema as Schema).map(([key, value]) => [key, closed(value)]));
  return 'properties' in inner && !('additionalProperties' in inner)
    ? { ...inner, additionalProperties: false }
    : inner;
}

export const schemaOf = (command: string): Schema =>
  JSON.parse(readFileSync(join(import.meta.dirname, `../../schemas/${command}.json`), 'utf8')) as Schema;

/** Checks a document against the published schema of its command, and that it has no field that is not in there. */
export function expectSchema(command: string, document: unknown): void {
  const validate = new Ajv2020({ strict: false, allErrors: true }).compile(closed(schemaOf(command)) as Schema);
  validate(document);
  expect(validate.errors ?? []).toEqual([]);
}
