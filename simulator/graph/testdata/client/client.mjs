// An independent client of Microsoft Graph: Microsoft's own, signed in by Microsoft's MSAL. It reads its settings as a line of JSON, does
// what an app that follows mailboxes does, and prints each step that went well. A step that fails ends it with an error.
import { ConfidentialClientApplication } from '@azure/msal-node'
import { BatchRequestContent, BatchResponseContent, Client, PageIterator } from '@microsoft/microsoft-graph-client'
import assert from 'node:assert/strict'
import crypto from 'node:crypto'
import https from 'node:https'
import readline from 'node:readline'

const settings = JSON.parse(await new Promise(resolve => readline.createInterface({ input: process.stdin }).once('line', resolve)))
const graphURL = new URL(settings.graph)
const done = step => console.log(step)

const app = new ConfidentialClientApplication({
  auth: {
    clientId: settings.clientID, clientSecret: settings.secret,
    authority: `${settings.authority}/${settings.tenant}`, knownAuthorities: [new URL(settings.authority).host],
  },
})
let tokens = 0
const client = Client.init({
  baseUrl: settings.graph + '/', customHosts: new Set([graphURL.hostname]),
  authProvider: async callback => {
    try {
      const token = await app.acquireTokenByClientCredential({ scopes: [settings.graph + '/.default'] })
      tokens++
      callback(null, token.accessToken)
    } catch (problem) { callback(problem, null) }
  },
})

const box = settings.mailbox
const inbox = `/users/${box}/mailFolders('inbox')/messages`
const post = async (path, body) => {
  const answer = await fetch(settings.control + path, { method: 'POST', body })
  assert.equal(answer.status, 200, await answer.clone().text())
  return answer.json()
}
const put = async (path, body) => assert.equal((await fetch(settings.control + path, { method: 'PUT', body: JSON.stringify(body) })).status, 204)
const deliver = (subject, minutesAgo = 0) => {
  const received = new Date(Date.now() - minutesAgo * 60_000).toISOString()
  const message = `From: "Ann Example" <ann@fabrikam.example>\r\nTo: ${box}\r\nSubject: ${subject}\r\nMessage-ID: <${subject.replaceAll(' ', '-')}@fabrikam.example>\r\n\r\nHello from ${subject}.\r\n`
  return post(`/messages?to=${encodeURIComponent(box)}&received=${received}`, message)
}

// The endpoint for notifications.
const waiting = []
const arrived = []
const server = https.createServer({ cert: settings.certificate, key: settings.key }, (request, response) => {
  const url = new URL(request.url, 'https://endpoint')
  const parts = []
  request.on('data', part => parts.push(part))
  request.on('end', () => {
    if (url.searchParams.has('validationToken')) {
      response.writeHead(200, { 'Content-Type': 'text/plain' }).end(url.searchParams.get('validationToken'))
      return
    }
    response.writeHead(202).end()
    const body = JSON.parse(Buffer.concat(parts))
    for (const item of body.value) {
      const notification = { ...item, tokens: body.validationTokens, path: url.pathname }
      const wants = waiting.shift()
      if (wants) wants(notification)
      else arrived.push(notification)
    }
  })
})
await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
const endpoint = `https://127.0.0.1:${server.address().port}`
const next = () => arrived.length ? Promise.resolve(arrived.shift()) : new Promise(resolve => waiting.push(resolve))

// List, and page to the end.
for (let n = 0; n < 7; n++) await deliver(`message ${n}`, n)
const since = new Date(Date.now() - 5.5 * 60_000).toISOString()
const first = await client.api(inbox).filter(`receivedDateTime ge ${since}`).orderby('receivedDateTime desc').select('subject,receivedDateTime,from').top(2).get()
assert.equal(first.value.length, 2)
const subjects = []
await new PageIterator(client, first, message => { subjects.push(message.subject); return true }).iterate()
assert.deepEqual(subjects, [0, 1, 2, 3, 4, 5].map(n => `message ${n}`))
assert.equal(first.value[0].from.emailAddress.name, 'Ann Example')
done('list and page')

// Errors are read as Graph's.
for (const [name, code] of [[settings.onPremises, 'MailboxNotEnabledForRESTAPI'], ['nobody@contoso.example', 'ErrorInvalidUser']]) {
  await assert.rejects(client.api(`/users/${name}/messages`).get(), problem => problem.statusCode === 404 && problem.code === code && Boolean(problem.requestId))
}
done('errors')

// It waits as long as it is told, and asks again.
await put('/faults/graph_throttled', { count: 1 })
assert.equal((await client.api(inbox).top(1).get()).value.length, 1)
done('throttled')

