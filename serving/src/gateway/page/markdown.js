"use strict";

// Markdown as elements: whatever a text says, only those that are made here come out. No link is
// one that can be followed, and no image is fetched: an answer could carry the conversation away
// in an address.

const element = (name, ...children) => {
  const made = document.createElement(name);
  made.append(...children);
  return made;
};

// What begins a span, the first that fits counts: code, an image or a link, bold, italic, struck
// out. Words with underscores stay as they are.
const SPAN = new RegExp(
  [
    /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/,
    /!?\[([^\]\n]*)\]\(([^()\s]*)(?:\s+"[^"\n]*")?\)/,
    /\*\*(?=\S)([\s\S]*?\S)\*\*(?!\*)/,
    /(?<!\w)__(?=\S)([\s\S]*?\S)__(?!\w)/,
    /\*(?=[^\s*])([^*]*?[^\s*])\*(?!\*)/,
    /(?<!\w)_(?=[^\s_])([^_]*?[^\s_])_(?!\w)/,
    /~~(?=\S)([\s\S]*?\S)~~/,
    /\\([!-/:-@[-`{-~])/,
  ].map((part) => part.source).join("|"),
);
const MAX_DEPTH = 12;

function* spans(text, depth = 0) {
  while (text) {
    const found = depth < MAX_DEPTH && SPAN.exec(text);
    if (!found) return yield text;
    const [whole, , code, label, address, bold, bold2, italic, italic2, struck, escaped] = found;
    if (found.index) yield text.slice(0, found.index);
    text = text.slice(found.index + whole.length);
    if (code !== undefined) yield element("code", code.replace(/^ (.*\S.*) $/s, "$1"));
    else if (label !== undefined) {
      yield* spans(label, depth + 1);
      if (label && address && address !== label) yield " ";
      if (address && address !== label) yield element("code", address);
    } else if (bold ?? bold2) yield element("strong", ...spans(bold ?? bold2, depth + 1));
    else if (italic ?? italic2) yield element("em", ...spans(italic ?? italic2, depth + 1));
    else if (struck) yield element("s", ...spans(struck, depth + 1));
    else yield escaped;
  }
}

const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}#{1,6}\s+(.*)$/;
const RULE = /^ {0,3}(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const CELLS = /^ *\|?.*\|.*$/;
const TABLE_RULE = /^ *\|?(?: *:?-+:? *\|)+(?: *:?-+:? *)?$/;

// What a heading says, without the signs that close it. A loop: patterns that end in two runs of
// spaces take time with the cube of their length.
function heading(line) {
  const text = HEADING.exec(line)[1];
  let end = text.length;
  while (end > 0 && " \t#".includes(text[end - 1])) end -= 1;
  return text.slice(0, end);
}

const begins = (line) =>
  FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

// A block of code up to its closing fence, or, while that has not come, to the end.
function fenced(lines) {
  const fence = FENCE.exec(lines.shift())[1];
  const code = [];
  while (lines.length) {
    const line = lines.shift();
    const end = /^ {0,3}(`+|~+)\s*$/.exec(line);
    if (end && end[1].startsWith(fence)) break;
    code.push(line);
  }
  return element("pre", element("code", code.join("\n")));
}

// An item is what is indented below its mark, or goes on without a blank line.
function list(lines, depth) {
  const [, , begin] = ITEM.exec(lines[0]);
  const isOrdered = /\d/.test(begin);
  const made = element(isOrdered ? "ol" : "ul");
  if (isOrdered) made.start = parseInt(begin, 10);
  for (;;) {
    const mark = lines.length && ITEM.exec(lines[0]);
    const isNext = mark && /\d/.test(mark[2]) === isOrdered && !RULE.test(lines[0]);
    if (!isNext) return made;
    const width = mark[0].length;
    const inside = [lines.shift().slice(width)];
    while (lines.length) {
      const line = lines[0];
      const indent = /^ */.exec(line)[0].length;
      const isBlank = !line.trim();
      if (isBlank && !(lines.length > 1 && /^ {2,}\S/.test(lines[1]))) break;
      if (!isBlank && indent < Math.min(width, 2) && begins(line)) break;
      inside.push(lines.shift().slice(Math.min(indent, width)));
    }
    while (lines.length > 1 && !lines[0].trim() && ITEM.test(lines[1])) lines.shift();
    const content = [...blocks(inside, depth + 1)];
    // A single paragraph needs no room of its own.
    const isTight = content.length && content[0].localName === "p";
    const first = isTight ? [...content.shift().childNodes] : [];
    made.append(element("li", ...first, ...content));
  }
}

const cells = (line) =>
  line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function table(lines) {
  const row = (kind, line) => {
    const made = element("tr");
    for (const cell of cells(line)) made.append(element(kind, ...spans(cell)));
    return made;
  };
  const head = element("thead", row("th", lines.shift()));
  lines.shift();
  const body = element("tbody");
  while (lines.length && lines[0].trim() && CELLS.test(lines[0])) {
    body.append(row("td", lines.shift()));
  }
  return element("table", head, body);
}

function* blocks(lines, depth = 0) {
  while (lines.length) {
    const line = lines[0];
    if (!line.trim()) lines.shift();
    else if (depth >= MAX_DEPTH) yield element("p", lines.splice(0).join("\n"));
    else if (FENCE.test(line)) yield fenced(lines);
    else if (HEADING.test(line)) yield element("h3", ...spans(heading(lines.shift())));
    else if (RULE.test(line)) {
      lines.shift();
      yield element("hr");
    } else if (QUOTE.test(line)) {
      const inside = [];
      while (lines.length && QUOTE.test(lines[0])) inside.push(lines.shift().replace(QUOTE, ""));
      yield element("blockquote", ...blocks(inside, depth + 1));
    } else if (ITEM.test(line)) yield list(lines, depth);
    else if (lines.length > 1 && CELLS.test(line) && TABLE_RULE.test(lines[1])) yield table(lines);
    else {
      const text = [lines.shift()];
      while (lines.length && lines[0].trim() && !begins(lines[0])) text.push(lines.shift());
      const made = element("p");
      // Models mean the ends of their lines.
      text.forEach((part, k) => made.append(...(k ? [element("br")] : []), ...spans(part.trim())));
      yield made;
    }
  }
}

function markdown(text) {
  const lines = text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n");
  return [...blocks(lines)];
}
