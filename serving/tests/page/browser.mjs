// Drives the page of a gateway that runs, in headless Chromium, wide and narrow, light and dark.
// npm ci --prefix serving/tests/page
// node serving/tests/page/browser.mjs [--brief] http://127.0.0.1:8000 [FOLDER_FOR_SCREENSHOTS]
// --brief leaves out what is the same with every gateway, because its answers are scripted.
// CHROMIUM names a browser that is none of /usr/bin/chromium, chromium-browser, google-chrome.

import assert from "node:assert";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { chromium } from "playwright-core";

import { Front } from "./front.mjs";

const isBrief = process.argv.includes("--brief");
const [gateway, shots] = process.argv.slice(2).filter((argument) => argument !== "--brief");
assert.ok(gateway, "the address of a gateway is needed");
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const HEIGHT = 700;
const PATIENCE = 20000;
// For the gateway's own answers: in the setting 2pc a busy machine takes its time.
const ANSWER_PATIENCE = 300000;

const BROWSERS = ["chromium", "chromium-browser", "google-chrome"];
const found = BROWSERS.map((name) => `/usr/bin/${name}`).find((path) => existsSync(path));
const executablePath = process.env.CHROMIUM ?? found;
assert.ok(executablePath, "there is no Chromium: CHROMIUM names one");
const QUIET = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
  "--disable-background-networking", "--disable-component-update",
];

// ---- What a page is asked

// axe in a world of its own: the page's policy lets no foreign script into its own. What axe cannot
// decide counts as found.
async function violations(page) {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send("Page.getFrameTree");
  const frameId = frameTree.frame.id;
  const world = await session.send("Page.createIsolatedWorld", { frameId, worldName: "axe" });
  const { result } = await session.send("Runtime.evaluate", {
    expression: `${AXE}; axe.run().then(({ violations, incomplete }) => JSON.stringify(
      [...violations, ...incomplete].map(({ id, nodes }) => [id, nodes.map(({ html }) => html)])))`,
    contextId: world.executionContextId, awaitPromise: true, returnByValue: true,
  });
  await session.detach();
  assert.ok(result.value, `axe did not run: ${JSON.stringify(result)}`);
  return JSON.parse(result.value);
}

async function isClean(page, when) {
  assert.deepStrictEqual(await violations(page), [], `axe, ${when}`);
}

// Composer and header are whole inside the window, which itself does not scroll.
async function isInView(page, when) {
  const { width } = page.viewportSize();
  for (const part of ["body > header", "#composer", "#prompt", "#send"]) {
    const box = await page.locator(part).boundingBox();
    const fits = box && box.x >= 0 && box.y >= 0 && box.x + box.width <= width + 0.5
      && box.y + box.height <= HEIGHT + 0.5;
    assert.ok(fits, `${when}: ${part} is at ${JSON.stringify(box)}`);
  }
  const sizes = await page.evaluate(() => {
    const { scrollWidth, scrollHeight, scrollTop } = document.documentElement;
    const scroller = document.getElementById("scroller");
    const inner = scroller.scrollWidth - scroller.clientWidth;
    return { scrollWidth, scrollHeight, scrollTop, inner };
  });
  const wanted = { scrollWidth: width, scrollHeight: HEIGHT, scrollTop: 0, inner: 0 };
  assert.deepStrictEqual(sizes, wanted, when);
}

const scrolled = (page) => page.locator("#scroller").evaluate((scroller) => scroller.scrollTop);

const isAtEnd = (page) => page.evaluate(() => {
  const { scrollTop, scrollHeight, clientHeight } = document.getElementById("scroller");
  return scrollHeight - scrollTop - clientHeight < 3;
});

