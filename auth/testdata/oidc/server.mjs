// A token endpoint as strict as oidc-provider is, under the paths of Entra ID: for the tests of package auth. Its settings come as one
// line of JSON on standard input; when that ends, so does it. On standard output it prints its port, then a line for each
// request for a token: how the client signed in, or the error. A further line on standard input is answered by {"all":true}, when all
// that was asked before is told.

import { createHash } from 'node:crypto';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';

import Provider, { errors } from 'oidc-provider';

const lines = createInterface({ input: process.stdin });
lines.once('close', () => process.exit(0));
lines.once('line', (line) => {
  start(JSON.parse(line));
  lines.on('line', () => tell({ all: true }));
});

function tell(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

function start({ cert, key, tenant, resource, seconds, signingKey, clients }) {
  const prefix = `/${tenant}/v2.0`;
  const tls = createServer({ cert, key });
  tls.listen(0, '127.0.0.1', () => {
    const { port } = tls.address();
    const thumbprints = new Map(clients.map((c) => [c.id, c.thumbprint]));
    const provider = new Provider(`https://127.0.0.1:${port}${prefix}`, {
      clients: clients.map((c) => ({
        client_id: c.id,
        redirect_uris: [],
        response_types: [],
        grant_types: ['client_credentials'],
        ...(c.secret
          ? { client_secret: c.secret, token_endpoint_auth_method: 'client_secret_post' }
          : { jwks: { keys: [c.key] }, token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'PS256' }),
      })),
      clientAuthMethods: ['client_secret_post', 'private_key_jwt'],
      enabledJWA: { clientAuthSigningAlgValues: ['PS256'] },
      // As Entra ID finds the certificate.
      assertJwtClientAuthClaimsAndHeader(ctx, claims, header, client) {
        const want = Buffer.from(thumbprints.get(client.clientId), 'hex').toString('base64');
        if (header['x5t#S256'] !== want) {
          throw new errors.InvalidClientAuth('x5t#S256 is not the thumbprint of a certificate of the app');
        }
      },
      jwks: { keys: [{ ...signingKey, kid: createHash('sha256').update(signingKey.n).digest('hex'), use: 'sig', alg: 'RS256' }] },
      scopes: ['openid', 'offline_access', 'profile', `${resource}/.default`],
      ttl: { ClientCredentials: seconds },
      features: {
        devInteractions: { enabled: false },
        clientCredentials: { enabled: true },
        resourceIndicators: {
          enabled: true,
          defaultResource: () => resource,
          getResourceServerInfo: () => ({
            scope: `${resource}/.default`,
            audience: resource,
            accessTokenFormat: 'jwt',
            accessTokenTTL: seconds,
            jwt: { sign: { alg: 'RS256' } },
          }),
        },
      },
    });
    provider.on('grant.success', (ctx) => tell({ grant: ctx.oidc.params.grant_type, by: ctx.oidc.client.clientAuthMethod }));
    provider.on('grant.error', (ctx, err) => tell({ error: err.message, detail: err.error_description }));
    const answer = provider.callback();
    tls.on('request', (req, res) => {
      if (!req.url.startsWith(`${prefix}/`)) {
        res.writeHead(404).end();
        return;
      }
      req.originalUrl = req.url;
      req.url = req.url.slice(prefix.length);
      answer(req, res);
    });
    tell({ port });
  });
}
