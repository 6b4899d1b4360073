// A stand-in for the platform, for people who work on these pages: `npm run build && npm run dev:mock`.
// The server keeps everything in memory, checks nothing with care and signs nothing. No test relies on it. There are accounts to
// look around with: demo-consumer, weather-north (a producer) and demo-admin, password demo-pass-123.
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
const listeners = new Set(); // { id, take(record) }
const logs = new Map(); // producer id -> records, each with its offset
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
const shown = ({ password, revoked_at, ...user }) => user;
const account = (user) => ({ ...shown(user), revoked_at: user.revoked_at ?? null });
const perSecond = (log) => log.slice(-500).filter((r) => Date.now() - r.at < 10_000).length / 10;

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
    if (user?.revoked_at) return problem(403, 'account_revoked', 'The account was revoked');
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
  'GET /consumers': ({ who }) => (who ? { status: 200, body: users.filter((u) => u.role === 'consumer').map(shown) } : problem(401, 'invalid_token', 'The token is not valid')),
  'GET /subscribers': ({ id }) => ({ status: 200, body: [...follows].filter(([, p]) => p.has(Number(id))).map(([c], i) => ({ id: i + 1, consumer_id: c, producer_id: Number(id), status: 'active', created_at: new Date(started).toISOString() })) }),
  'GET /streams': () => ({ status: 200, body: [...logs].filter(([, log]) => log.length > 0 && Date.now() - log.at(-1).at < 60_000).map(([p, log]) => ({ producer_id: String(p), username: users[p - 1]?.username ?? null, records: log.at(-1).offset, rate_per_second: perSecond(log), last_record_at: new Date(log.at(-1).at).toISOString() })) }),
  'GET /history': ({ id, query }) => {
    const [from, to, after, limit] = [Date.parse(query.get('from') ?? '1970'), Date.parse(query.get('to') ?? '9999'), Number(query.get('after') ?? 0), Number(query.get('limit') ?? 1000)];
    const found = (logs.get(Number(id)) ?? []).filter((r) => r.offset > after && Date.parse(r.record.timestamp) >= from && Date.parse(r.record.timestamp) <= to);
    const body = found.slice(0, limit).map((r) => ({ id: r.offset, producer_id: id, device_id: r.record.device_id, timestamp: r.record.timestamp, data: r.record.data }));
    const next = found.length > limit ? new URLSearchParams({ ...Object.fromEntries(query), after: String(body.at(-1).id) }) : null;
    return { status: 200, body, headers: next ? { link: `<?${next}>; rel="next"` } : {} };
  },
  'GET /devices': ({ id }) => {
    const log = logs.get(Number(id)) ?? [];
    return { status: 200, body: [...new Set(log.map((r) => r.record.device_id))].map((device, i) => ({ producer_id: id, device_id: device, connected: i !== 2, node: 'mock', transport: ['quic', 'websocket', 'tunnel'][i % 3], last_seen_at: new Date(i === 2 ? Date.now() - 754_000 : Date.now() - 300).toISOString(), records: log.filter((r) => r.record.device_id === device).length, rate_per_second: i === 2 ? 0 : perSecond(log) / 2, loss: [0.002, null, 0.071][i % 3], rtt_ms: [18.4, null, 212][i % 3], backlog: [0, null, 4_210][i % 3], address_changes: i })) };
  },
  'GET /nodes': () => ({
    status: 200,
    body: ['alpha', 'beta', 'gamma'].map((node, i) => ({ node, version: '0.1.0', roles: i === 2 ? ['ingest'] : ['ap', 'sm', 'dsm', 'ingest', 'wss'], started_at: new Date(started - i * 7e6).toISOString(), seen_at: new Date(Date.now() - (i === 2 ? 40_000 : 800)).toISOString(), durability: 'redis', connections: { quic: 120 + i, webtransport: 8, producers: counts.producer.connections, consumers: counts.consumer.connections, tunnels: i, http3: 2 }, records_in_per_second: 420 + 90 * Math.sin(Date.now() / 9000 + i), records_out_per_second: 1300 + 200 * Math.sin(Date.now() / 7000 + i), records_in: 1_204_332, records_out: 4_993_201 })),
  }),
  'GET /accounts': ({ query }) => ({ status: 200, body: users.filter((u) => (!query.get('role') || u.role === query.get('role')) && u.username.includes(query.get('query') ?? '') && u.id > Number(query.get('after') ?? 0)).slice(0, Number(query.get('limit') ?? 100)).map(account) }),
  'POST /accounts': ({ id, action }) => {
    const user = users[Number(id) - 1];
    if (!user) return problem(404, 'not_found', 'No such account');
    user.revoked_at = action === 'revoke' ? new Date().toISOString() : null;
    return { status: 200, body: account(user) };
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
    const [, first, id, action] = url.pathname.split('/');
    if (first === 'stream' && request.method === 'GET') return stream(request, response, url.searchParams);
    const route = routes[`${request.method} /${first}`];
    const who = claims((request.headers.authorization ?? '').replace(/^Bearer /, ''), 'access');
    const { status, body, headers = {} } = route ? route({ who, id, action, query: url.searchParams, body: text ? JSON.parse(text) : {} }) : problem(404, 'not_found', 'Not found');
    response.writeHead(status, { 'content-type': status >= 400 ? 'application/problem+json' : 'application/json', 'access-control-expose-headers': 'link', ...headers }).end(body === null ? '' : JSON.stringify(body));
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
      return json({ role, ws_port: ports[role], ws_path: `/${role}`, ap_port: ports.ap, sm_port: ports.sm, dsm_port: ports.dsm, ap_url: null, sm_url: null, ws_url: null, console_url: `http://localhost:${ports.consumerUi}/`, tester_url: `http://localhost:${ports.consumerUi}/tester`, producer_page_url: `http://localhost:${ports.producerUi}/` });
    const named = { '/': role === 'consumer' ? 'console' : role, '/tester': 'consumer' }[pathname];
    const file = named ? `${named}.html` : /^\/assets\/[\w.-]+$/.test(pathname) ? pathname.slice(1) : null;
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
    const who = claims(new URL(request.url, 'http://mock').searchParams.get('token') ?? /bearer,\s*(\S+)/.exec(request.headers['sec-websocket-protocol'] ?? '')?.[1] ?? '', 'access');
    const refusal = !who ? '401 Unauthorized' : who.role !== role ? '403 Forbidden' : null;
    if (refusal) return socket.end(`HTTP/1.1 ${refusal}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`);
    wss.handleUpgrade(request, socket, head, (ws) => {
      counts[role].connections++;
      const expiry = setTimeout(() => ws.close(4401, 'token expired'), who.exp * 1000 - Date.now());
      ws.on('close', () => (counts[role].connections--, clearTimeout(expiry)));
      onSocket(ws, Number(who.sub), request);
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
    const heard = append(id, record);
    answer({ type: 'ack', seq: ++seq, subscriberCount: heard });
  });
}

