// A real OpenID provider for the tests: `oidc-provider` with the clients and people below, on a free port of this machine.
// Prints `READY {"issuer": …}` once it listens. `POST /test/rotate` has new keys sign, `POST /test/settle` takes the older keys back, and
// `POST /test/redirect?to=URL` says where the console is.
import { createServer } from 'node:http';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import Provider from 'oidc-provider';

const RESOURCE = 'urn:motience';
const SCOPES = ['all', 'publish', 'consume', 'read_usage'].map((scope) => `motience:${scope}`);
const SECRET = 'a secret of programs in tests';
// How long access tokens of a program live, in seconds, where that is not an hour; with `motience:read_usage` they live an hour all the same.
const SHORT = { 'short-sender': 6, 'short-reader': 6 };
const [algorithm = 'RS256', life = '3600'] = process.argv.slice(2);

const program = (client_id) => ({
  client_id,
  client_secret: SECRET,
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
});
const console_ = {
  client_id: 'console',
  token_endpoint_auth_method: 'none',
  grant_types: ['authorization_code', 'refresh_token'],
  redirect_uris: ['http://localhost/none'],
};
// By client or by person.
const roles = {
  sender: ['pi'], 'short-sender': ['pi'], reader: ['app'], 'short-reader': ['app'], boss: ['ops'], turncoat: ['pi'], ada: ['app'], grace: ['ops'],
};

function key() {
  const [kind, options] = { RS256: ['rsa', { modulusLength: 2048 }], ES256: ['ec', { namedCurve: 'P-256' }], EdDSA: ['ed25519', {}] }[algorithm];
  return { ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: algorithm };
}

let keys = [key()];
// ID tokens are signed by this one, whatever signs access tokens.
const identity = { ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }), kid: 'id', use: 'sig', alg: 'RS256' };

/** Sessions, grants and tokens, which a change of keys must not end: the provider's own memory begins anew with each provider. */
const kept = new Map();
class Kept {
  constructor(model) {
    this.key = (id) => `${model} ${id}`;
    this.first = (of) => [...kept].find(([key, payload]) => key.startsWith(`${model} `) && of(payload))?.[1];
  }
  async upsert(id, payload) {
    kept.set(this.key(id), payload);
  }
  async find(id) {
    return kept.get(this.key(id));
  }
  async findByUid(uid) {
    return this.first((payload) => payload.uid === uid);
  }
  async findByUserCode(code) {
    return this.first((payload) => payload.userCode === code);
  }
  async consume(id) {
    kept.get(this.key(id)).consumed = Math.floor(Date.now() / 1000);
  }
  async destroy(id) {
    kept.delete(this.key(id));
  }
  async revokeByGrantId(grant) {
    for (const [key, payload] of kept) if (payload.grantId === grant) kept.delete(key);
  }
}

function provider(issuer) {
  const made = new Provider(issuer, {
    adapter: Kept,
    clients: [...['sender', 'reader', 'boss', 'nobody', 'turncoat', 'short-sender', 'short-reader'].map(program), console_],
    jwks: { keys: algorithm === 'RS256' ? keys : [...keys, identity] },
    cookies: { keys: ['cookies of tests'] },
    scopes: ['openid', 'offline_access', 'profile'],
    claims: { profile: ['preferred_username'] },
    clientBasedCORS: () => true,
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, preferred_username: id }) }),
    extraTokenClaims: (_ctx, token) => {
      const who = token.accountId ?? token.clientId;
      return { roles: roles[who] ?? [], preferred_username: who };
    },
    ttl: { AccessToken: Number(life), ClientCredentials: (_ctx, token) => (token.scope?.includes('read_usage') ? 3600 : (SHORT[token.clientId] ?? 3600)), Grant: 86400, IdToken: 3600, Interaction: 3600, Session: 86400, RefreshToken: 86400 },
    features: {
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: (_ctx, _resource, client) => ({
          scope: SCOPES.join(' '),
          audience: 'motience',
          accessTokenFormat: 'jwt',
          accessTokenTTL: client.clientId === 'console' ? Number(life) : (SHORT[client.clientId] ?? 3600),
          jwt: { sign: { alg: algorithm } },
        }),
      },
    },
  });
  return made.callback();
}

let serve;
const server = createServer((request, response) => {
  if (request.url === '/test/rotate') keys = [key(), ...keys];
  else if (request.url === '/test/settle') keys = keys.slice(0, 1);
  else if (request.url.startsWith('/test/redirect?')) console_.redirect_uris = [new URL(request.url, issuer).searchParams.get('to')];
  else return serve(request, response);
  serve = provider(issuer);
  response.end();
});
await new Promise((resolve) => server.listen(0, 'localhost', resolve));
const issuer = `http://localhost:${server.address().port}`;
serve = provider(issuer);
console.log(`READY ${JSON.stringify({ issuer })}`);