// A batch.
const request = (path, id, after) => ({ id, request: new Request(settings.graph + path, { method: 'GET' }), ...(after && { dependsOn: [after] }) })
const ids = (await client.api(inbox).select('id').top(3).get()).value.map(message => message.id)
const batch = new BatchRequestContent([request(`/users/${box}/messages/${ids[0]}`, '1'), request(`/users/${box}/messages/${ids[1]}`, '2', '1'), request(`/users/${settings.onPremises}/messages/${ids[2]}`, '3', '2')])
const answers = new BatchResponseContent(await client.api('/$batch').post(await batch.getContent()))
assert.deepEqual(['1', '2', '3'].map(id => answers.getResponseById(id).status), [200, 200, 404])
assert.equal((await answers.getResponseById('2').json()).subject, 'message 1')
done('batch')

// Subscribe; the callback; read what it names.
const later = hours => new Date(Date.now() + hours * 3_600_000).toISOString()
const subscribe = more => client.api('/subscriptions').header('Prefer', 'IdType="ImmutableId"').post({
  changeType: 'created', notificationUrl: endpoint + '/change', lifecycleNotificationUrl: endpoint + '/lifecycle',
  resource: `/users/${box}/mailFolders('inbox')/messages`, expirationDateTime: later(24 * 6), clientState: 'a secret', ...more,
})
const subscription = await subscribe()
assert.equal(subscription.clientState, null)
await assert.rejects(subscribe(), problem => problem.statusCode === 409 && problem.message.includes(subscription.id))
await deliver('message by callback')
const notification = await next()
assert.equal(notification.subscriptionId, subscription.id)
assert.equal(notification.clientState, 'a secret')
const told = await client.api('/' + notification.resource).header('Prefer', 'IdType="ImmutableId"').get()
assert.equal(told.subject, 'message by callback')
assert.equal(told.id, notification.resourceData.id)
done('subscribe and callback')

// The life of a subscription.
const until = later(24 * 5)
assert.equal(new Date((await client.api('/subscriptions/' + subscription.id).patch({ expirationDateTime: until })).expirationDateTime).toISOString(), until)
await client.api(`/subscriptions/${subscription.id}/reauthorize`).post({})
assert.equal((await client.api('/subscriptions').get()).value.length, 1)
await put('/faults/graph_reauthorize', {})
const lifecycle = await next()
assert.deepEqual([lifecycle.lifecycleEvent, lifecycle.path], ['reauthorizationRequired', '/lifecycle'])
await client.api('/subscriptions/' + subscription.id).delete()
done('renew, reauthorize, delete')

// Content: encrypted for a certificate, and proven to be Microsoft's by a token.
const rich = await subscribe({
  resource: `/users/${box}/mailFolders('inbox')/messages?$select=subject,from,internetMessageId,bodyPreview`, includeResourceData: true,
  encryptionCertificate: settings.content.certificate, encryptionCertificateId: 'one', expirationDateTime: later(23),
})
await deliver('message with content')
const sealed = await next()
assert.equal(sealed.subscriptionId, rich.id)
const { data, dataKey, dataSignature, encryptionCertificateId } = sealed.encryptedContent
assert.equal(encryptionCertificateId, 'one')
const key = crypto.privateDecrypt({ key: settings.content.key, padding: crypto.constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha1' }, Buffer.from(dataKey, 'base64'))
const cipherText = Buffer.from(data, 'base64')
assert.equal(crypto.createHmac('sha256', key).update(cipherText).digest('base64'), dataSignature)
const decipher = crypto.createDecipheriv('aes-256-cbc', key, key.subarray(0, 16))
const content = JSON.parse(Buffer.concat([decipher.update(cipherText), decipher.final()]))
assert.equal(content.subject, 'message with content')
assert.equal(content.from.emailAddress.address, 'ann@fabrikam.example')
assert.equal(content.bodyPreview, 'Hello from message with content.')

const configuration = await (await fetch(`${settings.authority}/${settings.tenant}/v2.0/.well-known/openid-configuration`)).json()
const { keys } = await (await fetch(configuration.jwks_uri)).json()
assert.equal(sealed.tokens.length, 1)
const [head, claims, signature] = sealed.tokens[0].split('.')
const jwk = keys.find(candidate => candidate.kid === JSON.parse(Buffer.from(head, 'base64url')).kid)
assert.ok(crypto.verify('sha256', Buffer.from(`${head}.${claims}`), crypto.createPublicKey({ key: jwk, format: 'jwk' }), Buffer.from(signature, 'base64url')))
const said = JSON.parse(Buffer.from(claims, 'base64url'))
assert.deepEqual([said.aud, said.appid, said.tid], [settings.clientID, '0bf30f3b-4a52-48df-9a82-234910c4a086', settings.tenant])
assert.ok(said.exp * 1000 > Date.now())
done('decrypt')

assert.ok(tokens > 10)
server.close()
server.closeAllConnections()
