// What a script of one's own does: FLORA's official library, one loop a run, a question each INTERVAL ms.
// node official_loop.cjs TECHNIQUE INTERVAL FILE_OF_RUN_IDS
'use strict';
const fs = require('node:fs');
const { FLORA } = require('@flora-ai/flora');

const [technique, interval, file] = process.argv.slice(2);
const client = new FLORA();

async function follow(runId) {
  for (;;) {
    try {
      const run = await client.techniques.runs.retrieve(runId, { techniqueId: technique });
      if (run.status === 'completed' || run.status === 'failed') return;
    } catch (error) {
      if (!(error && error.status)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, Number(interval)));
  }
}

const runIds = fs.readFileSync(file, 'utf8').split('\n').filter(Boolean);
Promise.all(runIds.map(follow)).catch((error) => {
  console.error(error);
  process.exit(1);
});
