// The gateway's page in a document that is as small as it can be: what it sends after Stop, Retry
// and "Start over", what it says of a session, and what becomes of Markdown.
// node serving/tests/page/page.mjs serving/src/gateway/page

import assert from "node:assert";
import { readFileSync } from "node:fs";
import vm from "node:vm";

const SCRIPTS = ["markdown.js", "panel.js", "progress.js", "page.js"];

class Node {
  constructor(localName) {
    Object.assign(this, {
      localName, value: "", defaultValue: "", hidden: false, disabled: false, open: false,
      className: "", dataset: {}, style: {}, childNodes: [], listeners: {}, attributes: {},
      validity: { valid: true }, scrollHeight: 0, scrollTop: 0, clientHeight: 0,
    });
    this.classList = {
      add: (name) => (this.className += ` ${name}`),
      toggle: (name, on) => (this.className = on ? name : ""),
    };
  }
  set textContent(text) { this.childNodes = [text]; }
  get textContent() { return this.childNodes.map((child) => child.textContent ?? child).join(""); }
  get valueAsNumber() { return Number(this.value); }
  append(...children) {
    for (const child of children) {
      child.remove?.();
      if (typeof child === "object") child.parent = this;
      this.childNodes.push(child);
    }
  }
  remove() {
    const { parent } = this;
    if (parent) parent.childNodes = parent.childNodes.filter((node) => node !== this);
    this.parent = null;
  }
  replaceChildren(...children) { this.childNodes = []; this.append(...children); }
  querySelector(selector) { return this.find((node) => `.${node.className}` === selector); }
  find(is) {
    for (const child of this.childNodes.filter((child) => child instanceof Node)) {
      const found = is(child) ? child : child.find(is);
      if (found) return found;
    }
  }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  setAttribute(name, value) { this.attributes[name] = value; }
  removeAttribute(name) { delete this[name]; }
  focus() {}
  click() { this.listeners.click({ preventDefault() {} }); }
  get html() {
    const inside = this.childNodes.map((child) => child.html ?? child).join("");
    return `<${this.localName}>${inside}</${this.localName}>`;
  }
}

const SERVER = {
  role: "server", address: "https://owner.example#0a0b", is_here: false, encrypted: true,
  bytes_sent: 3 << 20, bytes_received: 2048,
};
const DEALER = { ...SERVER, role: "dealer", address: "https://third.example" };
const STATUS = {
  state: "ready", reason: null, model: "m", setting: "dealer", e0: "client", rounding: "exact",
  public_layers: 2, private_layers: 3, max_positions: 512, chat_template: true, samples: true,
  keeps_sessions: true, warnings: [], api_key: true, parties: [SERVER, DEALER],
  sessions: { active: 0, waiting: 0, limit: 2, kept: 0 }, answers: [],
};

function page(status = STATUS) {
  const nodes = {};
  const requests = [];
  const answers = [];
  const documentListeners = {};
  const $ = (id) => (nodes[id] ??= new Node(id));
  $("length").value = $("length").defaultValue = "256";
  $("temperature").value = $("temperature").defaultValue = "0";
  const fetch = (address, options) => {
    if (address === "/status") {
      if (!status) return Promise.reject(new TypeError("no connection"));
      return Promise.resolve({ ok: true, json: async () => structuredClone(status) });
    }
    const answer = {};
    answer.tokens = new ReadableStream({ start: (controller) => (answer.stream = controller) });
    const response = new Promise((resolve, reject) => {
      answer.open = () => resolve({ ok: true, body: answer.tokens });
      answer.refuse = (message, headers = {}) => resolve({
        ok: false, headers: new Headers(headers), json: async () => ({ error: { message } }),
      });
      options.signal.addEventListener("abort", () => {
        const error = new DOMException("", "AbortError");
        reject(error);
        answer.stream.error(error);
      });
    });
    answer.send = (event) => {
      const line = `data: ${JSON.stringify({ id: "a1", choices: [], ...event })}\n\n`;
      answer.stream.enqueue(new TextEncoder().encode(line));
    };
    answer.say = (content) => answer.send({ choices: [{ delta: { content } }] });
    answer.end = () => {
      answer.send({ choices: [{ delta: {}, finish_reason: "stop" }] });
      answer.stream.close();
    };
    requests.push(JSON.parse(options.body));
    answers.push(answer);
    return response;
  };
  const document = {
    title: "", getElementById: $, createElement: (name) => new Node(name),
    addEventListener: (name, listener) => (documentListeners[name] = listener),
  };
  const known = {
    document, fetch, AbortController, AbortSignal, DOMException, TextDecoderStream, ReadableStream,
    JSON, performance, setInterval() {}, setTimeout() {}, requestAnimationFrame: (show) => show(),
    ResizeObserver: class { observe() {} },
  };
  vm.createContext(known);
  for (const script of SCRIPTS) {
    vm.runInContext(readFileSync(`${process.argv[2]}/${script}`, "utf8"), known);
  }
  const ask = (text) => {
    $("prompt").value = text;
    $("composer").listeners.submit({ preventDefault() {} });
  };
  const press = (key) => documentListeners.keydown({ key });
  const become = async (other) => {
    status = other;
    await vm.runInContext("look()", known);
  };
  const sent = { at: (k) => requests[k]?.messages, get length() { return requests.length; } };
  const run = (code) => vm.runInContext(code, known);
  return { $, sent, requests, answers, ask, press, become, run, document };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 20));
