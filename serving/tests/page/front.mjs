// A gateway's page with answers that a test decides: everything is the gateway's own, headers
// included, but for the addresses that are scripted.

import { createServer, request } from "node:http";

// Passes a request on to the gateway.
function forward(gateway, from, to, body) {
  const { hostname, port } = new URL(gateway);
  const headers = { ...from.headers, host: `localhost:${port}` };
  const options = { hostname, port, path: from.url, method: from.method, headers };
  const there = request(options, (answer) => {
    to.writeHead(answer.statusCode, answer.headers);
    answer.pipe(to);
  });
  there.on("error", () => to.destroy());
  to.on("close", () => there.destroy());
  there.end(body);
}

// An answer in the making, which its test goes on with.
class Answer {
  constructor(id, body, response) {
    Object.assign(this, { id, body, response, isGone: false });
    response.on("close", () => (this.isGone = !response.writableEnded));
  }
  open() {
    if (this.response.headersSent) return;
    this.response.writeHead(200, { "content-type": "text/event-stream" });
    this.send({ choices: [{ delta: { role: "assistant", content: "" }, finish_reason: null }] });
  }
  send(event) {
    this.response.write(`data: ${JSON.stringify({ id: this.id, choices: [], ...event })}\n\n`);
  }
  say(content) {
    this.send({ choices: [{ delta: { content }, finish_reason: null }] });
  }
  end() {
    const marill = {
      rounds: 1200, bytes_sent: 1 << 20, bytes_received: 1 << 20, prefill_seconds: 1,
      decode_seconds: 1, decode_steps: 10, offline_bytes: null,
    };
    this.send({ choices: [{ delta: {}, finish_reason: "stop" }], marill });
    this.response.end("data: [DONE]\n\n");
  }
  refuse(status, message, headers = {}) {
    this.response.writeHead(status, { "content-type": "application/json", ...headers });
    this.response.end(JSON.stringify({ error: { message } }));
  }
}

export class Front {
  // Bodies of all questions, and answers that wait to be scripted.
  questions = [];
  answers = [];
  isScripted = false;
  // What `/status` says beyond the gateway's own words; null: nothing answers.
  status = {};

  static async start(gateway) {
    const front = new Front();
    front.gateway = gateway;
    front.server = createServer((from, to) => front.serve(from, to).catch(() => to.destroy()));
    await new Promise((listening) => front.server.listen(0, "127.0.0.1", listening));
    front.url = `http://127.0.0.1:${front.server.address().port}/`;
    return front;
  }

  async serve(from, to) {
    let body = "";
    for await (const chunk of from) body += chunk;
    if (from.url === "/v1/chat/completions") {
      this.questions.push(JSON.parse(body));
      if (this.isScripted) {
        const answer = new Answer(`scripted-${this.questions.length}`, JSON.parse(body), to);
        return void this.answers.push(answer);
      }
    }
    if (from.url === "/status" && this.status === null) return void to.destroy();
    if (from.url === "/status" && Object.keys(this.status).length) {
      const told = await (await fetch(new URL("/status", this.gateway))).json();
      to.writeHead(200, { "content-type": "application/json" });
      return void to.end(JSON.stringify({ ...told, ...this.status }));
    }
    forward(this.gateway, from, to, body);
  }

  reset() {
    Object.assign(this, { questions: [], answers: [], isScripted: false, status: {} });
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }
}
