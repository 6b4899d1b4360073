// Writes src/generated: the REST API's types, from the OpenAPI documents in openapi/.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import openapiTS, { astToString } from 'openapi-typescript';

const SERVICES = { ap: 'accounts', sm: 'subscriptions', dsm: 'data' };
const out = fileURLToPath(new URL('../src/generated/', import.meta.url));

mkdirSync(out, { recursive: true });
for (const [service, name] of Object.entries(SERVICES)) {
  const document = JSON.parse(readFileSync(new URL(`../openapi/${service}.json`, import.meta.url), 'utf8'));
  const types = astToString(await openapiTS(document));
  writeFileSync(`${out}${service}.ts`, `// The ${name} service's API, as its OpenAPI document says. Generated: npm run types.\n\n${types}`);
}
