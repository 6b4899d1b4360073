// A stand-in for the platform, for people who work on these pages: `npm run build && npm run dev:mock`.
// It keeps everything in memory, checks nothing with care and signs nothing. No test relies on it.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { WebSocketServer } from 'ws';

const port = (name, fallback) => Number(process.env[name] ?? fallback);
const ports = {
  ap: port('AP_PORT', 3001),
  sm: port('SM_PORT', 3002),
  dsm: port('DSM_PORT', 3003),
  producer: port('WSS1_PORT', 8001),
  consumer: port('WSS2_PORT', 8002),
  producerUi: port('WSS1_UI_PORT', 3010),
  consumerUi: port('WSS2_UI_PORT', 3011),
};
const TOKEN_SECONDS = port('MOCK_TOKEN_SECONDS', 3600);
const started = Date.now();
const users = [];
const spent = new Set();
const follows = new Map(); // consumer id -> Set of producer ids
const listeners = new Set(); // { id, socket }
const counts = { producer: { connections: 0, records: 0, bytes: 0 }, consumer: { connections: 0, records: 0, bytes: 0 } };

// ---- accounts and subscriptions

const b64 = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const token = (user, kind) => `${b64({ alg: 'none' })}.${b64({ sub: String(user.id), username: user.username, role: user.role, kind, exp: Math.floor(Date.now() / 1000) + (kind === 'access' ? TOKEN_SECONDS : 604_800), n: Math.random() })}.mock`;

function claims(text, kind) {
  try {
    const it = JSON.parse(Buffer.from(text.split('.')[1], 'base64url').toString());
    return text.endsWith('.mock') && it.kind === kind && it.exp * 1000 > Date.now() ? it : null;
  } catch {
    return null;
  }
}

const pair = (user) => ({ access_token: token(user, 'access'), refresh_token: token(user, 'refresh'), token_type: 'Bearer', expires_in: TOKEN_SECONDS, user_id: user.id, role: user.role });
const problem = (status, code, error) => ({ status, body: { type: 'about:blank', title: error, status, code, error } });
const shown = ({ password, ...user }) => user;

const routes = {
  'POST /register': ({ body }) => {
    if (users.some((u) => u.username === body.username)) return problem(409, 'username_taken', 'Username already exists');
    if ((body.password ?? '').length < 6) return problem(422, 'weak_password', 'Password must have at least 6 characters');
    const user = { id: users.length + 1, username: body.username, password: body.password, role: body.role, device_id: body.device_id ?? null, created_at: new Date().toISOString() };
    users.push(user);
    return { status: 201, body: shown(user) };
  },
  'POST /login': ({ body }) => {
    const user = users.find((u) => u.username === body.username && u.password === body.password);
    return user ? { status: 200, body: pair(user) } : problem(401, 'invalid_credentials', 'Invalid credentials');
  },
  'POST /refresh': ({ body }) => {
    const it = claims(body.refresh_token ?? '', 'refresh');
    if (!it || spent.has(body.refresh_token)) return problem(401, 'invalid_token', 'Invalid refresh token');
    if (!users[Number(it.sub) - 1]) return problem(401, 'invalid_token', 'The mock was restarted');
    spent.add(body.refresh_token);
    return { status: 200, body: pair(users[Number(it.sub) - 1]) };
  },
  'POST /logout': () => ({ status: 204, body: null }),
  'GET /verify': ({ who }) => (who ? { status: 200, body: { valid: true, user_id: Number(who.sub), username: who.username, role: who.role, expires_at: new Date(who.exp * 1000).toISOString() } } : problem(401, 'invalid_token', 'The token is not valid')),
  'GET /producers': ({ who, query }) =>
    who ? { status: 200, body: users.filter((u) => u.role === 'producer' && u.id > Number(query.get('after') ?? 0)).slice(0, Number(query.get('limit') ?? 100)).map(shown) } : problem(401, 'invalid_token', 'The token is not valid'),
  'GET /subscriptions': ({ who, id }) => {
    if (!who) return problem(401, 'invalid_token', 'The token is not valid');
    return { status: 200, body: [...(follows.get(Number(id)) ?? [])].map((p, i) => ({ id: i + 1, consumer_id: Number(id), producer_id: p, status: 'active', created_at: new Date().toISOString() })) };
  },
  'POST /subscribe': ({ who, body }) => {
    if (!who) return problem(401, 'invalid_token', 'The token is not valid');
    const producer = Number(body.producer_id);
    if (users[producer - 1]?.role !== 'producer') return problem(404, 'no_such_producer', 'No such producer');
    const mine = follows.get(Number(who.sub)) ?? new Set();
    follows.set(Number(who.sub), mine.add(producer));
    return { status: 201, body: { id: 1, consumer_id: Number(who.sub), producer_id: producer, status: 'active', created_at: new Date().toISOString() } };
  },
  'DELETE /unsubscribe': ({ who, query }) => {
    const producer = Number(query.get('producer_id'));
    return follows.get(Number(who?.sub))?.delete(producer) ? { status: 200, body: { status: 'inactive' } } : problem(404, 'no_subscription', 'No subscription');
  },
};

