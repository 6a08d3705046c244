"use strict";

const $ = (id) => document.getElementById(id);
const messages = [];
let running = null;

function say(role, text) {
  const article = document.createElement("article");
  article.className = role;
  article.textContent = text;
  $("conversation").append(article);
  return article;
}

function note(article, text) {
  const small = document.createElement("small");
  small.textContent = text;
  article.append(small);
}

function fail(text) {
  $("state").textContent = text;
  $("state").className = "bad";
}

async function connect() {
  try {
    const health = await (await fetch("/health")).json();
    const settings = { "dealer": "two parties and a dealer", "3pc": "two parties and a helper" };
    const setting = settings[health.setting] || health.setting;
    $("state").className = "";
    const evaluator = health.e0 === "operator" ? ", with an evaluator of its own" : "";
    const coins = health.rounding === "stochastic" ? ", rounding by coins" : "";
    $("state").textContent = `private session with ${health.server}, ${setting}${evaluator}, semi-honest${coins}; model ${health.model}`;
    $("here").textContent = `text and tokens, the embedding and the first ${health.public_layers} layers; its half of the rest`;
    $("there").textContent = `its half of the other ${health.private_layers} layers, with its private adapter`;
  } catch {
    fail("the gateway does not answer");
  }
}

function cost(marill, tokens) {
  const mib = (marill.bytes_sent + marill.bytes_received) / 1048576;
  const each = marill.decode_steps ? (marill.decode_seconds / marill.decode_steps).toFixed(2) + " s a token" : "one token";
  return `${tokens} tokens; prompt ${marill.prefill_seconds.toFixed(2)} s, then ${each}; ${mib.toFixed(1)} MiB, ${marill.rounds} rounds`;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const block = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      for (const line of block.split("\n")) {
        if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
      }
    }
  }
}

async function ask() {
  running = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  $("phase").textContent = "correlations";
  const article = say("assistant", "");
  const body = document.createTextNode("");
  article.append(body);
  let tokens = 0;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ messages, stream: true }),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    $("phase").textContent = "prefill";
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices[0]?.delta?.content;
      if (delta) {
        tokens += 1;
        body.data += delta;
        $("phase").textContent = `token ${tokens}`;
      }
      if (event.marill) note(article, cost(event.marill, event.marill.decode_steps + 1));
    }
  } catch (error) {
    note(article, error.name === "AbortError" ? "stopped" : error.message);
    if (error.name !== "AbortError" && !body.data) messages.pop();
  }
  if (body.data) messages.push({ role: "assistant", content: body.data });
  running = null;
  $("phase").textContent = "";
  $("send").disabled = false;
  $("stop").disabled = true;
  $("prompt").focus();
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || running) return;
  $("prompt").value = "";
  messages.push({ role: "user", content: text });
  say("user", text);
  ask();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  $("conversation").replaceChildren();
  $("prompt").focus();
});
connect();
