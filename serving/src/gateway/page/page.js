"use strict";

const $ = (id) => document.getElementById(id);
// What is sent with the next question. "Start over" puts another one in its place: an answer that still comes belongs to the
// old one, and changes nothing here any more.
let conversation = { messages: [] };
// The answer that is being made, of whichever conversation.
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

// Only what is new, since a screen reader says it aloud.
function tell(text, isBad) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").className = isBad ? "bad" : "";
}

// What is said about the services is looked at again and again: they may go, and come back.
async function connect() {
  try {
    const health = await (await fetch("/health")).json();
    const ready = await fetch("/ready");
    if (!ready.ok) return tell(`no private session now: ${(await ready.json()).error.message}`, true);
    const settings = { "dealer": "two parties and a dealer", "3pc": "three parties", "2pc": "two parties" };
    const setting = settings[health.setting] || health.setting;
    const party = health.e0 === "operator" ? ", with a separate computing party" : "";
    const rounding = health.rounding === "stochastic" ? ", stochastic rounding" : "";
    const session = `session with ${health.server}, ${setting}${party}, semi-honest${rounding}; model ${health.model}`;
    const others = health.setting === "2pc" ? "the server is" : "server and dealer are";
    const here = `a demonstration: ${others} on this machine, and whoever runs them all can read everything`;
    tell(health.demonstration ? `${here}; ${session}` : `private ${session}`, health.demonstration);
    $("here").textContent = `text and tokens, the embedding and the first ${health.public_layers} layers; its half of the rest`;
    $("there").textContent = `its half of the other ${health.private_layers} layers, with its private adapter`;
  } catch {
    tell("the gateway does not answer", true);
  }
}

function cost(marill, tokens) {
  const mib = (marill.bytes_sent + marill.bytes_received) / 1048576;
  const each = marill.decode_steps ? (marill.decode_seconds / marill.decode_steps).toFixed(2) + " s per token" : "one token";
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

// The question has no answer, so it is not sent again: it goes back to where it was written, unless something stands there.
function takeBack(talk, question, article) {
  talk.messages.pop();
  article.classList.add("dropped");
  if (talk === conversation && !$("prompt").value) $("prompt").value = question;
}

async function ask(question) {
  const talk = conversation;
  const asked = say("user", question);
  talk.messages.push({ role: "user", content: question });
  const control = new AbortController();
  running = control;
  $("send").disabled = true;
  $("stop").disabled = false;
  $("phase").textContent = "correlations";
  const article = say("assistant", "");
  const body = document.createTextNode("");
  article.append(body);
  const here = () => talk === conversation && running === control;
  const phase = (text) => here() && ($("phase").textContent = text);
  let tokens = 0;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ messages: talk.messages, stream: true }),
      signal: control.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    phase("prefill");
    for await (const event of events(response)) {
      if (control.signal.aborted) throw new DOMException("", "AbortError");
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices[0]?.delta?.content;
      if (delta) {
        tokens += 1;
        body.data += delta;
        phase(`token ${tokens}`);
      }
      if (event.marill) note(article, cost(event.marill, event.marill.decode_steps + 1));
    }
  } catch (error) {
    note(article, error.name === "AbortError" ? "stopped" : error.message);
  }
  if (body.data) talk.messages.push({ role: "assistant", content: body.data });
  else takeBack(talk, question, asked);
  if (!here()) return;
  idle();
}

function idle() {
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
  ask(text);
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
  conversation = { messages: [] };
  $("conversation").replaceChildren();
  idle();
});
connect();
setInterval(connect, 10000);
