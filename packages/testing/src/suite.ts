import { equal, NotApplicable } from './assert.js';
import type { ContractCase, ContractOptions, Rule, RuleGroup } from './contract.js';
import { configSpace } from './groups/config-space.js';
import { dirtyTracking } from './groups/dirty-tracking.js';
import { dma } from './groups/dma.js';
import { features } from './groups/features.js';
import { identity } from './groups/identity.js';
import { interrupts } from './groups/interrupts.js';
import { ioeventfd } from './groups/ioeventfd.js';
import { lifecycle } from './groups/lifecycle.js';
import { migration } from './groups/migration.js';
import { migrationStream } from './groups/migration-stream.js';
import { regions } from './groups/regions.js';
import { reset } from './groups/reset.js';

const GROUPS: readonly RuleGroup[] = [
  identity,
  lifecycle,
  regions,
  configSpace,
  interrupts,
  ioeventfd,
  reset,
  dma,
  dirtyTracking,
  features,
  migration,
  migrationStream,
];

/**
 * Every rule as a case that can be run: for any test runner, or none. Each case opens the device for itself and closes
 * it again.
 *
 * @throws where `skip` names a case that does not exist: a skipped rule must not be lost by a change of its name.
 */
export function contractCases(options: ContractOptions): ContractCase[] {
  const { skip = {} } = options;
  const cases = GROUPS.flatMap(({ group, rules }) =>
    Object.entries(rules).map(
      ([name, rule]): ContractCase => ({ group, name, skip: skip[name], run: () => runRule(rule, options) }),
    ),
  );
  for (const name of Object.keys(skip)) {
    if (!cases.some((known) => known.name === name))
      throw new Error(`contract suite: there is no case "${name}" to skip`);
  }
  return cases;
}

async function runRule(rule: Rule, options: ContractOptions): Promise<string | undefined> {
  const before = options.handles?.();
  const subject = await options.open();
  let reason: string | undefined;
  try {
    await rule(subject.device, options);
  } catch (error) {
    if (!(error instanceof NotApplicable)) throw error;
    ({ reason } = error);
  } finally {
    await subject.close();
  }
  if (before !== undefined) equal(options.handles?.(), before, 'handles after the case');
  return reason;
}

/** What a runner gives to a test that finds out that it has nothing to test. */
export interface CaseContext {
  skip(reason?: string): unknown;
}

/** The functions of a test runner that the suite needs: vitest's and node:test's fit. */
export interface Runner {
  describe(name: string, body: () => void): unknown;
  test(name: string, body: (context: CaseContext) => Promise<void>): unknown;
  /** Reports a case that is not run; its name carries the reason. */
  skip(name: string): unknown;
}

/** Declares every rule with a test runner. A driver's whole contract test is one call of this. */
export function describeVariantDriver(runner: Runner, options: ContractOptions): void {
  const cases = contractCases(options);
  runner.describe(options.name, () => {
    for (const group of new Set(cases.map((known) => known.group))) {
      runner.describe(group, () => {
        for (const { name, skip, run } of cases.filter((known) => known.group === group)) {
          if (skip !== undefined) runner.skip(`${name} (skipped: ${skip})`);
          else
            runner.test(name, async (context) => {
              const reason = await run();
              if (reason !== undefined) context.skip(reason);
            });
        }
      });
    }
  });
}