function onConsumer(socket, id, request) {
  const query = new URL(request.url, 'http://mock').searchParams;
  const v2 = socket.protocol === 'motience.v2' || query.get('v') === '2';
  const me = { id, take: (entry) => socket.send(JSON.stringify(v2 ? placed(entry) : entry.record)) };
  for (const [producer, from] of Object.entries(JSON.parse(query.get('resume') ?? '{}'))) if (follows.get(id)?.has(Number(producer))) replay(producer, from, me.take, (gap) => socket.send(JSON.stringify(gap)));
  listeners.add(me);
  socket.on('close', () => listeners.delete(me));
}

function stream(request, response, query) {
  const who = claims((request.headers.authorization ?? '').replace(/^Bearer /, ''), 'access');
  const bad = (query.getAll('where').join(' ').match(/^(\/[\w/]+)\s*(=|!=|<=?|>=?)\s*\S+$/) ?? query.getAll('where').length === 0) ? null : query.get('where').search(/[^\w/]/) + 1;
  if (bad !== null) return response.writeHead(400, { 'content-type': 'application/problem+json' }).end(JSON.stringify({ ...problem(400, 'invalid_expression', 'A comparison is expected here.').body, column: bad }));
  if (!who) return response.writeHead(401, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem(401, 'invalid_token', 'The token is not valid').body));
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  response.flushHeaders();
  const named = query.get('producers')?.split(',').map(Number) ?? null;
  const me = { id: Number(who.sub), named, take: (entry) => response.write(`${JSON.stringify(placed(entry))}\n`) };
  listeners.add(me);
  response.on('close', () => listeners.delete(me));
}

