// Counts words, one job a request. The worker beside it POSTs each job of the queue to /jobs; the status is the outcome.
import { createServer } from "node:http";

const jobs = {
  words({ text }) {
    if (typeof text !== "string") return [422, "give text, such as {\"text\": \"so many words\"}"];
    return [200, `${text.split(/\s+/).filter(Boolean).length} words`];
  },
};

async function answer(request) {
  if (request.url === "/healthz") return [200, "ok"];
  if (request.method !== "POST" || request.url !== "/jobs") return [405, "POST to /jobs"];
  // Names are percent-encoded where they are not plain.
  const name = decodeURIComponent(request.headers["headrace-job-name"] ?? "");
  // 4xx would give the job up; 503 tries again later, when the server that knows it has been deployed.
  if (!Object.hasOwn(jobs, name)) return [503, `no job is called ${name}`];
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let payload;
  try {
    payload = JSON.parse(Buffer.concat(chunks).toString());
  } catch (error) {
    return [400, `the payload is no JSON: ${error.message}`];
  }
  return jobs[name](payload ?? {});
}

const server = createServer(async (request, response) => {
  let status, text;
  try {
    [status, text] = await answer(request);
  } catch (error) {
    [status, text] = [500, error.stack];
  }
  if (request.method === "POST") console.log(`${request.headers["headrace-job-id"]} ${status} ${text}`);
  response.writeHead(status, { "Content-Type": "text/plain; charset=utf-8" }).end(`${text}\n`);
});

// Longer than the worker keeps a connection that it doesn't use: it closes first.
server.keepAliveTimeout = 60_000;
server.listen(Number(process.env.PORT ?? 8000), process.env.HOST, () => console.log("listening", server.address().port));
// The first process of a container has no default for SIGTERM. It comes once the worker has gone.
process.on("SIGTERM", () => server.close());
