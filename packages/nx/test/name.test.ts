import { describe, expect, test } from 'vitest';
import { GeneratorError, namesOf } from '../src/index.js';

describe('a name', () => {
  test('gives the package, the driver and the ops their own spelling of it', () => {
    expect(namesOf('hisi-acc', '@vfio')).toEqual({
      name: 'hisi-acc',
      base: 'hisi-acc-vfio-pci',
      package: '@vfio/hisi-acc-vfio-pci',
      driver: 'hisi_acc_vfio_pci',
      camel: 'hisiAcc',
      pascal: 'HisiAcc',
    });
  });

  test('may end in -vfio-pci, and need not', () => {
    expect(namesOf('hisi-acc-vfio-pci')).toEqual(namesOf('hisi-acc'));
    expect(namesOf('hisi-acc').package).toBe('hisi-acc-vfio-pci');
  });

  test.each(['class', 'default', 'new', 'constructor', 'a', 'x2-3y'])(
    'may be %s: every generated word ends in more',
    (name) => {
      const { camel, pascal } = namesOf(name);
      expect(`${camel}Ops ${pascal}VfioPciOptions`).toMatch(/^[a-z][A-Za-z0-9]*Ops [A-Z][A-Za-z0-9]*VfioPciOptions$/);
    },
  );

  test.each([
    ['fooBar', 'foo-bar'],
    ['Foo_bar', 'foo-bar'],
    ['foo_bar_vfio_pci', 'foo-bar'],
    ['../foo', 'foo'],
    ['@vfio/foo', 'vfio-foo'],
    ['foo-', 'foo'],
    ['3com', 'com'],
  ])('%s is refused, and %s is offered', (name, offered) => {
    expect(() => namesOf(name)).toThrow(GeneratorError);
    expect(() => namesOf(name)).toThrow(`"${offered}" would do`);
  });

  test.each(['', '-', '..', '/', 'a'.repeat(25), '\u00e4', '\n', "a'b;".repeat(9), '0'])('%j is refused', (name) => {
    expect(() => namesOf(name)).toThrow(GeneratorError);
  });

  test.each(['vfio', 'vfio-pci'])('%s is refused: it is that of the generic driver', (name) => {
    expect(() => namesOf(name)).toThrow('generic driver');
  });

  test.each(['acme', '@', '@Acme', '@a/b', '@../x', '@.a'])('the scope %j is refused', (scope) => {
    expect(() => namesOf('foo', scope)).toThrow('the scope');
  });
});
