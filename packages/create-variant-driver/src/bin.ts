import { main } from './main.js';

const { stdin, stdout, stderr, env } = process;
const isTerminal = stdin.isTTY === true && stdout.isTTY === true && (env['CI'] ?? '') === '';

process.exitCode = await main(process.argv.slice(2), {
  out: (text) => void stdout.write(text),
  err: (text) => void stderr.write(text),
  cwd: process.cwd(),
  // Loaded only where somebody is there to answer.
  prompts: isTerminal ? async () => (await import('./clack.js')).clackPrompts : undefined,
});
