// A real platform for the tests: the demo's server on free ports, started once, ended with the test process.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { WebSocket } from 'ws';
import { Motience, type ConsumerOptions, type Places } from '../src/index.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const START_LIMIT_MS = 60_000;
const PASSWORD = 'client-tests-1!';

/** The WebSocket for Node before 22. */
export const NodeWebSocket = WebSocket as unknown as NonNullable<ConsumerOptions['WebSocket']>;

export interface Platform {
  places: Places;
  /** A new account, signed in. */
  account(role: 'producer' | 'consumer', deviceId?: string): Promise<Motience>;
  /** Makes an operator of this name, with the password of all. */
  operator(name: string): void;
  password: string;
  stop(): Promise<void>;
}

const PORTS = ['AP_PORT', 'SM_PORT', 'DSM_PORT', 'WSS1_PORT', 'WSS2_PORT', 'WSS1_UI_PORT', 'WSS2_UI_PORT', 'QUIC_PORT', 'HTTPS_PORT', 'OPERATIONS_PORT'];

/** With these settings beside the defaults. */
export async function platform(settings: Record<string, string> = {}): Promise<Platform> {
  const program = resolve(process.env.MOTIENCE_SERVER ?? join(ROOT, 'target/debug/motience-server'));
  if (!existsSync(program)) throw new Error(`${program} is missing: build it with cargo, or set MOTIENCE_SERVER`);
  const dir = mkdtempSync(join(tmpdir(), 'motience-client-'));
  const ready = join(dir, 'ready.json');
  // Not `demo`, which leaves out all settings but its own.
  const ports = Object.fromEntries(PORTS.map((name) => [name, '0']));
  const env = { PATH: process.env.PATH ?? '', HOME: dir, BIND_ADDRESS: '127.0.0.1', PERSIST: 'true', RUST_LOG: 'warn', ...ports, ...settings };
  const server = spawn(program, ['--ready-file', ready], { cwd: dir, env, stdio: ['ignore', 'ignore', 'inherit'] });
  const places = await placesFrom(server, ready);
  let accounts = 0;
  return {
    places,
    async account(role, deviceId = '') {
      const client = new Motience(places);
      await client.session.register(`client-${role}-${process.pid}-${++accounts}`, PASSWORD, role, deviceId);
      return client;
    },
    operator: (name) => void execFileSync(program, ['admin', 'create', '--username', name], { cwd: dir, env, input: `${PASSWORD}\n` }),
    password: PASSWORD,
    async stop() {
      const ended = new Promise((done) => server.once('exit', done));
      server.kill('SIGTERM');
      await ended;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function placesFrom(server: ChildProcess, ready: string): Promise<Places> {
  await until('the server to be ready', () => {
    if (server.exitCode !== null) throw new Error(`the server ended with ${server.exitCode}`);
    return existsSync(ready) && readFileSync(ready, 'utf8').trimEnd().endsWith('}');
  }, START_LIMIT_MS);
  const at = JSON.parse(readFileSync(ready, 'utf8')) as Record<string, string>;
  return { ap: at.ap ?? '', sm: at.sm ?? '', dsm: at.dsm ?? '', wss1: at.wss1 ?? '', wss2: at.wss2 ?? '', webtransport: at.webtransport ?? null };
}

export async function until(what: string, holds: () => boolean | Promise<boolean>, limitMs = 20_000): Promise<void> {
  const deadline = Date.now() + limitMs;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((later) => setTimeout(later, 15));
  }
}