// ---- the log

const placed = ({ record, offset }) => ({ ...record, offset, cursor: `7-${offset}`, record_id: `n${record.producer_id}-${offset}` });

function replay(producer, from, take, tell) {
  const log = logs.get(Number(producer)) ?? [];
  if (from === 'live' || log.length === 0) return;
  const after = /^7-/.test(from) ? Number(from.slice(2)) : 0;
  const since = from === 'earliest' || after > 0 ? 0 : Date.parse(from);
  if (from === 'earliest' && log[0].offset > 1) tell({ type: 'gap', producer_id: producer, from: 1, to: log[0].offset - 1 });
  for (const entry of log) if (entry.offset > after && entry.at >= since) take(entry);
}

function append(id, record, at = Date.now()) {
  const log = logs.get(id) ?? [];
  logs.set(id, log);
  const entry = { record: { producer_id: String(id), ...record }, offset: (log.at(-1)?.offset ?? 480) + 1, at };
  log.push(entry);
  if (log.length > 20_000) log.splice(0, 5_000);
  counts.producer.records++;
  let heard = 0;
  for (const listener of listeners) {
    if (listener.named ? !listener.named.includes(id) : !follows.get(listener.id)?.has(id)) continue;
    heard++;
    counts.consumer.records++;
    listener.take(entry);
  }
  return heard;
}

// ---- somebody to look at

function cast() {
  for (const [username, role] of [['weather-north', 'producer'], ['demo-consumer', 'consumer'], ['demo-admin', 'admin'], ['harbour-buoys', 'producer'], ['bus-fleet-7', 'producer'], ['meter-basement', 'producer'], ['acme-analytics', 'consumer']])
    users.push({ id: users.length + 1, username, password: 'demo-pass-123', role, device_id: role === 'producer' ? 'rpi_001' : null, created_at: new Date(started).toISOString() });
  follows.set(2, new Set([1, 4]));
  const weather = (device, at) => ({ device_id: device, timestamp: new Date(at).toISOString(), data: { temperature: 21 + 3 * Math.sin(at / 41_000) + Math.random() * 0.3, humidity: 54 + 8 * Math.sin(at / 67_000), pressure: 1013.25 + Math.sin(at / 150_000), battery_percent: 81 - ((at / 60_000) % 20) } });
  for (let at = started - 900_000; at < started; at += 500) if (at < started - 400_000 || at > started - 340_000) append(1, weather('mast-a', at), at);
  for (let at = started - 300_000; at < started; at += 2_000) append(4, { device_id: 'buoy-3', timestamp: new Date(at).toISOString(), data: { wave_height: 1 + Math.random(), water_temp: 11 + Math.sin(at / 90_000) } }, at);
  setInterval(() => (append(1, weather('mast-a', Date.now())), append(1, weather('mast-b', Date.now()))), 250);
  setInterval(() => append(4, { device_id: 'buoy-3', timestamp: new Date().toISOString(), data: { wave_height: 1 + Math.random(), water_temp: 11 + Math.sin(Date.now() / 90_000) } }), 1000);
}

cast();
for (const name of ['ap', 'sm', 'dsm']) createServer(rest()).listen(ports[name]);
sockets('producer', onProducer).listen(ports.producer);
sockets('consumer', onConsumer).listen(ports.consumer);
createServer(page('producer')).listen(ports.producerUi);
createServer(page('consumer')).listen(ports.consumerUi);
console.log(`The mock runs: producer page http://localhost:${ports.producerUi}, consumer page http://localhost:${ports.consumerUi}. For the page tests:
export MOTIENCE_PRODUCER_PAGE=http://localhost:${ports.producerUi} MOTIENCE_CONSUMER_PAGE=http://localhost:${ports.consumerUi} MOTIENCE_AP=http://localhost:${ports.ap} MOTIENCE_SM=http://localhost:${ports.sm}`);
