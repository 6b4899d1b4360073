// A server of a test's own, with settings that the demo has not: what it counts, whom it trusts, what it keeps.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { PASSWORD, Pages, call, until } from './platform.mjs';

export const program = process.env.MOTIENCE_SERVER;
const PORTS = ['AP', 'SM', 'DSM', 'WSS1', 'WSS2', 'WSS1_UI', 'WSS2_UI', 'QUIC', 'HTTPS', 'OPERATIONS'];

/** A server that keeps its files in a folder. */
export class Server {
  #env;
  #process;
  #made = 0;

  /** Starts it, and waits until it is ready; `at` has its addresses then. */
  async start(folder, settings = {}) {
    const ready = join(folder, 'ready.json');
    this.folder = folder;
    this.#env = { PATH: process.env.PATH, HOME: folder, BIND_ADDRESS: '127.0.0.1', DATA_DIR: join(folder, 'data'), CERTS_DIR: join(folder, 'certs'), ...Object.fromEntries(PORTS.map((name) => [`${name}_PORT`, '0'])), ...settings };
    this.#process = spawn(program, ['--ready-file', ready], { cwd: folder, env: this.#env, stdio: 'ignore' });
    await until('the server', () => (assert.equal(this.#process.exitCode, null), existsSync(ready) && readFileSync(ready, 'utf8').trimEnd().endsWith('}')));
    this.at = JSON.parse(readFileSync(ready, 'utf8'));
    return this;
  }

  /** Runs a command on its database; returns what it prints. */
  run(args, input = '') {
    return execFileSync(program, args, { cwd: this.folder, env: this.#env, input }).toString();
  }

  /** A new account, signed in. Operators are made by the command line. */
  async account(role) {
    const username = `${role}-${++this.#made}`;
    if (role === 'admin') this.run(['admin', 'create', '--username', username], `${PASSWORD}\n`);
    else await call(`${this.at.ap}/register`, { username, password: PASSWORD, role, ...(role === 'producer' ? { device_id: 'rpi_001' } : {}) });
    const { access_token: token, user_id: id } = await call(`${this.at.ap}/login`, { username, password: PASSWORD });
    return { username, id: Number(id), token };
  }

  /** A request of an account; its answer, which has to be a good one. */
  async ask(who, method, url, body) {
    const response = await fetch(url, { method, headers: { 'content-type': 'application/json', authorization: `Bearer ${who.token}` }, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
    assert.ok(response.ok, `${method} ${url} answered ${response.status}: ${await response.clone().text()}`);
    return response.json();
  }

  async stop() {
    if (!this.#process || this.#process.exitCode !== null) return;
    this.#process.kill('SIGTERM');
    await once(this.#process, 'exit');
  }
}

/** A server and a browser for the tests of a suite; at its end nothing was thrown, and no rule of the CSP broken. */
export function suite(name, settings) {
  const [pages, server, folder] = [new Pages(), new Server(), mkdtempSync(join(tmpdir(), `motience-${name}-`))];
  before(async () => {
    await server.start(folder, settings);
    await pages.start();
  });
  after(async () => {
    await pages.stop();
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
    assert.deepEqual(pages.complaints, []);
  });
  return { pages, server };
}
