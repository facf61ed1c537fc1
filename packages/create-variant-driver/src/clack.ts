import { isCancel, multiselect, text } from '@clack/prompts';
import { FEATURE_TEXTS, FEATURES } from '@vfio/nx';
import type { Prompts } from './prompts.js';

const unlessCancelled = <T>(answer: T | symbol): T | undefined => (isCancel(answer) ? undefined : (answer as T));

/** The questions at a terminal. */
export const clackPrompts: Prompts = {
  async name(refuse) {
    const validate = (answer: string | undefined) => refuse(answer ?? '');
    return unlessCancelled(await text({ message: 'What is the driver called?', placeholder: 'hisi-acc', validate }));
  },
  async matches(refuse) {
    const message = 'Which functions is it for? Ids as lspci -nn shows them, or "class 0108"; commas between them';
    const validate = (answer: string | undefined) => refuse(answer ?? '');
    return unlessCancelled(await text({ message, placeholder: '19e5:a251, 19e5:a256', validate }));
  },
  async features() {
    const options = FEATURES.map((value) => ({ value, label: value, hint: FEATURE_TEXTS[value] }));
    return unlessCancelled(
      await multiselect({ message: 'What has it beyond its ids? None is fine', options, required: false }),
    );
  },
};
