"use strict";

// How far an answer is, in words and as a part of the whole.

function size(bytes) {
  if (bytes < 1048576) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1048576).toFixed(bytes < 10485760 ? 2 : 1)} MiB`;
}

const grouped = (number) => number.toString().replace(/\B(?=(\d{3})+$)/g, ",");
const duration = (seconds) => {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
};

// `phase` for those who hear it, `text` for those who see it, `part` where it is known.
function progressOf(answer, status, length) {
  if (!answer) {
    const { active = 0, waiting = 0, limit = 1 } = status?.sessions ?? {};
    const isQueued = waiting > 0 && active >= limit;
    return { phase: isQueued ? "waiting for a free session" : "opening a session" };
  }
  if (answer.phase === "token") {
    const phase = "writing the answer";
    const text = `token ${answer.tokens} of at most ${length}`;
    return { phase, text, part: Math.min(1, answer.tokens / length) };
  }
  if (answer.phase !== "prefill") return { phase: "opening a session" };
  const phase = "computing the prompt";
  const { bytes, expected_bytes: expected, expected_rounds: rounds } = answer;
  // An estimate that was too low says nothing any more.
  const isPast = answer.is_estimate && bytes > expected;
  if (!expected || isPast) return { phase, text: `${phase}: ${size(bytes ?? 0)} so far` };
  // What is counted beside the step itself may make it a little more.
  const part = Math.min(0.99, bytes / expected);
  const left = part > 0.05 ? answer.phase_seconds * (1 / part - 1) : null;
  const time = left === null ? "" : `, about ${duration(Math.ceil(left))} left`;
  const sizes = `${size(bytes)} of ${answer.is_estimate ? "about " : ""}${size(expected)}`;
  const text = `${phase}: ${sizes}, ${grouped(rounds)} rounds${time}`;
  return { phase, text, part };
}

// What an answer cost, once it is there.
function costOf(marill, usage, finish) {
  const parts = [];
  const tokens = usage?.completion_tokens ?? marill.decode_steps + 1;
  parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  if (finish === "length") parts.push("ended at the limit of its length");
  parts.push(`prompt ${marill.prefill_seconds.toFixed(2)} s`);
  if (marill.decode_steps) {
    parts.push(`${(marill.decode_seconds / marill.decode_steps).toFixed(2)} s per token`);
  }
  parts.push(size(marill.bytes_sent + marill.bytes_received));
  parts.push(`${grouped(marill.rounds)} rounds`);
  if (marill.offline_bytes) {
    parts.push(`${size(marill.offline_bytes)} of it made ahead of what depends on the text`);
  }
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (cached) parts.push(`${cached} of the prompt's ${usage.prompt_tokens} tokens known before`);
  return parts.join(" · ");
}
