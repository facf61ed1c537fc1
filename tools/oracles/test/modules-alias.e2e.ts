import {
  AliasIndex,
  type ModulesAlias,
  parseAliasPattern,
  parseBuiltinModinfo,
  parseModalias,
  parseModulesAlias,
  pciDeviceId,
  tableToAliases,
} from '@vfio/core';
import { beforeAll, describe, expect, test } from 'vitest';
import { type KernelAliases, prepareKernelAliases } from '../src/kernel-aliases.js';
import { aliasFields, ModaliasMaker } from '../src/modules-alias.js';

let kernel: KernelAliases;
let parsed: ModulesAlias;
let index: AliasIndex;
let builtin: AliasIndex;

beforeAll(async () => {
  kernel = await prepareKernelAliases((line) => console.log(`aliases: ${line}`));
  parsed = parseModulesAlias(kernel.read('modules.alias'));
  index = new AliasIndex(parsed.aliases);
  builtin = new AliasIndex(parseBuiltinModinfo(kernel.read('modules.builtin.modinfo')).aliases);
});

const names = (found: readonly { driver: string }[]): string[] =>
  [...new Set(found.map(({ driver }) => driver))].sort();

describe("modules.alias that depmod makes of Debian's kernel", () => {
  test('is read without skipping a line, and every line is accounted for', () => {
    const text = kernel.read('modules.alias').toString();
    const lines = text.split('\n').filter((line) => line.startsWith('alias '));
    console.log(`aliases: ${kernel.release}: ${lines.length} lines, ${parsed.aliases.length} of PCI`);
    expect(parsed.skipped).toBe(0);
    expect(parsed.aliases.length + parsed.others).toBe(lines.length);
    expect(lines.length).toBeGreaterThan(25_000);
    const pci = lines.filter((line) => /^alias (vfio_)?pci:/.test(line));
    expect(parsed.aliases.map(({ pattern, driver }) => `alias ${pattern} ${driver}`)).toEqual(pci);
  });

  test('its lines are what our file2alias writes of the rows that they came from', () => {
    let compared = 0;
    for (const { pattern } of [...parsed.aliases, ...builtin.entries]) {
      const fields = parseAliasPattern(pattern);
      // Patterns of our own making, which file2alias never writes.
      if (fields === undefined) continue;
      const byte = (value: number | undefined, shift: number): [number, number] =>
        value === undefined ? [0, 0] : [value << shift, 0xff << shift];
      const bytes = [byte(fields.baseClass, 16), byte(fields.subclass, 8), byte(fields.interface, 0)];
      const { vendor, device, subvendor, subdevice } = fields;
      const ids = Object.entries({ vendor, device, subvendor, subdevice }).filter(([, value]) => value !== undefined);
      const row = pciDeviceId({
        ...Object.fromEntries(ids),
        class: bytes.reduce((sum, [value]) => sum | value, 0),
        classMask: bytes.reduce((sum, [, mask]) => sum | mask, 0),
        overrideOnly: fields.namespace === 'vfio_pci' ? 1 : 0,
      });
      expect(tableToAliases([row])).toEqual({ aliases: [pattern], warnings: [] });
      compared++;
    }
    expect(compared).toBeGreaterThan(9000);
    const odd = parsed.aliases.filter(({ pattern }) => parseAliasPattern(pattern) === undefined);
    expect(names(odd)).toEqual(['syn_odd']);
  });

  test('for over 15,000 modaliases the candidates are those of modprobe, most made by filling wildcards of real lines', async () => {
    const patterns = parsed.aliases.map(({ pattern }) => pattern);
    const maker = new ModaliasMaker(patterns, 20_000);
    const filled = new Set<string>();
    for (const pattern of patterns) {
      const modalias = maker.fill(pattern);
      if (modalias !== undefined) filled.add(modalias);
    }
    for (const { pattern } of builtin.entries) {
      const modalias = maker.fill(pattern);
      if (modalias !== undefined) filled.add(modalias);
    }
    const others = new Set<string>();
    // The same functions, asked for in the name of VFIO; and functions that nobody wrote a line for.
    for (const [at, pattern] of patterns.entries()) {
      const modalias = at % 2 === 0 ? maker.fill(pattern, 'vfio_pci') : undefined;
      if (modalias !== undefined) others.add(modalias);
    }
    for (let i = 0; i < 2000; i++) others.add(maker.mix(i % 2 === 0 ? 'pci' : 'vfio_pci'));
    const modaliases = [...new Set([...filled, ...others])];
    expect(filled.size).toBeGreaterThanOrEqual(8000);
    expect(modaliases.length).toBeGreaterThanOrEqual(15_000);

    const answers = await kernel.resolve(modaliases);
    const different: { modalias: string; ours: string[]; theirs: string[] }[] = [];
    const sizes = new Map<number, number>();
    let builtins = 0;
    for (const [at, modalias] of modaliases.entries()) {
      let ours = names(index.lookupModalias(modalias));
      // modprobe looks at what is built in only where no module matches, and has nothing to load then.
      if (ours.length === 0 && builtin.lookupModalias(modalias).length > 0) {
        builtins++;
        ours = names(builtin.lookupModalias(modalias));
      }
      const theirs = [...(answers[at] ?? [])].sort();
      sizes.set(theirs.length, (sizes.get(theirs.length) ?? 0) + 1);
      if (ours.join() !== theirs.join()) different.push({ modalias, ours, theirs });
    }
    const counts = [...sizes].sort(([a], [b]) => a - b).map(([size, count]) => `${count} with ${size}`);
    console.log(`aliases: ${modaliases.length} modaliases, candidates: ${counts.join(', ')}; ${builtins} built in`);
    expect(different.slice(0, 10)).toEqual([]);
    expect(different).toHaveLength(0);
    // The comparison is worth something: few led nowhere, and many had to choose.
    expect((sizes.get(0) ?? 0) / modaliases.length).toBeLessThan(0.2);
    expect([...sizes].filter(([size]) => size > 1).reduce((sum, [, count]) => sum + count, 0)).toBeGreaterThan(2000);
  });

  test('the best candidate is one with the fewest wildcard fields, the first by name among those', () => {
    const maker = new ModaliasMaker(
      parsed.aliases.map(({ pattern }) => pattern),
      11,
    );
    const score = (pattern: string): number =>
      aliasFields(pattern)?.fields.filter((field) => !/^[0-9A-F]+$/.test(field)).length ?? 7;
    for (const { pattern } of parsed.aliases) {
      const modalias = maker.fill(pattern);
      if (modalias === undefined) continue;
      const found = index.lookupModalias(modalias);
      const fewest = Math.min(...found.map((entry) => score(entry.pattern)));
      const first = names(found.filter((entry) => score(entry.pattern) === fewest))[0];
      expect(index.bestModalias(modalias)?.driver).toBe(first);
    }
  });

  test('a lookup takes less than 2 us', () => {
    // Without the patterns that only we have: no real file has any in another form than file2alias writes.
    const real = new AliasIndex(parsed.aliases.filter(({ driver }) => driver !== 'syn_odd'));
    const maker = new ModaliasMaker(
      real.entries.map(({ pattern }) => pattern),
      5,
    );
    const modaliases = real.entries.flatMap(({ pattern }, at) => (at % 5 === 0 ? (maker.fill(pattern) ?? []) : []));
    const functions = modaliases.map((modalias) => parseModalias(modalias));
    const time = (find: (at: number) => unknown): number => {
      let fastest = Number.POSITIVE_INFINITY;
      // The fastest of many short rounds: other work on the machine is not what is measured.
      for (let round = 0; round < 200; round++) {
        const started = performance.now();
        for (let at = 0; at < functions.length; at++) find(at);
        fastest = Math.min(fastest, performance.now() - started);
      }
      return (fastest * 1000) / functions.length;
    };
    type Fn = (typeof functions)[number];
    const times = {
      best: time((at) => real.best(functions[at] as Fn, undefined, (functions[at] as Fn).namespace)),
      lookup: time((at) => real.lookup(functions[at] as Fn, (functions[at] as Fn).namespace)),
      bestModalias: time((at) => real.bestModalias(modaliases[at] as string)),
    };
    console.log(
      `aliases: ${real.size} lines of PCI; ${Object.entries(times)
        .map(([name, us]) => `${name} ${us.toFixed(2)} us`)
        .join(', ')}`,
    );
    expect(times.best).toBeLessThan(2);
    expect(times.lookup).toBeLessThan(2);
    expect(times.bestModalias).toBeLessThan(2);
  });
});
