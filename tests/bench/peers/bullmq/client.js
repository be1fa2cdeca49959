const { Queue, QueueEvents } = require('bullmq');

const connection = { url: process.env.REDIS_URL, maxRetriesPerRequest: null };
const queue = new Queue('noop', { connection });

async function enqueue(tasks) {
  for (let left = tasks; left > 0; left -= 1000) {
    await queue.addBulk(Array.from({ length: Math.min(left, 1000) }, () => ({ name: 'noop', data: {} })));
  }
}

async function rounds() {
  const events = new QueueEvents('noop', { connection });
  await events.waitUntilReady();
  for await (const _ of require('readline').createInterface({ input: process.stdin })) {
    const start = performance.now();
    const job = await queue.add('noop', {});
    await job.waitUntilFinished(events); // told by a blocking read of the queue's stream of events
    console.log(performance.now() - start);
  }
}

const [what, tasks] = process.argv.slice(2);
(what === 'enqueue' ? enqueue(Number(tasks)) : rounds()).then(() => process.exit());
