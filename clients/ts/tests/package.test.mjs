// The package as somebody gets it: packed from a clean copy of the source, installed into an empty project, and used from ES
// modules, CommonJS, TypeScript, Chromium, and two versions of Node.js against a real server.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, extname, join, resolve } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const CLIENT = fileURLToPath(new URL('..', import.meta.url));
const ROOT = resolve(CLIENT, '../..');
/** Another version than the one that runs the tests; the registry has ready-built ones. */
const NODE_22 = `node-linux-${process.arch}@22.21.1`;
const START_LIMIT_MS = 60_000;

const dir = mkdtempSync(join(tmpdir(), 'motience-package-'));
const project = join(dir, 'project');
after(() => rmSync(dir, { recursive: true, force: true }));

function run(program, args, options = {}) {
  return execFileSync(program, args, { encoding: 'utf8', cwd: project, stdio: ['ignore', 'pipe', 'inherit'], ...options });
}

before(() => {
  // The files of the repository, and nothing that was built or installed beside them.
  const clean = join(dir, 'clean');
  const files = run('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z'], { cwd: CLIENT }).split('\0').filter((file) => file && existsSync(join(CLIENT, file)));
  for (const file of files) {
    mkdirSync(dirname(join(clean, file)), { recursive: true });
    cpSync(join(CLIENT, file), join(clean, file));
  }
  // A server, and cargo with it, would be no help here: there is none in PATH that could be asked.
  const env = { ...process.env, MOTIENCE_SERVER: join(dir, 'no-server') };
  run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: clean, env });
  run('npm', ['pack', '--silent', '--pack-destination', dir], { cwd: clean, env });
  const tarball = readdirSync(dir).find((name) => name.endsWith('.tgz'));
  mkdirSync(project);
  writeFileSync(join(project, 'package.json'), '{ "name": "empty", "private": true }\n');
  run('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', join(dir, tarball)]);
});

test('it has its code, its types, its licence and nothing else', () => {
  const installed = join(project, 'node_modules/@motience/client');
  assert.deepEqual(readdirSync(installed).sort(), ['LICENSE', 'README.md', 'lib', 'package.json']);
  assert.deepEqual(readdirSync(join(project, 'node_modules')).filter((name) => !name.startsWith('.')), ['@motience'], 'no dependencies');
});

test('ES modules and CommonJS get the same', () => {
  writeFileSync(join(project, 'module.mjs'), "import * as client from '@motience/client'; console.log(Object.keys(client).sort().join());\n");
  writeFileSync(join(project, 'common.cjs'), "console.log(Object.keys(require('@motience/client')).sort().join());\n");
  const names = run(process.execPath, ['module.mjs']).trim();
  assert.ok(names.split(',').includes('Motience'), names);
  assert.equal(run(process.execPath, ['common.cjs']).trim(), names);
});

test('TypeScript finds the types, however it resolves modules', () => {
  const source = `import { Motience, placesOf, type ConsumerOptions } from '@motience/client';
const options: ConsumerOptions = { transport: 'ndjson' };
export const id: Promise<number> = new Motience(placesOf('localhost')).ap.producers({ token: async () => '' }).then((found) => found[0]!.id);
// @ts-expect-error There is no such transport, and the types have to know.
export const wrong: ConsumerOptions = { transport: 'pigeon' };
export const consumer = new Motience(placesOf('localhost', true)).consumer(options);
`;
  const tsc = join(CLIENT, 'node_modules/typescript/bin/tsc');
  for (const [file, resolution] of [['a.mts', 'node16'], ['a.cts', 'node16'], ['a.mts', 'bundler']]) {
    writeFileSync(join(project, file), source);
    const compilerOptions = { noEmit: true, strict: true, target: 'es2022', lib: ['es2022', 'dom'], types: [], module: resolution === 'bundler' ? 'esnext' : resolution, moduleResolution: resolution };
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: [file] }));
    run(process.execPath, [tsc, '-p', project], { stdio: ['ignore', 'inherit', 'inherit'] });
  }
});

