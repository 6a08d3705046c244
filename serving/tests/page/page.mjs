// The gateway's page in a document that is as small as it can be: what it sends after Stop and after "Start over".
// node serving/tests/page/page.mjs serving/src/gateway/page/page.js

import assert from "node:assert";
import { readFileSync } from "node:fs";
import vm from "node:vm";

class Node {
  constructor(id) {
    Object.assign(this, { id, value: "", disabled: false, className: "", children: [], listeners: {}, own: "" });
    this.classList = { add: (name) => (this.className += ` ${name}`) };
  }
  set textContent(text) { this.own = text; this.children = []; }
  get textContent() { return this.own + this.children.map((child) => child.data ?? child.textContent).join(""); }
  append(child) { this.children.push(child); }
  replaceChildren() { this.children = []; }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  focus() {}
  click() { this.listeners.click(); }
}

function page(health = {}, ready = { ok: true }) {
  const nodes = {};
  const sent = [];
  const answers = [];
  const $ = (id) => (nodes[id] ??= new Node(id));
  const fetch = (address, options) => {
    if (!options) return Promise.resolve(address === "/ready" ? ready : { ok: true, json: async () => health });
    const answer = {};
    answer.tokens = new ReadableStream({ start: (controller) => (answer.stream = controller) });
    const response = new Promise((resolve, reject) => {
      answer.open = () => resolve({ ok: true, body: answer.tokens });
      answer.refuse = (message) => resolve({ ok: false, json: async () => ({ error: { message } }) });
      options.signal.addEventListener("abort", () => {
        const error = new DOMException("", "AbortError");
        reject(error);
        answer.stream.error(error);
      });
    });
    answer.say = (content) => {
      const event = JSON.stringify({ choices: [{ delta: { content } }] });
      answer.stream.enqueue(new TextEncoder().encode(`data: ${event}\n\n`));
    };
    answer.end = () => answer.stream.close();
    sent.push(JSON.parse(options.body).messages);
    answers.push(answer);
    return response;
  };
  const document = {
    getElementById: $,
    createElement: () => new Node(),
    createTextNode: (data) => ({ data }),
  };
  const setInterval = () => {};
  const known = { document, setInterval, fetch, AbortController, DOMException, TextDecoderStream, ReadableStream, JSON };
  vm.runInNewContext(readFileSync(process.argv[2], "utf8"), known);
  const ask = (text) => {
    $("prompt").value = text;
    $("composer").listeners.submit({ preventDefault() {} });
  };
  return { $, sent, answers, ask };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 20));
const user = (content) => ({ role: "user", content });
const assistant = (content) => ({ role: "assistant", content });
// Objects of the page's own world.
const same = (found, expected) => assert.deepStrictEqual(JSON.parse(JSON.stringify(found)), expected);

// An ordinary conversation.
{
  const { sent, answers, ask } = page();
  ask("one");
  answers[0].open();
  answers[0].say("eins");
  answers[0].end();
  await settled();
  ask("two");
  same(sent[1], [user("one"), assistant("eins"), user("two")]);
}
// "Start over" during an answer: nothing of the old conversation is sent, whenever the old answer ends.
for (const when of ["before the first token", "after it", "and it goes on"]) {
  const { $, sent, answers, ask } = page();
  ask("one");
  if (when !== "before the first token") {
    answers[0].open();
    answers[0].say("eins");
    await settled();
  }
  $("clear").click();
  if (when === "and it goes on") ask("two");
  await settled();
  if (when !== "and it goes on") ask("two");
  same(sent[1], [user("two")]);
  answers[1].open();
  answers[1].say("zwei");
  answers[1].end();
  await settled();
  ask("three");
  same(sent[2], [user("two"), assistant("zwei"), user("three")]);
}
// Stop before the first token: the question was thrown away with its answer, and can be edited.
{
  const { $, sent, answers, ask } = page();
  ask("one");
  $("stop").click();
  await settled();
  assert.strictEqual($("prompt").value, "one");
  assert.strictEqual($("send").disabled, false);
  ask("two");
  same(sent[1], [user("two")]);
  answers[1].open();
  answers[1].say("zw");
  await settled();
  $("stop").click();
  await settled();
  ask("three");
  same(sent[2], [user("two"), assistant("zw"), user("three")]);
}
// A refusal: the same.
{
  const { $, sent, answers, ask } = page();
  ask("one");
  answers[0].refuse("no free slot");
  await settled();
  assert.match($("conversation").textContent, /no free slot/);
  ask("two");
  same(sent[1], [user("two")]);
}
// The page claims a private session only where there is one.
{
  const said = async (health, ready) => {
    const { $ } = page(health, ready);
    await settled();
    return [$("state").className, $("state").textContent];
  };
  const elsewhere = { server: "https://example.org", setting: "dealer", model: "m", demonstration: false };
  assert.match((await said(elsewhere)).join(" "), /^ private session with https:..example.org/);
  const here = await said({ ...elsewhere, demonstration: true });
  assert.strictEqual(here[0], "bad");
  assert.match(here[1], /demonstration/);
  assert.doesNotMatch(here[1], /private session/);
  const gone = await said(elsewhere, { ok: false, json: async () => ({ error: { message: "the dealer is not ready" } }) });
  assert.strictEqual(gone[0], "bad");
  assert.match(gone[1], /no private session now: the dealer is not ready/);
}
console.log("the page sends what it should");
