"use strict";

const $ = (id) => document.getElementById(id);
// What is sent with the next question. "Start over" puts another one in its place: an answer that
// still comes belongs to the old one, and changes nothing here any more.
let conversation = { messages: [] };
// The answer that is being made, of whichever conversation.
let running = null;
// What the gateway said last.
let live = null;
// Whether the conversation is followed to its end: until its reader scrolls up.
let follows = true;
// What becomes of an answer that failed once something else is asked.
let leave = null;

const IDLE_PAUSE = 3000;
const BUSY_PAUSE = 500;
const PATIENCE = 10000;
// The gateway says something every ten seconds, once an answer has its session; before that it may
// wait for its turn, here and at the server.
const SILENCE = 60000;
const TURN = 600000;

// ---- What is seen

function button(name, text, act) {
  const made = element("button", text);
  made.type = "button";
  made.className = name;
  made.addEventListener("click", act);
  return made;
}

// Only what is new, since a screen reader says it aloud.
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function say(role, name) {
  const article = element("article");
  article.className = role;
  article.setAttribute("aria-label", name);
  const head = element("div", element("h2", name));
  head.className = "head";
  const text = element("div");
  text.className = "text";
  article.append(head, text);
  $("empty").hidden = true;
  $("conversation").append(article);
  return { article, head, text };
}

function note(article, kind, text) {
  const made = element("p", text);
  made.className = kind;
  article.append(made);
  follow();
}

function follow() {
  const scroller = $("scroller");
  if (follows) scroller.scrollTop = scroller.scrollHeight;
  const below = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  $("newest").hidden = follows || below < 40;
}

async function copy(text, where) {
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    said = "Not copied";
  }
  const before = where.dataset.name ??= where.textContent;
  where.textContent = said;
  $("announcement").textContent = said;
  setTimeout(() => (where.textContent = before), 2000);
}

function idle() {
  running = null;
  $("progress").hidden = true;
  showButton();
  showState();
}

function showButton() {
  put($("send"), running ? "Stop" : "Send");
  $("send").classList.toggle("stop", running !== null);
}

// ---- The state of the services, looked at again and again: they may go, and come back

async function look() {
  try {
    const response = await fetch("/status", { signal: AbortSignal.timeout(PATIENCE) });
    if (!response.ok) throw await refusal(response);
    live = await response.json();
  } catch (error) {
    const reason = error.isRefusal ? error.message : "the gateway does not answer";
    live = { ...live, state: "lost", reason, answers: [] };
  }
  showState();
  showProgress();
}

async function watch() {
  await look();
  setTimeout(watch, running ? BUSY_PAUSE : IDLE_PAUSE);
}

function showState() {
  if (!live) return;
  const state = running && live.state === "ready" ? "busy" : live.state;
  $("state").dataset.state = state;
  put($("state"), state);
  if (!live.parties) return put($("session"), live.reason);
  put($("model"), live.model);
  document.title = `${live.model} · Marill`;
  put($("session"), stateLine(live));
  $("length").max = live.max_positions;
  if ($("length").valueAsNumber > live.max_positions) $("length").value = live.max_positions;
  $("temperature").disabled = !live.samples;
  showBanner();
}

function showBanner() {
  const warnings = live.warnings.map((warning) => warning.message);
  if (live.samples && settings().temperature > 0) {
    warnings.push("tokens are sampled: a server that deviates from the protocol can choose them");
  }
  const sentences = warnings.map((text) => text[0].toUpperCase() + text.slice(1));
  // A banner that is written again is said again.
  if ($("banner").dataset.said === sentences.join()) return;
  $("banner").dataset.said = sentences.join();
  $("banner").replaceChildren(...sentences.map((text) => element("p", text)));
  $("banner").hidden = !sentences.length;
}