test('Chromium takes it as it is', async () => {
  const types = { '.js': 'text/javascript', '.html': 'text/html' };
  const page = `<script type="importmap">{"imports":{"@motience/client":"/node_modules/@motience/client/lib/index.js"}}</script>
<p id="told"></p><script type="module">import { Motience, placesOf } from '@motience/client';
document.getElementById('told').textContent = 'at ' + new Motience(placesOf('data.example', true)).places.wss2;</script>`;
  const server = createServer((request, response) => {
    const path = new URL(request.url, 'http://localhost').pathname;
    const body = path === '/' ? page : existsSync(join(project, path)) ? readFileSync(join(project, path)) : null;
    response.writeHead(body === null ? 404 : 200, { 'content-type': types[extname(path) || '.html'] ?? 'text/plain' }).end(body ?? '');
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  try {
    const chromium = process.env.CHROMIUM ?? '/usr/bin/chromium';
    assert.ok(existsSync(chromium), `${chromium} is missing: install Debian's package chromium, or set CHROMIUM`);
    const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', `--user-data-dir=${join(dir, 'profile')}`, '--virtual-time-budget=10000', '--dump-dom'];
    const told = await output(chromium, [...flags, `http://127.0.0.1:${server.address().port}/`]);
    assert.match(told, /at wss:\/\/data\.example:4433\/consumer/);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

describe('with a real server', () => {
  let server;
  let places;
  before(async () => {
    const program = resolve(process.env.MOTIENCE_SERVER ?? join(ROOT, 'target/debug/motience-server'));
    assert.ok(existsSync(program), `${program} is missing: build it with cargo, or set MOTIENCE_SERVER`);
    const ready = join(dir, 'ready.json');
    const env = { PATH: process.env.PATH, HOME: dir, BIND_ADDRESS: '127.0.0.1', RUST_LOG: 'error' };
    server = spawn(program, ['demo', '--any-ports', '--ready-file', ready, '--dir', join(dir, 'demo')], { cwd: dir, env, stdio: 'ignore' });
    const deadline = Date.now() + START_LIMIT_MS;
    while (!existsSync(ready)) {
      assert.equal(server.exitCode, null, 'the server ended');
      assert.ok(Date.now() < deadline, 'the server was not ready in time');
      await new Promise((later) => setTimeout(later, 50));
    }
    const { ap, sm, dsm, wss1, wss2 } = JSON.parse(readFileSync(ready, 'utf8'));
    places = { ap, sm, dsm, wss1, wss2 };
    writeFileSync(join(project, 'flow.mjs'), FLOW);
  });
  after(async () => {
    const ended = new Promise((done) => server.once('exit', done));
    server.kill('SIGTERM');
    await ended;
  });

  test('this Node.js sends and receives without anything more', () => {
    const { versions, producer, consumer } = JSON.parse(run(process.execPath, ['flow.mjs', JSON.stringify(places)]));
    const sockets = Number(versions.split('.')[0]) >= 22;
    assert.deepEqual([producer, consumer], sockets ? ['websocket', 'websocket'] : ['http', 'ndjson']);
  });

  test('so does Node.js 22', () => {
    const at = join(dir, 'node22');
    run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error', '--prefix', at, NODE_22], { cwd: dir });
    const node = join(at, 'node_modules', NODE_22.split('@')[0], 'bin/node');
    const { versions, producer, consumer } = JSON.parse(run(node, ['flow.mjs', JSON.stringify(places)]));
    assert.match(versions, /^22\./);
    assert.deepEqual([producer, consumer], ['websocket', 'websocket']);
  });
});

/** Sends ten records and receives them, by whatever transport works here. */
const FLOW = `import { Motience } from '@motience/client';
const places = JSON.parse(process.argv[2]);
const [sender, reader] = [new Motience(places), new Motience(places)];
await sender.session.register('package-p-' + process.pid, 'package-tests-1!', 'producer', '');
await reader.session.register('package-c-' + process.pid, 'package-tests-1!', 'consumer', '');
const id = sender.session.get().userId;
await reader.sm.subscribe(reader.session, id);
const producer = sender.producer();
await Promise.all(Array.from({ length: 10 }, (_, n) => producer.send({ n })));
const used = producer.status.get().transport;
await producer.close();
const seen = [];
const consumer = reader.consumer({ from: { [id]: 'earliest' } });
let received = null;
consumer.status.subscribe((status) => status.state === 'open' && (received = status.transport));
for await (const event of consumer) {
  if (event.type !== 'record') throw new Error(JSON.stringify(event));
  if (seen.push(event.record.data.n) === 10) break;
}
if (seen.join() !== '0,1,2,3,4,5,6,7,8,9') throw new Error('not what was sent: ' + seen);
console.log(JSON.stringify({ versions: process.versions.node, producer: used, consumer: received }));
process.exit(0);
`;

function output(program, args) {
  return new Promise((done, failed) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    let text = '';
    child.stdout.on('data', (more) => (text += more));
    child.on('error', failed);
    child.on('exit', () => done(text));
  });
}
