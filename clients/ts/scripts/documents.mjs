// Writes openapi/: the OpenAPI documents that the server prints, from which the types are made. They are kept with the source,
// so that the package builds without a server. MOTIENCE_SERVER names a built server; without it cargo builds one. An argument
// is the folder to write to instead.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const out = resolve(process.argv[2] ?? fileURLToPath(new URL('../openapi/', import.meta.url)));

function printed(service) {
  const built = process.env.MOTIENCE_SERVER;
  const [program, before] = built ? [resolve(built), []] : ['cargo', ['run', '-q', '-p', 'motience-server', '--']];
  return JSON.parse(execFileSync(program, [...before, 'openapi', service], { cwd: root, maxBuffer: 16 << 20, stdio: ['ignore', 'pipe', 'inherit'] }).toString());
}

mkdirSync(out, { recursive: true });
for (const service of ['ap', 'sm', 'dsm']) writeFileSync(join(out, `${service}.json`), `${JSON.stringify(printed(service), null, 1)}\n`);
