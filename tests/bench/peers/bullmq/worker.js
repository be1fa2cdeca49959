const { Worker } = require('bullmq');

const [concurrency] = process.argv.slice(2);
const connection = { url: process.env.REDIS_URL, maxRetriesPerRequest: null };
new Worker('noop', async () => 1, { connection, concurrency: Number(concurrency) });
