import type { Feature } from '@vfio/nx';

/** Questions of what was not said on the command line. Each gives undefined where the user wants to stop. */
export interface Prompts {
  /** `refuse` gives the sentence that says what is wrong with an answer. */
  name(refuse: (answer: string) => string | undefined): Promise<string | undefined>;
  /** Ids and classes, as one line. */
  matches(refuse: (answer: string) => string | undefined): Promise<string | undefined>;
  features(): Promise<readonly Feature[] | undefined>;
}