async function until(what, holds, patience = PATIENCE) {
  const end = Date.now() + patience;
  while (!(await holds())) {
    assert.ok(Date.now() < end, `waited in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

async function ask(page, text) {
  await page.fill("#prompt", text);
  await page.press("#prompt", "Enter");
}

const text = (page, selector) => page.locator(selector).innerText();
const isIdle = async (page) => (await text(page, "#send")) === "Send";

// A question whose answer is scripted.
async function scripted(page, front, question) {
  const before = front.answers.length;
  await ask(page, question);
  await until(`the question ${question}`, () => front.answers.length > before);
  return front.answers.at(-1);
}

async function answered(page, answer, words) {
  answer.open();
  answer.say(words);
  answer.end();
  await until("the end of an answer", () => isIdle(page));
}

const LONG = Array.from({ length: 30 }, (_, k) => `line ${k} of a long answer`).join("\n");

// ---- What holds

const CHECKS = {
  async "seven turns of a real conversation keep the composer in view"(page, front) {
    await page.click("#open-settings");
    await page.fill("#length", "8");
    await page.click("#settings .primary");
    for (let turn = 1; turn <= 7; turn += 1) {
      await ask(page, `q${turn}`);
      const costs = () => page.locator(".cost").count();
      await until(`answer ${turn}`, async () => (await costs()) === turn, ANSWER_PATIENCE);
      await until("the end", () => isIdle(page));
      await isInView(page, `after turn ${turn}`);
      assert.ok(await isAtEnd(page), `the end of turn ${turn} is hidden`);
    }
    const sent = front.questions.at(-1);
    assert.strictEqual(sent.messages.length, 13);
    const roles = sent.messages.map(({ role }) => role);
    assert.deepStrictEqual(roles.slice(-3), ["user", "assistant", "user"]);
    assert.strictEqual(sent.max_tokens, 8);
    assert.match(await text(page, ".cost >> nth=-1"), /tokens? .* MiB|KiB .* rounds/);
    await isClean(page, "after seven turns");
  },

  async "seven long turns are followed, and composer and page stay where they are"(page, front) {
    front.isScripted = true;
    for (let turn = 1; turn <= 7; turn += 1) {
      const answer = await scripted(page, front, `question ${turn}`);
      await answered(page, answer, `${LONG}\n\n**end ${turn}**`);
      await isInView(page, `after turn ${turn}`);
      assert.ok(await isAtEnd(page), `the end of turn ${turn} is hidden`);
    }
    await page.fill("#prompt", LONG);
    await isInView(page, "with a long question");
    assert.ok(await isAtEnd(page), "a long question hides the end");
  },

  async "who scrolls up is left there until they come back"(page, front) {
    front.isScripted = true;
    const answer = await scripted(page, front, "first");
    answer.open();
    answer.say(LONG);
    await until("a long text", async () => (await scrolled(page)) > 50);
    await page.locator("#scroller").evaluate((scroller) => (scroller.scrollTop = 0));
    await page.locator("#newest").waitFor();
    answer.say(`\n${LONG}`);
    answer.end();
    await until("the end", () => isIdle(page));
    assert.strictEqual(await scrolled(page), 0);
    await page.click("#newest");
    assert.ok(await isAtEnd(page) && !(await page.locator("#newest").isVisible()));
  },

  async "two conversations never mix"(page, front) {
    front.isScripted = true;
    const first = await scripted(page, front, "secret one");
    first.open();
    first.say("answer one");
    await page.getByText("answer one").waitFor();
    await page.click("#clear");
    await until("the first answer's end", () => first.isGone);
    const second = await scripted(page, front, "two");
    first.say("more of answer one");
    await answered(page, second, "answer two");
    const all = await text(page, "#conversation");
    assert.ok(all.includes("answer two") && !all.includes("one"), all);
    await scripted(page, front, "three");
    const messages = front.questions.map(({ messages }) => messages.map(({ content }) => content));
    assert.deepStrictEqual(messages, [["secret one"], ["two"], ["two", "answer two", "three"]]);
    // The same with answers of the gateway's own.
    await page.click("#clear");
    front.reset();
    await ask(page, "abc");
    await page.click("#clear");
    await ask(page, "xyz");
    await page.locator(".cost").waitFor({ timeout: ANSWER_PATIENCE });
    assert.deepStrictEqual(front.questions.at(-1).messages, [{ role: "user", content: "xyz" }]);
    assert.doesNotMatch(await text(page, "#conversation"), /abc/);
  },

  async "Stop and Escape end an answer, and the question comes back"(page, front) {
    front.isScripted = true;
    for (const stop of [() => page.click("#send"), () => page.keyboard.press("Escape")]) {
      const answer = await scripted(page, front, "never mind");
      assert.strictEqual(await text(page, "#send"), "Stop");
      assert.match(await text(page, "#phase"), /opening a session/);
      await isInView(page, "during an answer");
      await stop();
      await until("a request that ended", () => answer.isGone);
      assert.strictEqual(await page.inputValue("#prompt"), "never mind");
      assert.ok(await isIdle(page));
      const begun = await scripted(page, front, "begin");
      begun.open();
      begun.say("begun");
      await page.locator(".text", { hasText: "begun" }).last().waitFor();
      await stop();
      await until("a request that ended", () => begun.isGone);
      await page.locator("article >> nth=-1").locator(".note", { hasText: "stopped" }).waitFor();
    }
    await isClean(page, "after stopped answers");
  },

  async "an error stands in a block with Retry"(page, front) {
    front.isScripted = true;
    const refused = await scripted(page, front, "again");
    refused.refuse(503, "the dealer is not ready", { "retry-after": "2" });
    const error = page.locator(".error");
    await error.waitFor();
    assert.match(await error.innerText(), /the dealer is not ready \(to be tried again in 2 s\)/);
    await isInView(page, "with an error");
    await isClean(page, "with an error");
    await page.getByRole("button", { name: "Retry" }).click();
    await until("a second try", () => front.answers.length === 2);
    await answered(page, front.answers[1], "now");
    assert.strictEqual(await error.count(), 0);
    assert.deepStrictEqual(front.questions[1].messages, [{ role: "user", content: "again" }]);
  },

  async "phases are shown with their part of the whole"(page, front) {
    front.isScripted = true;
    const answer = await scripted(page, front, "how far");
    answer.open();
    const told = {
      id: answer.id, phase: "prefill", seconds: 4, phase_seconds: 3, tokens: 0, bytes: 30 << 20,
      expected_bytes: 120 << 20, expected_rounds: 1346,
    };
    front.status = { answers: [told] };
    const part = () => page.locator("#meter").getAttribute("value");
    await until("a bar", async () => (await part()) === "0.25");
    assert.match(await text(page, "#phase"), /30.0 MiB of 120.0 MiB, 1,346 rounds, about 9 s left/);
    assert.match(await text(page, "#elapsed"), /^\d+ s$/);
    await isClean(page, "while a prompt is computed");
    await isInView(page, "while a prompt is computed");
    await answered(page, answer, "so far");
    assert.ok(!(await page.locator("#progress").isVisible()));
  },

  async "the state is live: connecting, ready, busy, lost"(page, front) {
    const now = () => page.locator("#state").getAttribute("data-state");
    const state = (wanted) => until(wanted, async () => (await now()) === wanted);
    await until("ready", async () => (await now()) === "ready", ANSWER_PATIENCE);
    for (const wanted of ["connecting", "busy", "lost"]) {
      front.status = { state: wanted, reason: "a reason" };
      await state(wanted);
      await isClean(page, wanted);
    }
    assert.match(await text(page, "#session"), /no session now: a reason/);
    front.status = null;
    await until("the word", async () => /does not answer/.test(await text(page, "#session")));
    front.status = {};
    await state("ready");
  },

  async "banner and panel say what the gateway is"(page) {
    const told = await (await fetch(new URL("/status", gateway))).json();
    const banner = page.locator("#banner");
    assert.strictEqual(await banner.isVisible(), told.warnings.length > 0);
    if (told.demonstration) {
      assert.match(await banner.innerText(), /not privacy/);
      const color = await banner.evaluate((node) => getComputedStyle(node).backgroundColor);
      const [red, green, blue] = color.match(/\d+/g).map(Number);
      assert.ok(red > 150 && green < 60 && blue < 80, "the banner is red");
      assert.doesNotMatch(await text(page, "#session"), /private/);
    }
    assert.strictEqual(await page.title(), `${told.model} · Marill`);
    await page.click("#open-panel");
    const panel = await text(page, "#panel");
    const addresses = told.parties.map(({ address }) => address.split("#")[0]);
    for (const address of addresses) assert.ok(panel.includes(address), address);
    const roles = { dealer: "Dealer", "3pc": "in every session", "2pc": "There is no dealer" };
    assert.ok(panel.includes(roles[told.setting]), `${told.setting}: ${panel}`);
    assert.strictEqual(panel.includes("Computing party"), told.e0 === "party");
    assert.match(panel, told.api_key ? /yours is sent to it/ : /none is sent/);
    assert.match(panel, /[KM]iB sent to it/);
    const box = await page.locator("#panel").boundingBox();
    assert.ok(box.x >= 0 && box.y >= 0 && box.x + box.width <= page.viewportSize().width);
    await isClean(page, "with the panel open");
    await page.keyboard.press("Escape");
    assert.ok(!(await page.locator("#panel").isVisible()));
  },

  async "settings are sent, and wrong ones are not"(page, front) {
    front.isScripted = true;
    await page.click("#open-settings");
    assert.strictEqual(await page.inputValue("#length"), "256");
    await page.fill("#length", "33");
    await page.fill("#temperature", "0.7");
    await page.fill("#system", "Be brief.");
    await isClean(page, "with the settings open");
    await page.click("#settings .primary");
    await until("the word", async () => /can choose them/.test(await text(page, "#banner")));
    const { body } = await scripted(page, front, "one");
    assert.deepStrictEqual([body.max_tokens, body.temperature], [33, 0.7]);
    assert.deepStrictEqual(body.messages[0], { role: "system", content: "Be brief." });
    await page.keyboard.press("Escape");
    await page.click("#open-settings");
    await page.fill("#length", "0");
    await page.click("#settings .primary");
    assert.ok(await page.locator("#settings").isVisible(), "a wrong value is not taken");
    await page.keyboard.press("Escape");
    await until("the former length", async () => (await page.inputValue("#length")) === "33");
  },

  async "Markdown is shown and markup is not run, and an answer can be copied"(page, front) {
    front.isScripted = true;
    const hostile = "# Title\n\n**bold** <img src=/x onerror=\"document.title='run'\"> "
      + "![p](https://elsewhere.example/p.png) [l](https://elsewhere.example/)\n\n"
      + "```\n<script>1</script>\n```";
    await answered(page, await scripted(page, front, "show"), hostile);
    const shown = page.locator("article.assistant .text");
    assert.strictEqual(await shown.locator("h3").innerText(), "Title");
    assert.strictEqual(await shown.locator("strong").innerText(), "bold");
    assert.strictEqual(await shown.locator("pre").innerText(), "<script>1</script>");
    assert.strictEqual(await shown.locator("img, a, script").count(), 0);
    assert.notStrictEqual(await page.title(), "run");
    await isClean(page, "with Markdown");
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.getByRole("button", { name: "Copy this answer" }).click();
    assert.strictEqual(await page.evaluate(() => navigator.clipboard.readText()), hostile);
  },

  async "nothing is loaded from elsewhere, and nothing is kept"(page, front, heard) {
    const kept = await page.evaluate(() =>
      [localStorage.length, sessionStorage.length, document.cookie].join());
    assert.strictEqual(kept, "0,0,");
    assert.ok(heard.requests.every((url) => url.startsWith(front.url)), `${heard.requests}`);
    assert.strictEqual(await page.locator("link[rel=icon]").getAttribute("href"), "/icon.svg");
    await isClean(page, "empty");
    await isInView(page, "empty");
  },
};

// Those in which the gateway answers for itself.
const OWN = [
  "seven turns of a real conversation keep the composer in view", "two conversations never mix",
  "banner and panel say what the gateway is",
];

// Each check has a page, and a gateway in front, of its own.
async function check(browser, [width, colorScheme], [name, holds]) {
  const front = await Front.start(gateway);
  const context = await browser.newContext({ viewport: { width, height: HEIGHT }, colorScheme });
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    const heard = { requests: [], errors: [] };
    page.on("request", (request) => heard.requests.push(request.url()));
    page.on("pageerror", (error) => heard.errors.push(error.message));
    page.on("console", (message) => {
      // A browser reports every answer that is an error and every connection that ends.
      const isOurs = !/Failed to load resource/.test(message.text());
      if (message.type() === "error" && isOurs) heard.errors.push(message.text());
    });
    const response = await page.goto(front.url);
    assert.doesNotMatch(response.headers()["content-security-policy"], /unsafe/);
    await until("a first word", async () => (await text(page, "#state")) !== "connecting");
    let failure = null;
    await holds(page, front, heard).catch((error) => (failure = error));
    if (shots) {
      mkdirSync(shots, { recursive: true });
      const file = `${name.replace(/\W+/g, "-")}-${width}-${colorScheme}.png`;
      await page.screenshot({ path: `${shots}/${file}` });
    }
    if (failure) throw failure;
    assert.deepStrictEqual(heard.errors, []);
  } finally {
    await context.close();
    front.stop();
  }
}

const browser = await chromium.launch({ executablePath, args: QUIET });
assert.ok(OWN.every((name) => CHECKS[name]));
let passed = 0;
let failed = 0;
const FORMS = [[1280, "light"], [1280, "dark"], [400, "light"], [400, "dark"]];
for (const form of FORMS) {
  for (const entry of Object.entries(CHECKS)) {
    if (isBrief && !OWN.includes(entry[0])) continue;
    try {
      await check(browser, form, entry);
      passed += 1;
    } catch (error) {
      failed += 1;
      console.error(`FAILED ${form.join(" ")}: ${entry[0]}\n${error.stack ?? error}`);
    }
  }
}
await browser.close();
console.log(`${passed} passed, ${failed} failed (${await browser.version()}, ${gateway})`);
process.exitCode = failed ? 1 : 0;
