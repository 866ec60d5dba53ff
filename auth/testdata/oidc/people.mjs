// An OpenID provider for people, as strict as oidc-provider is: for the tests of package admin. Its settings come as one line of JSON on
// standard input; when that ends, so does it. On standard output it prints its port. It asks for a login, whatever it is, and for consent.

import { createServer } from 'node:https';
import { createInterface } from 'node:readline';

import Provider from 'oidc-provider';

const lines = createInterface({ input: process.stdin });
lines.once('close', () => process.exit(0));
lines.once('line', (line) => start(JSON.parse(line)));

function start({ cert, key, client, secret, redirect, signingKey, people }) {
  const tls = createServer({ cert, key });
  tls.listen(0, '127.0.0.1', () => {
    const { port } = tls.address();
    const provider = new Provider(`https://127.0.0.1:${port}`, {
      clients: [{ client_id: client, client_secret: secret, redirect_uris: [redirect], response_types: ['code'], grant_types: ['authorization_code'] }],
      pkce: { required: () => true },
      claims: { openid: ['sub', 'groups'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username'] },
      conformIdTokenClaims: false,
      jwks: { keys: [{ ...signingKey, kid: 'people', use: 'sig', alg: 'RS256' }] },
      cookies: { keys: ['a test only'] },
      features: { devInteractions: { enabled: true } },
      findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, ...people[id] }) }),
    });
    tls.on('request', provider.callback());
    process.stdout.write(`${JSON.stringify({ port })}\n`);
  });
}