function rest() {
  return async (request, response) => {
    const url = new URL(request.url, 'http://mock');
    response.setHeader('access-control-allow-origin', '*');
    response.setHeader('access-control-allow-headers', 'authorization, content-type');
    response.setHeader('access-control-allow-methods', 'GET, POST, DELETE');
    if (request.method === 'OPTIONS') return response.writeHead(204).end();
    let text = '';
    for await (const part of request) text += part;
    const [, first, id] = url.pathname.split('/');
    const route = routes[`${request.method} /${first}`];
    const who = claims((request.headers.authorization ?? '').replace(/^Bearer /, ''), 'access');
    const { status, body } = route ? route({ who, id, query: url.searchParams, body: text ? JSON.parse(text) : {} }) : problem(404, 'not_found', 'Not found');
    response.writeHead(status, { 'content-type': status >= 400 ? 'application/problem+json' : 'application/json' }).end(body === null ? '' : JSON.stringify(body));
  };
}

// ---- the pages

const dist = fileURLToPath(new URL('../dist/', import.meta.url));
const types = { html: 'text/html; charset=utf-8', js: 'text/javascript', css: 'text/css', svg: 'image/svg+xml' };

function page(role) {
  return async (request, response) => {
    const { pathname } = new URL(request.url, 'http://mock');
    const json = (value) => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    if (pathname === '/health') return json({ status: 'ok' });
    if (pathname === '/stats') return json({ ...counts[role], uptime_seconds: (Date.now() - started) / 1000 });
    if (pathname === '/config.json')
      return json({ role, ws_port: ports[role], ws_path: `/${role}`, ap_port: ports.ap, sm_port: ports.sm, dsm_port: ports.dsm, ap_url: null, sm_url: null, ws_url: null });
    const file = pathname === '/' ? `${role}.html` : /^\/assets\/[\w.-]+$/.test(pathname) ? pathname.slice(1) : null;
    try {
      const body = await readFile(dist + file);
      response.writeHead(200, { 'content-type': types[file.split('.').pop()] ?? 'application/octet-stream', 'content-security-policy': "default-src 'self'; connect-src *; style-src 'self' 'unsafe-inline'" }).end(body);
    } catch {
      response.writeHead(404).end('not found');
    }
  };
}

// ---- the WebSockets

function sockets(role, onSocket) {
  const server = createServer((_, response) => response.writeHead(404).end());
  const wss = new WebSocketServer({ noServer: true });
  server.on('upgrade', (request, socket, head) => {
    const who = claims(new URL(request.url, 'http://mock').searchParams.get('token') ?? '', 'access');
    const refusal = !who ? '401 Unauthorized' : who.role !== role ? '403 Forbidden' : null;
    if (refusal) return socket.end(`HTTP/1.1 ${refusal}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`);
    wss.handleUpgrade(request, socket, head, (ws) => {
      counts[role].connections++;
      const expiry = setTimeout(() => ws.close(4401, 'token expired'), who.exp * 1000 - Date.now());
      ws.on('close', () => (counts[role].connections--, clearTimeout(expiry)));
      onSocket(ws, Number(who.sub));
    });
  });
  return server;
}

function onProducer(ws, id) {
  let seq = 0;
  ws.on('message', (raw) => {
    const answer = (value) => ws.send(JSON.stringify(value));
    let record;
    try {
      record = JSON.parse(raw.toString());
    } catch {
      return answer({ type: 'error', code: 'invalid_json', message: 'the record is not JSON' });
    }
    if (record.type === 'ping') return answer({ type: 'pong' });
    if (typeof record.device_id !== 'string' || typeof record.data !== 'object') return answer({ type: 'error', code: 'invalid_record', message: 'device_id, timestamp and data are needed' });
    counts.producer.records++;
    counts.producer.bytes += raw.length;
    const text = JSON.stringify({ producer_id: String(id), ...record });
    let heard = 0;
    for (const { id: consumer, socket } of listeners) {
      if (!follows.get(consumer)?.has(id)) continue;
      heard++;
      counts.consumer.records++;
      counts.consumer.bytes += text.length;
      socket.send(text);
    }
    answer({ type: 'ack', seq: ++seq, subscriberCount: heard });
  });
}

function onConsumer(socket, id) {
  const me = { id, socket };
  listeners.add(me);
  socket.on('close', () => listeners.delete(me));
}

for (const name of ['ap', 'sm', 'dsm']) createServer(rest()).listen(ports[name]);
sockets('producer', onProducer).listen(ports.producer);
sockets('consumer', onConsumer).listen(ports.consumer);
createServer(page('producer')).listen(ports.producerUi);
createServer(page('consumer')).listen(ports.consumerUi);
console.log(`The mock runs: producer page http://localhost:${ports.producerUi}, consumer page http://localhost:${ports.consumerUi}. For the page tests:
export MOTIENCE_PRODUCER_PAGE=http://localhost:${ports.producerUi} MOTIENCE_CONSUMER_PAGE=http://localhost:${ports.consumerUi} MOTIENCE_AP=http://localhost:${ports.ap} MOTIENCE_SM=http://localhost:${ports.sm}`);
