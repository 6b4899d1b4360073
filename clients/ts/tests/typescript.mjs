// Lets node's test runner load the TypeScript modules: the compiler strips the types.
import { register } from 'node:module';

const loader = `
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import ts from ${JSON.stringify(import.meta.resolve('typescript'))};
const compilerOptions = { target: 'ES2022', module: 'ESNext', verbatimModuleSyntax: true, isolatedModules: true, inlineSourceMap: true };
export async function load(url, context, next) {
  if (!url.endsWith('.ts')) return next(url, context);
  const fileName = fileURLToPath(url);
  const { outputText } = ts.transpileModule(await readFile(fileName, 'utf8'), { compilerOptions, fileName });
  return { format: 'module', source: outputText, shortCircuit: true };
}`;
register(`data:text/javascript,${encodeURIComponent(loader)}`);
