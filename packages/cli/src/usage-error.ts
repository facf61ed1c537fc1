/** The command line is wrong in a way that its parser cannot see: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
