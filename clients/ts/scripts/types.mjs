// Writes src/generated: the REST API's types, from the OpenAPI documents that the server prints.
// MOTIENCE_SERVER names a built server; without it cargo builds one.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import openapiTS, { astToString } from 'openapi-typescript';

const SERVICES = { ap: 'accounts', sm: 'subscriptions', dsm: 'data' };
const root = fileURLToPath(new URL('../../../', import.meta.url));
const out = fileURLToPath(new URL('../src/generated/', import.meta.url));

function document(service) {
  const built = process.env.MOTIENCE_SERVER;
  const [program, before] = built ? [built, []] : ['cargo', ['run', '-q', '-p', 'motience-server', '--']];
  return JSON.parse(execFileSync(program, [...before, 'openapi', service], { cwd: root, maxBuffer: 16 << 20, stdio: ['ignore', 'pipe', 'inherit'] }).toString());
}

mkdirSync(out, { recursive: true });
for (const [service, name] of Object.entries(SERVICES)) {
  const types = astToString(await openapiTS(document(service)));
  writeFileSync(`${out}${service}.ts`, `// The ${name} service's API, as its OpenAPI document says. Generated: npm run types.\n\n${types}`);
}
console.log(`${Object.keys(SERVICES).length} files in src/generated`);
