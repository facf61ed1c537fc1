/** What was asked for cannot be generated: nothing has been written. */
export class GeneratorError extends Error {
  override readonly name = 'GeneratorError';
}