function showProgress() {
  if (!running) return;
  const answer = live?.answers?.find((answer) => answer.id === running.id);
  // The gateway tells a moment later that the first token is there.
  if (!answer && running.id) return showElapsed();
  const { phase, text, part } = progressOf(answer, live, running.length);
  if (running.phase !== phase) {
    running.phase = phase;
    $("announcement").textContent = phase;
  }
  put($("phase"), text ?? phase);
  if (part === undefined) $("meter").removeAttribute("value");
  else $("meter").value = part;
  showElapsed();
}

function showElapsed() {
  if (!running) return;
  const now = performance.now();
  put($("elapsed"), duration((now - running.began) / 1000));
  running.isSilent = now - running.heard > (running.id ? SILENCE : TURN);
  if (running.isSilent) stopAnswer();
}

// ---- Settings, which nothing keeps

function settings() {
  return {
    length: $("length").valueAsNumber,
    temperature: $("temperature").disabled ? 0 : $("temperature").valueAsNumber,
    system: $("system").value.trim(),
  };
}

// Whoever leaves with something that is no setting keeps the one before.
function settle() {
  for (const input of [$("length"), $("temperature")]) {
    if (input.validity.valid) input.defaultValue = input.value;
    else input.value = input.defaultValue;
  }
  showState();
}

// ---- Questions and answers

// `heard` is called with every piece, also with those that only say that the gateway lives.
async function* events(response, heard) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const block = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      for (const line of block.split("\n")) {
        if (line === "data: [DONE]") return;
        if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
      }
    }
  }
}

async function refusal(response) {
  const { error } = await response.json();
  const wait = response.headers.get("retry-after");
  const again = wait ? ` (to be tried again in ${duration(+wait)})` : "";
  return Object.assign(new Error(error.message + again), { isRefusal: true });
}

// What is asked for: the conversation so far, under the settings of now.
function query(messages) {
  const { length, temperature, system } = settings();
  const instructions = system ? [{ role: "system", content: system }] : [];
  const body = {
    messages: [...instructions, ...messages], max_tokens: length,
    stream: true, stream_options: { include_usage: true },
  };
  return temperature > 0 && live?.samples ? { ...body, temperature } : body;
}

// Shows an answer that grows, once a frame at the most.
function growing(text) {
  let said = "";
  let isDue = false;
  const show = () => {
    isDue = false;
    text.replaceChildren(...markdown(said));
    follow();
  };
  return {
    add(more) {
      said += more;
      if (!isDue) requestAnimationFrame(show);
      isDue = true;
    },
    end: show,
    get said() { return said; },
  };
}

// Reads an answer to its end: what it cost, with the reason why it ended.
async function read(response, answer, shown) {
  let cost = null;
  let usage = null;
  let finish = null;
  const heard = () => (answer.heard = performance.now());
  for await (const event of events(response, heard)) {
    if (answer.control.signal.aborted) throw new DOMException("", "AbortError");
    if (event.error) throw new Error(event.error.message);
    if (!answer.id) {
      answer.id = event.id;
      look();
    }
    const delta = event.choices[0]?.delta?.content;
    if (delta) shown.add(delta);
    finish = event.choices[0]?.finish_reason ?? finish;
    cost = event.marill ?? cost;
    usage = event.usage ?? usage;
  }
  if (!finish) throw new Error("the answer broke off");
  return cost ? costOf(cost, usage, finish) : "";
}

