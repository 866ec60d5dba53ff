// Makes vectors.json, the test data of decryption and of validation tokens, with the cryptography of node (OpenSSL), which mailbell's has
// nothing in common with:  node vectors.mjs > vectors.json
// It follows "Set up change notifications that include resource data" of Microsoft Learn, from Microsoft's side.
import crypto from 'node:crypto'

const { publicKey, privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 })
const b64 = (b) => Buffer.from(b).toString('base64')
const b64url = (b) => Buffer.from(b).toString('base64url')

function encrypt(plain, { oaepHash = 'sha1', keyLength = 32, iv, signedBy, padding = true } = {}) {
  const key = crypto.randomBytes(keyLength)
  const cipher = crypto.createCipheriv(`aes-${keyLength * 8}-cbc`, key, iv ?? key.subarray(0, 16))
  cipher.setAutoPadding(padding)
  const data = Buffer.concat([cipher.update(plain), cipher.final()])
  return {
    data: b64(data),
    dataSignature: b64(crypto.createHmac('sha256', signedBy ?? key).update(data).digest()),
    dataKey: b64(crypto.publicEncrypt({ key: publicKey, padding: crypto.constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, key)),
    encryptionCertificateId: 'vectors',
    encryptionCertificateThumbprint: '0',
  }
}

const message = (subject) => JSON.stringify({
  '@odata.context': 'https://graph.microsoft.com/$metadata#users(\'mara\')/messages/$entity',
  id: 'AAkALg=', subject, internetMessageId: '<1@fabrikam.com>', sentDateTime: '2026-11-28T13:59:58Z', receivedDateTime: '2026-11-28T14:00:00Z',
  from: { emailAddress: { name: 'Tom', address: 'tom@fabrikam.com' } },
})
const good = ['Minutes', 'Übung 🔔', '', 'x'.repeat(255)].concat([...Array(16).keys()].map((n) => 'p'.repeat(n)))
  .map((subject) => ({ subject, content: encrypt(message(subject)) }))

const flipped = (b64text, at) => { const b = Buffer.from(b64text, 'base64'); b[at < 0 ? b.length + at : at] ^= 1; return b64(b) }
const sound = encrypt(message('Minutes'))
const block = (last) => Buffer.concat([Buffer.alloc(15, 7), Buffer.from([last])])
const bad = {
  'another bit in the data': { ...sound, data: flipped(sound.data, 0) },
  'another bit at the end of the data': { ...sound, data: flipped(sound.data, -1) },
  'another bit in the signature': { ...sound, dataSignature: flipped(sound.dataSignature, 3) },
  'another bit in the key': { ...sound, dataKey: flipped(sound.dataKey, 9) },
  'a signature that is cut': { ...sound, dataSignature: b64(Buffer.from(sound.dataSignature, 'base64').subarray(0, 16)) },
  'no signature': { ...sound, dataSignature: '' },
  'the signature of another key': encrypt(message('Minutes'), { signedBy: Buffer.alloc(32) }),
  'the key of another message': { ...sound, dataKey: encrypt('x').dataKey },
  'OAEP with SHA-256': encrypt(message('Minutes'), { oaepHash: 'sha256' }),
  'another initialisation vector': encrypt(message('Minutes'), { iv: Buffer.alloc(16, 9) }),
  'a padding of 0': encrypt(block(0), { padding: false }),
  'a padding of 17': encrypt(block(17), { padding: false }),
  'a padding that is not one': encrypt(block(2), { padding: false }),
  'no data': { ...sound, data: '' },
  'half a block': { ...sound, data: b64(Buffer.alloc(8)) },
  'no base64': { ...sound, data: '!' },
  'no JSON': encrypt('Minutes'),
  'another resource': encrypt('[]'),
  'nothing': encrypt(''),
}

const tenant = '84bd8158-6d4d-4958-8b9f-9d6445542f95', app = '6e74172b-be56-4843-9ff4-e66a39bb12e3', graph = '0bf30f3b-4a52-48df-9a82-234910c4a086'
const other = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 })
function token(claims, { header = {}, key = privateKey } = {}) {
  const signed = b64url(JSON.stringify({ typ: 'JWT', alg: 'RS256', kid: 'k1', ...header })) + '.' + b64url(JSON.stringify(claims))
  return signed + '.' + b64url(crypto.sign('sha256', Buffer.from(signed), key))
}
// Valid from 2026-11-28T14:00:00Z for an hour.
const at = Date.UTC(2026, 10, 28, 14) / 1000
const v1 = { aud: app, iss: `https://sts.windows.net/${tenant}/`, iat: at, nbf: at, exp: at + 3600, appid: graph, tid: tenant, ver: '1.0' }
const v2 = { aud: app, iss: `https://login.microsoftonline.com/${tenant}/v2.0`, iat: at, nbf: at, exp: at + 3600, azp: graph, tid: tenant, ver: '2.0' }
const unsigned = b64url(JSON.stringify({ typ: 'JWT', alg: 'none', kid: 'k1' })) + '.' + b64url(JSON.stringify(v1)) + '.'
const hs = () => { // signed with the public key as if that were a secret
  const signed = b64url(JSON.stringify({ typ: 'JWT', alg: 'HS256', kid: 'k1' })) + '.' + b64url(JSON.stringify(v1))
  return signed + '.' + b64url(crypto.createHmac('sha256', publicKey.export({ type: 'spki', format: 'pem' })).update(signed).digest())
}
const jwk = publicKey.export({ format: 'jwk' })
const tokens = {
  tenant, app,
  keys: { keys: [{ kty: 'RSA', use: 'sig', kid: 'k1', n: jwk.n, e: jwk.e }, { kty: 'EC', kid: 'k2' }] },
  good: { 'version 1': token(v1), 'version 2': token(v2) },
  bad: {
    'another app': token({ ...v1, aud: 'another' }), 'another publisher': token({ ...v1, appid: app }), 'no publisher': token({ ...v1, appid: undefined }),
    'another tenant': token({ ...v1, iss: 'https://sts.windows.net/11111111-2222-3333-4444-555555555555/' }), 'another issuer': token({ ...v1, iss: 'https://evil.example/' }),
    'another key': token(v1, { key: other.privateKey }), 'a key that nobody has': token(v1, { header: { kid: 'k9' } }), 'no key id': token(v1, { header: { kid: undefined } }),
    'no signature': unsigned, 'the public key as a secret': hs(), 'no expiry': token({ ...v1, exp: undefined }),
    'an expiry long ago': token({ ...v1, nbf: at - 7200, exp: at - 3600 }), 'a time to come': token({ ...v1, nbf: at + 3000 }),
    'nonsense': 'x.y.z', 'nothing': '',
  },
}
console.log(JSON.stringify({ privateKey: privateKey.export({ type: 'pkcs8', format: 'pem' }), good, bad, tokens }, null, 1))
