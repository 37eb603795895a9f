// Drives FLORA's own TypeScript library against FLORA_BASE_URL, and prints what it saw as one line of JSON.
import http from 'node:http';
import FLORA from '@flora-ai/flora';

const client = new FLORA();
const seen = {};

async function finished(poll) {
  for (;;) {
    const run = await poll();
    if (run.status === 'completed' || run.status === 'failed') return run;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function refused(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.error?.error?.code };
  }
}

const started = await client.techniques.runs.create('campaign', {
  mode: 'async',
  inputs: [{ id: 'prompt', type: 'text', value: 'a mug' }],
});
seen.started = started;
seen.technique = await finished(() =>
  client.techniques.runs.retrieve(started.run_id, { techniqueId: 'campaign' }),
);
seen.retrieved = await client.generations.retrieve(started.run_id);
seen.described = await client.techniques.retrieve('campaign');

const receipt = await client.generations.create({
  type: 'image',
  prompt: 'a mug',
  workspace_id: 'ws_simulator',
  project_id: 'prj_simulator',
});
seen.receipt = receipt;
seen.generation = await finished(() => client.generations.retrieve(receipt.run_id));

seen.listed = [];
for await (const run of client.techniques.runs.list({ limit: 10 })) seen.listed.push(run.run_id);
seen.generations = [];
for await (const run of client.generations.list({ limit: 10 })) seen.generations.push(run.generation_id);
seen.failed = [];
for await (const run of client.techniques.runs.list({ status: 'failed' })) seen.failed.push(run.error_code);

// A webhook, as this library receives one.
const secret = process.env.FLORA_WEBHOOK_SECRET;
const deliveries = [];
const receiver = http.createServer(async (request, response) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  deliveries.push({ body: Buffer.concat(pieces).toString(), headers: request.headers });
  response.writeHead(deliveries.length === 1 ? 500 : 200).end();
});
await new Promise((resolve) => receiver.listen(0, '127.0.0.1', resolve));
const called = await client.techniques.runs.create('campaign', {
  mode: 'async',
  inputs: [],
  callback_url: `http://127.0.0.1:${receiver.address().port}/`,
});
while (deliveries.length < 2) await new Promise((resolve) => setTimeout(resolve, 20));
receiver.close();
seen.called = called.run_id;
seen.events = await Promise.all(
  deliveries.map(({ body, headers }) => client.webhooks.unwrap(body, headers, secret)),
);
seen.forged = await client.webhooks
  .unwrap(deliveries[0].body, deliveries[0].headers, 'whsec_other')
  .catch((error) => error.constructor.name);

const { response } = await client.techniques.retrieve('campaign').withResponse();
seen.requestId = response.headers.get('request-id');
const media = await fetch(seen.technique.outputs[0].url);
seen.bytes = (await media.arrayBuffer()).byteLength;
seen.length = Number(media.headers.get('content-length'));

seen.unauthorized = await refused(() =>
  new FLORA({ apiKey: 'sk_test_wrong', maxRetries: 0 }).generations.retrieve(started.run_id),
);
seen.missing = await refused(() => client.generations.retrieve('run_unknown'));

console.log(JSON.stringify(seen));