async function ask(question, asked = say("user", "You")) {
  const talk = conversation;
  put(asked.text, question);
  talk.messages.push({ role: "user", content: question });
  const { article, head, text } = say("assistant", live?.model ?? "Model");
  const began = performance.now();
  const control = new AbortController();
  const answer = { control, began, heard: began, length: settings().length, id: null };
  running = answer;
  follows = true;
  const here = () => talk === conversation && running === answer;
  $("progress").hidden = false;
  showButton();
  showState();
  showProgress();
  follow();
  const shown = growing(text);
  let problem = null;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(query(talk.messages)),
      signal: control.signal,
    });
    if (!response.ok) throw await refusal(response);
    note(article, "cost", await read(response, answer, shown));
  } catch (error) {
    problem = answer.isSilent ? new Error("the gateway said nothing any more") : error;
  }
  // Of a conversation that was thrown away nothing is seen or sent any more.
  if (talk !== conversation) return;
  shown.end();
  const isSaid = shown.said !== "";
  if (isSaid) talk.messages.push({ role: "assistant", content: shown.said });
  else talk.messages.pop();
  if (isSaid) {
    const name = button("copy", "Copy", () => copy(shown.said, name));
    name.setAttribute("aria-label", "Copy this answer");
    head.append(name);
  }
  if (problem?.name === "AbortError") stopped(question, asked, article, isSaid);
  else if (problem) failed(problem, { talk, question, asked, article, isSaid });
  else if (!isSaid) note(article, "note", "The answer is empty; the question is not sent again.");
  if (here()) {
    idle();
    $("announcement").textContent = problem ? "" : `The answer: ${shown.said}`;
  }
}

// The question has no answer, so it is not sent again: it goes back to where it was written, unless
// something stands there.
function stopped(question, asked, article, isSaid) {
  if (isSaid) return note(article, "note", "stopped");
  article.remove();
  drop(asked);
  if (!$("prompt").value) $("prompt").value = question;
  fit();
}

function drop(asked) {
  asked.article.classList.add("dropped");
  note(asked.article, "note", "not answered, and not sent again");
}

// What went wrong, in a block of its own, and a way to try it again.
function failed(problem, { talk, question, asked, article, isSaid }) {
  const block = element("div");
  block.className = "error";
  block.setAttribute("role", "alert");
  const retry = button("retry", "Retry", () => {
    if (running || talk !== conversation) return;
    leave = null;
    if (isSaid) talk.messages.splice(-2);
    article.remove();
    ask(question, asked);
  });
  block.append(element("p", problem.message || "the gateway does not answer"), retry);
  if (!isSaid) article.querySelector(".text").remove();
  article.append(block);
  follow();
  // Once something else is asked, there is nothing to go back to.
  leave = () => {
    retry.remove();
    if (!isSaid) drop(asked);
  };
}

function stopAnswer() {
  running?.control.abort();
}

function submit() {
  const text = $("prompt").value.trim();
  if (!text || running) return;
  leave?.();
  leave = null;
  $("prompt").value = "";
  fit();
  ask(text);
  look();
}

// The field grows with what is written; its style sheet says how far.
function fit() {
  const prompt = $("prompt");
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("send").addEventListener("click", (event) => {
  if (!running) return;
  event.preventDefault();
  stopAnswer();
});
$("prompt").addEventListener("input", fit);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => {
  const isOpen = $("panel").open || $("settings").open;
  if (event.key === "Escape" && !isOpen && !event.isComposing) stopAnswer();
});
$("clear").addEventListener("click", () => {
  stopAnswer();
  conversation = { messages: [] };
  leave = null;
  follows = true;
  $("conversation").replaceChildren();
  $("empty").hidden = false;
  $("announcement").textContent = "A new conversation";
  idle();
  follow();
  $("prompt").focus();
});
$("open-panel").addEventListener("click", () => {
  const text = live?.parties ? panelText(live) : ["The gateway does not answer."];
  $("panel-text").replaceChildren(...text);
  $("panel").showModal();
});
$("open-settings").addEventListener("click", () => $("settings").showModal());
$("settings").addEventListener("close", settle);
$("scroller").addEventListener("scroll", () => {
  const { scrollTop, scrollHeight, clientHeight } = $("scroller");
  follows = scrollHeight - scrollTop - clientHeight < 40;
  $("newest").hidden = follows;
});
$("newest").addEventListener("click", () => {
  follows = true;
  follow();
  $("prompt").focus();
});
// What grows around the conversation leaves it less room.
new ResizeObserver(follow).observe($("scroller"));
setInterval(showElapsed, 250);
watch();
$("prompt").focus();