const user = (content) => ({ role: "user", content });
const assistant = (content) => ({ role: "assistant", content });
// Objects of the page's own world.
const plain = (found) => JSON.parse(JSON.stringify(found));
const same = (found, expected) => assert.deepStrictEqual(plain(found), expected);
const whole = async (answer, text) => {
  answer.open();
  answer.say(text);
  answer.end();
  await settled();
};
const retry = ($) => $("conversation").find((node) => node.className === "retry");

const TESTS = {
  async "an ordinary conversation is sent whole"() {
    const { $, sent, requests, answers, ask } = page();
    await settled();
    ask("one");
    assert.strictEqual($("send").textContent, "Stop");
    await whole(answers[0], "eins");
    assert.strictEqual($("send").textContent, "Send");
    ask("two");
    same(sent.at(1), [user("one"), assistant("eins"), user("two")]);
    assert.strictEqual(requests[0].max_tokens, 256);
    assert.strictEqual(requests[0].temperature, undefined);
    assert.match($("conversation").textContent, /^Youone.*m.*eins/);
  },

  async "after Start over nothing of the old conversation is sent or seen"() {
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
      same(sent.at(1), [user("two")]);
      assert.doesNotMatch($("conversation").textContent, /one|eins/);
      await whole(answers[1], "zwei");
      ask("three");
      same(sent.at(2), [user("two"), assistant("zwei"), user("three")]);
    }
  },

  async "a question that is stopped before its answer goes back to be edited"() {
    for (const stop of [({ $ }) => $("send").click(), ({ press }) => press("Escape")]) {
      const world = page();
      const { $, sent, answers, ask } = world;
      ask("one");
      stop(world);
      await settled();
      assert.strictEqual($("prompt").value, "one");
      assert.strictEqual($("send").textContent, "Send");
      ask("two");
      same(sent.at(1), [user("two")]);
      answers[1].open();
      answers[1].say("zw");
      await settled();
      stop(world);
      await settled();
      ask("three");
      same(sent.at(2), [user("two"), assistant("zw"), user("three")]);
    }
  },

  async "a refused question is asked again by Retry alone"() {
    const { $, sent, answers, ask } = page();
    ask("one");
    answers[0].refuse("no free slot", { "retry-after": "90" });
    await settled();
    assert.match($("conversation").textContent, /no free slot \(to be tried again in 1 min 30 s\)/);
    retry($).click();
    same(sent.at(1), [user("one")]);
    assert.doesNotMatch($("conversation").textContent, /no free slot/);
    answers[1].refuse("no slot at all");
    await settled();
    ask("two");
    same(sent.at(2), [user("two")]);
    assert.strictEqual(retry($), undefined);
    await whole(answers[2], "zwei");
    assert.match($("conversation").textContent, /not answered, and not sent again/);
  },

  async "an answer that breaks off is kept, and replaced by Retry"() {
    const { $, sent, answers, ask } = page();
    ask("one");
    await whole(answers[0], "eins");
    ask("two");
    answers[1].open();
    answers[1].say("zw");
    answers[1].send({ error: { message: "the server is gone" } });
    await settled();
    assert.match($("conversation").textContent, /zw.*the server is gone/);
    retry($).click();
    same(sent.at(2), [user("one"), assistant("eins"), user("two")]);
    answers[2].open();
    answers[2].say("zwei");
    answers[2].stream.close();
    await settled();
    assert.match($("conversation").textContent, /zwei.*the answer broke off/);
    ask("three");
    const before = [user("one"), assistant("eins"), user("two"), assistant("zwei")];
    same(sent.at(3), [...before, user("three")]);
  },

  async "settings hold from the next question on"() {
    const { $, sent, requests, ask, answers } = page();
    await settled();
    $("length").value = "12";
    $("temperature").value = "0.7";
    $("system").value = " Be brief. ";
    $("settings").listeners.close();
    assert.match($("banner").textContent, /can choose them/);
    ask("one");
    same(sent.at(0), [{ role: "system", content: "Be brief." }, user("one")]);
    assert.strictEqual(requests[0].max_tokens, 12);
    assert.strictEqual(requests[0].temperature, 0.7);
    await whole(answers[0], "eins");
    Object.assign($("length"), { value: "-3", validity: { valid: false } });
    $("settings").listeners.close();
    assert.strictEqual($("length").value, "12");
  },

  async "a session is called private only where it can be"() {
    const said = async (status) => {
      const { $ } = page(status);
      await settled();
      return `${$("state").textContent}: ${$("session").textContent}`;
    };
    const private_ = /^ready: private session with owner.example: two parties and a dealer/;
    assert.match(await said(STATUS), private_);
    for (const code of ["one_machine", "one_host"]) {
      const message = "everything can be read";
      const { $ } = page({ ...STATUS, warnings: [{ code, message }] });
      await settled();
      assert.strictEqual($("banner").hidden, false);
      assert.match($("banner").textContent, /^Everything can be read/);
      assert.doesNotMatch($("session").textContent, /private/);
    }
    const gone = await said({ ...STATUS, state: "lost", reason: "the dealer is not ready" });
    assert.strictEqual(gone, "lost: no session now: the dealer is not ready");
    assert.strictEqual(await said(null), "lost: the gateway does not answer");
    const sessions = { active: 2, waiting: 1, limit: 2, kept: 0 };
    const busy = await said({ ...STATUS, state: "busy", sessions });
    assert.match(busy, /^busy: .*2 of 2 sessions run, 1 wait/);
  },

  async "a gateway that is gone is lost, and comes back"() {
    const { $, become, document } = page();
    await settled();
    assert.strictEqual(document.title, "m · Marill");
    await become(null);
    assert.strictEqual($("state").textContent, "lost");
    assert.match($("session").textContent, /the gateway does not answer/);
    await become(STATUS);
    assert.strictEqual($("state").textContent, "ready");
  },

  async "the panel names who takes part, where, with which key and bytes"() {
    const told = async (more) => {
      const { $, run } = page({ ...STATUS, ...more });
      await settled();
      $("panel").showModal = () => {};
      $("open-panel").click();
      run("0");
      return $("panel-text").childNodes.map((node) => node.textContent).join("\n");
    };
    const dealer = await told({});
    assert.match(dealer, /first 2 layers; its half of the other 3 layers/);
    assert.match(dealer, /https:..owner.example \(TLS, certificate pinned\)/);
    assert.match(dealer, /3.00 MiB sent to it, 2.0 KiB received/);
    assert.match(dealer, /key.*yours is sent to it, and to nobody else/);
    assert.match(dealer, /Dealer.*early or while the session runs/);
    const three = await told({ setting: "3pc", api_key: false });
    assert.match(three, /Dealer.*in every session while it runs/);
    assert.match(three, /keynone is sent/);
    const two = await told({ setting: "2pc", parties: [SERVER], keeps_sessions: false });
    assert.doesNotMatch(two, /Dealer|of one conversation/);
    assert.match(two, /There is no dealer.*a server that deviates may read the conversation/);
    const party = await told({ e0: "party", parties: [SERVER, { ...DEALER, role: "party" }] });
    assert.match(party, /of the other 3 layers nothing/);
    assert.match(party, /Computing party.*https:..third.example/);
    assert.match(party, /Dealer.*this machine does not talk to it/);
  },

  async "phases are told with the part that is done"() {
    const { $, answers, ask, become } = page();
    await settled();
    ask("one");
    const sessions = { active: 2, waiting: 1, limit: 2, kept: 0 };
    await become({ ...STATUS, sessions });
    assert.strictEqual($("phase").textContent, "waiting for a free session");
    await become(STATUS);
    assert.strictEqual($("phase").textContent, "opening a session");
    assert.strictEqual($("meter").value, undefined);
    answers[0].open();
    answers[0].send({ choices: [{ delta: { role: "assistant", content: "" } }] });
    await settled();
    const answer = {
      id: "a1", phase: "prefill", phase_seconds: 3, tokens: 0, bytes: 30 << 20,
      expected_bytes: 120 << 20, expected_rounds: 1346,
    };
    const other = { ...answer, id: "a2", phase: "token", tokens: 9 };
    await become({ ...STATUS, answers: [other, answer] });
    assert.strictEqual(
      $("phase").textContent,
      "computing the prompt: 30.0 MiB of 120.0 MiB, 1,346 rounds, about 9 s left",
    );
    assert.strictEqual($("meter").value, 0.25);
    assert.strictEqual($("announcement").textContent, "computing the prompt");
    await become({ ...STATUS, answers: [{ ...answer, is_estimate: true }] });
    assert.match($("phase").textContent, /30.0 MiB of about 120.0 MiB/);
    await become({ ...STATUS, answers: [{ ...answer, bytes: 130 << 20, is_estimate: true }] });
    assert.strictEqual($("meter").value, undefined);
    assert.match($("phase").textContent, /130.0 MiB so far/);
    await become({ ...STATUS, answers: [{ ...answer, expected_bytes: null }] });
    assert.strictEqual($("meter").value, undefined);
    assert.match($("phase").textContent, /30.0 MiB so far/);
    await become({ ...STATUS, answers: [{ ...answer, phase: "token", tokens: 64 }] });
    assert.strictEqual($("phase").textContent, "token 64 of at most 256");
    assert.strictEqual($("meter").value, 0.25);
    answers[0].say("eins");
    answers[0].end();
    await settled();
    assert.strictEqual($("progress").hidden, true);
    assert.strictEqual($("announcement").textContent, "The answer: eins");
  },

  async "an answer says what it cost"() {
    const { run } = page();
    const marill = {
      rounds: 12345, bytes_sent: 3 << 20, bytes_received: 1 << 20, prefill_seconds: 2.1,
      decode_seconds: 3, decode_steps: 20, offline_bytes: 2 << 20,
    };
    const prompt_tokens_details = { cached_tokens: 12 };
    const usage = { prompt_tokens: 40, completion_tokens: 21, prompt_tokens_details };
    const told = run("costOf")(marill, usage, "length");
    for (const part of [
      "21 tokens", "limit of its length", "prompt 2.10 s", "0.15 s per token", "4.00 MiB",
      "12,345 rounds", "2.00 MiB of it made ahead", "12 of the prompt's 40 tokens",
    ]) assert.ok(told.includes(part), `${part} in ${told}`);
  },

  async "Markdown becomes elements, and markup stays text"() {
    const { run } = page();
    const of = (text) => run("markdown")(text).map((node) => node.html).join("");
    for (const [text, html] of [
      ["a **b** *c* `d` ~~e~~", "<p>a <strong>b</strong> <em>c</em> <code>d</code> <s>e</s></p>"],
      ["snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"],
      ["# One\ntext\nline", "<h3>One</h3><p>text<br></br>line</p>"],
      ["- a\n- b\n  1. c\n\nd", "<ul><li>a</li><li>b<ol><li>c</li></ol></li></ul><p>d</p>"],
      ["> q\n> r\n\n---", "<blockquote><p>q<br></br>r</p></blockquote><hr></hr>"],
      ["```js\nlet *a*;\n\n# c\n```\nd", "<pre><code>let *a*;\n\n# c</code></pre><p>d</p>"],
      ["```\nopen", "<pre><code>open</code></pre>"],
      ["|a|b|\n|-|-|\n|1|**2**|", "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr>"
        + "<td>1</td><td><strong>2</strong></td></tr></tbody></table>"],
      ["[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"],
      ["[x](https://a.example/?q=1)", "<p>x <code>https://a.example/?q=1</code></p>"],
      ["![x](https://a.example/p.png)", "<p>x <code>https://a.example/p.png</code></p>"],
      ["\\*a\\*", "<p>*a*</p>"],
      ["**open `half", "<p>**open `half</p>"],
    ]) assert.strictEqual(of(text), html, text);
    const markup = "<script>x</script> <img src=x onerror=y> [a](data:text/html,b) <a href=c>d</a>";
    const hostile = `${markup}\n\n${"> ".repeat(500)}${"**a ".repeat(500)}`;
    const elements = [];
    const walk = (node) => (node.childNodes ?? []).forEach((child) => {
      if (child.localName) elements.push(child.localName);
      walk(child);
    });
    walk({ childNodes: run("markdown")(hostile) });
    assert.deepStrictEqual([...new Set(elements)].sort(), ["blockquote", "code", "p"]);
  },

  async "any text ends as elements soon"() {
    const { run } = page();
    let seed = 1;
    const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
    const pieces = ["*", "**", "_", "`", "```", "\n", "\n\n", "- ", "1. ", "> ", "|", "|-|-|", "[",
      "](", ")", "#", " ", "a", "  ", "~~", "\\"];
    for (let k = 0; k < 300; k += 1) {
      const any = () => pieces[random(pieces.length)];
      const text = Array.from({ length: random(400) }, any).join("");
      const started = performance.now();
      run("markdown")(text);
      assert.ok(performance.now() - started < 2000, JSON.stringify(text));
    }
  },
};

for (const [name, test] of Object.entries(TESTS)) {
  try {
    await test();
  } catch (error) {
    console.error(`failed: ${name}`);
    throw error;
  }
}
console.log(`${Object.keys(TESTS).length} tests of the page passed`);
