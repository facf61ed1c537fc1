import { spawn } from 'node:child_process';

export interface CommandOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** Milliseconds after which the program is killed and the call fails. Default: ten minutes. */
  timeoutMs?: number;
  /** What the program reads on its standard input; nothing by default. */
  input?: string;
}

export interface CommandResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end and gives what it printed, whatever its exit code. */
export function tryCommand(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  const [program, ...args] = argv;
  if (program === undefined) throw new TypeError('a command needs a program');
  const timeoutMs = options.timeoutMs ?? 600_000;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, timeoutMs);
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      if (late) reject(new Error(`${argv.join(' ')}: still running after ${timeoutMs} ms\n${tail(stderr, 20)}`));
      else resolve({ code: code ?? (signal === null ? 1 : 128), stdout, stderr });
    });
    child.stdin?.end(options.input);
  });
}

/** Like {@link tryCommand}, but an exit code other than 0 is an error that shows the program's last words. */
export async function command(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
  const result = await tryCommand(argv, options);
  if (result.code !== 0) {
    const said = tail(`${result.stdout}\n${result.stderr}`.trim(), 30);
    throw new Error(`${argv.join(' ')}: exit code ${result.code}\n${said}`);
  }
  return result.stdout;
}

/** The last `lines` lines of a text. */
export function tail(text: string, lines: number): string {
  return text.trimEnd().split('\n').slice(-lines).join('\n');
}
