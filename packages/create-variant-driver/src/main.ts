import { existsSync } from 'node:fs';
import { join } from 'node:path';
import {
  checkDirectory,
  checkOptions,
  describeMissing,
  GeneratorError,
  namesOf,
  type Plan,
  planOnDisk,
  version,
  writeFiles,
} from '@vfio/nx';
import { readArguments, USAGE } from './arguments.js';
import type { Prompts } from './prompts.js';

/** What the command may touch of the process. */
export interface CreateIo {
  out(text: string): void;
  err(text: string): void;
  readonly cwd: string;
  /** Where somebody is there to be asked. */
  readonly prompts: (() => Promise<Prompts>) | undefined;
}

type Arguments = ReturnType<typeof readArguments>;

/** The command. Returns the exit code: 0 done, 1 failed, 2 wrong usage. */
export async function main(args: readonly string[], io: CreateIo): Promise<0 | 1 | 2> {
  let given: Arguments;
  try {
    given = readArguments(args);
  } catch (error) {
    io.err(`create-variant-driver: ${(error as Error).message}\n\n${USAGE}`);
    return 2;
  }
  if (given.help) {
    io.out(USAGE);
    return 0;
  }
  try {
    const asked = await ask(given, io);
    if (asked === undefined) {
      io.err('create-variant-driver: stopped; nothing was written\n');
      return 1;
    }
    if (asked.name === undefined) {
      io.err(`create-variant-driver: NAME is missing\n\n${USAGE}`);
      return 2;
    }
    create({ ...asked, name: asked.name }, io);
    return 0;
  } catch (error) {
    if (!(error instanceof GeneratorError)) throw error;
    io.err(`create-variant-driver: ${error.message}\n`);
    return 1;
  }
}

function create(given: Arguments & { readonly name: string }, io: CreateIo): void {
  const { base } = namesOf(given.name, given.scope);
  const directory = checkDirectory(given.directory ?? base);
  const plan = planOnDisk(io.cwd, directory, given, { version });
  const below = (files: ReadonlyMap<string, string>) =>
    new Map([...files].map(([path, content]) => [directory === '.' ? path : `${directory}/${path}`, content]));
  const [created, updated] = [below(plan.created), below(plan.updated)];
  if (!given.dryRun) writeFiles(io.cwd, new Map([...created, ...updated]), new Set(updated.keys()));
  for (const path of created.keys()) io.out(`CREATE ${path}\n`);
  for (const path of updated.keys()) io.out(`UPDATE ${path}\n`);
  if (created.size + updated.size === 0) io.out(`${plan.driver.package} has all of it already.\n`);
  if (plan.kept.length > 0) io.out(`\n${describeMissing(plan)}`);
  if (given.dryRun) io.out('\n--dry-run: nothing was written.\n');
  else if (plan.isNew) io.out(nextSteps(plan, directory));
}

const nextSteps = ({ driver }: Plan, directory: string): string => `
${driver.package} is there. Next:

${directory === '.' ? '' : `  cd ${directory}\n`}  npm install
  npm test         # the contract suite, on a model of the device
  npm run build    # with the alias file, by which "vfio match" finds it
`;

/** Asks for what was not said, where somebody can be asked. Undefined: the user wants to stop. */
async function ask(given: Arguments, { prompts, cwd }: CreateIo): Promise<Arguments | undefined> {
  if (prompts === undefined) return given;
  const questions = await prompts();
  const name = given.name ?? (await questions.name(refusal((answer) => namesOf(answer))));
  if (name === undefined) return undefined;
  const isThere = existsSync(join(cwd, checkDirectory(given.directory ?? namesOf(name).base), 'package.json'));
  let { ids, classes, features } = given;
  if (ids === undefined && classes === undefined && !isThere) {
    const answer = await questions.matches(refusal((text) => checkOptions({ name, ...readMatches(text) })));
    if (answer === undefined) return undefined;
    ({ ids, classes } = readMatches(answer));
    features ??= (await questions.features())?.slice();
    if (features === undefined) return undefined;
  }
  return { ...given, name, ids, classes, features };
}

/** `19e5:a251, class 0108` as options. */
function readMatches(answer: string): { ids: string[]; classes: string[] } {
  const items = answer.split(',').map((item) => item.trim());
  const isClass = (item: string): boolean => item.startsWith('class');
  return {
    ids: items.filter((item) => !isClass(item)),
    classes: items.filter(isClass).map((item) => item.slice('class'.length).trim()),
  };
}

/** What is wrong with an answer, as a sentence. */
const refusal =
  (check: (answer: string) => unknown) =>
  (answer: string): string | undefined => {
    try {
      check(answer);
      return undefined;
    } catch (error) {
      if (error instanceof GeneratorError) return error.message;
      throw error;
    }
  };
