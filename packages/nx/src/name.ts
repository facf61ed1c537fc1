import { GeneratorError } from './error.js';

/** A driver's names, which are never the same: see the table in the documentation of authors. */
export interface Names {
  /** What it is called by: `hisi-acc`. */
  readonly name: string;
  /** The package without its scope, and its folder: `hisi-acc-vfio-pci`. The ops name is the same. */
  readonly base: string;
  /** `@vfio/hisi-acc-vfio-pci`. */
  readonly package: string;
  /** In driver_override and alias files: `hisi_acc_vfio_pci`. */
  readonly driver: string;
  /** Begin of values and functions: `hisiAcc`. */
  readonly camel: string;
  /** Begin of types: `HisiAcc`. */
  readonly pascal: string;
}

const SUFFIX = '-vfio-pci';
/** With it every generated line fits into 120 columns. */
const MAX_NAME = 24;
const NAME = /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/;
/** As npm allows it (validate-npm-package-name). */
const SCOPE = /^@[a-z0-9][a-z0-9._~-]*$/;

const words = (name: string): string[] => name.split('-');
const capital = (word: string): string => word.charAt(0).toUpperCase() + word.slice(1);

/** A text as the name that its author may have meant; undefined where it cannot be guessed. */
function suggestion(text: string): string | undefined {
  const name = text
    .replaceAll(/([a-z0-9])([A-Z])/g, '$1-$2')
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^[^a-z]+|-+$/g, '');
  const short = name.endsWith(SUFFIX) ? name.slice(0, -SUFFIX.length) : name;
  return NAME.test(short) && short.length <= MAX_NAME ? short : undefined;
}

/**
 * The names of a driver: its own, with or without `-vfio-pci`, and the scope of its package.
 *
 * @throws GeneratorError
 */
export function namesOf(text: string, scope?: string): Names {
  const name = text.endsWith(SUFFIX) ? text.slice(0, -SUFFIX.length) : text;
  if (!NAME.test(name) || name.length > MAX_NAME) {
    const meant = suggestion(text);
    throw new GeneratorError(
      `the name ${JSON.stringify(text)} must be 1 to ${MAX_NAME} of a-z, 0-9 and single dashes between them, and begin with a letter` +
        (meant === undefined ? ', such as "hisi-acc"' : `; "${meant}" would do`),
    );
  }
  if (name === 'vfio' || text === 'vfio-pci')
    throw new GeneratorError(`the name ${JSON.stringify(text)} is that of the generic driver`);
  if (scope !== undefined && !SCOPE.test(scope))
    throw new GeneratorError(
      `the scope ${JSON.stringify(scope)} must be "@" and a name in lower case, such as "@acme"`,
    );
  const base = `${name}${SUFFIX}`;
  const [first = '', ...others] = words(name);
  const camel = [first, ...others.map(capital)].join('');
  return {
    name,
    base,
    package: scope === undefined ? base : `${scope}/${base}`,
    driver: base.replaceAll('-', '_'),
    camel,
    pascal: capital(camel),
  };
}
