// Lets node's test runner load the TypeScript modules: vite's own transformer strips the types, and the client is its source.
import { register } from 'node:module';

const loader = `
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { transformWithOxc } from ${JSON.stringify(import.meta.resolve('vite'))};
const client = ${JSON.stringify(new URL('../../../clients/ts/src/index.ts', import.meta.url).href)};
export async function resolve(specifier, context, next) {
  return specifier === '@motience/client' ? { url: client, shortCircuit: true } : next(specifier, context);
}
export async function load(url, context, next) {
  if (!url.endsWith('.ts')) return next(url, context);
  const file = fileURLToPath(url);
  const { code } = await transformWithOxc(await readFile(file, 'utf8'), file, { target: 'es2022', sourcemap: false });
  return { format: 'module', source: code, shortCircuit: true };
}`;
register(`data:text/javascript,${encodeURIComponent(loader)}`);
