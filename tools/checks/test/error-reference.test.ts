import { join } from 'node:path';
import { ERRNO_TABLE, VFIO_ERROR_CODES } from '@vfio/uapi';
import { expect, test } from 'vitest';

/** A table as the formatter aligns it. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((name, at) => Math.max(name.length, ...rows.map((row) => row[at]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join(' | ')} |\n`;
  return line(head) + line(widths.map((width) => '-'.repeat(width))) + rows.map(line).join('');
}

function errorReference(): string {
  const codes = Object.entries(VFIO_ERROR_CODES).map(([code, sentence]) => [`\`${code}\``, sentence]);
  const calls = [...new Set(ERRNO_TABLE.map(({ call }) => call))];
  const sections = calls.map((call) => {
    const rows = ERRNO_TABLE.filter((row) => row.call === call).map(({ id, condition, errno, result, older }) => {
      const gives = errno ?? `success: ${result}`;
      return [id, condition, older === undefined ? gives : `${gives} (older kernels: ${older})`];
    });
    return `### ${call}\n\n${table(['row', 'what is wrong, or asked', 'gives'], rows)}`;
  });
  return `# Errors

Everything throws \`VfioError\`: a stable \`code\`, the \`errno\` that the kernel gives for the same mistake, the operation, the
device's address, and a sentence that says what was asked, what was found and what is allowed. Branch on \`code\` or
\`errno\`, never on the text; tell the class by \`isVfioError(error, code)\`.

## Codes

${table(['code', 'means'], codes)}
## What each call refuses

The numbers are those of the tests. Where older kernels than Linux 7.3 differ, it is said.

${sections.join('\n')}`;
}

test('the reference of errors is what the tables say; `npx vitest run -u` in tools/checks writes it', async () => {
  await expect(errorReference()).toMatchFileSnapshot(join(import.meta.dirname, '../../../docs/reference/errors.md'));
});
