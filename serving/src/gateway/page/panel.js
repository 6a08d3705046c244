"use strict";

// What is said of the session: its state, what is insecure, and what leaves this machine.

const PARTIES = {
  dealer: "two parties and a dealer", "3pc": "three parties", "2pc": "two parties",
};
const ROLES = { server: "Server", dealer: "Dealer", party: "Computing party" };
// Where a conversation may be read by one operator, no session is called private.
const NOT_PRIVATE = ["one_machine", "one_host", "gateway_elsewhere"];

const hostOf = (status) => status.parties[0].address.replace(/^\w+:\/\//, "").split("#")[0];

function sessionLine(status) {
  const parties = PARTIES[status.setting] ?? status.setting;
  const computing = status.e0 === "party" ? " with a computing party" : "";
  const rounding = status.rounding === "stochastic" ? ", stochastic rounding" : "";
  const codes = status.warnings.map((warning) => warning.code);
  const isPrivate = !NOT_PRIVATE.some((code) => codes.includes(code));
  const session = isPrivate ? "private session" : "session";
  return `${session} with ${hostOf(status)}: ${parties}${computing}, semi-honest${rounding}`;
}

function stateLine(status) {
  if (status.state === "lost") return `no session now: ${status.reason ?? "no reason is known"}`;
  if (status.state === "connecting") return status.reason ?? "looking at the services";
  const { active, limit, waiting } = status.sessions;
  const queue = waiting ? `, ${waiting} wait` : "";
  const busy = status.state === "busy" ? `; ${active} of ${limit} sessions run${queue}` : "";
  return sessionLine(status) + busy;
}

const learnsLengths = (status) => {
  const lengths = "the length of a prompt in steps of 16 tokens, the number of tokens of an answer";
  const turns = ", which answers are of one conversation, the tokens of each further turn";
  return `${lengths}${status.keeps_sessions ? turns : ""}, timing`;
};

// Name, what it does, what it learns; in the order of the panel.
function rolesOf(status) {
  const first = status.public_layers ? ` and the first ${status.public_layers} layers` : "";
  const others = `the other ${status.private_layers} layers`;
  const isShared = status.e0 === "party";
  const alone = status.setting === "2pc";
  const here = isShared
    ? `text and tokens, the embedding${first}; of ${others} nothing: it sends and gets shares`
    : `text and tokens, the embedding${first}; its half of ${others}`;
  const roles = [["here", here, "the conversation"]];
  const more = alone ? ", how many more tokens are allowed" : "";
  const key = status.api_key ? "whose key this is" : "which sessions are this client's";
  const server = `its half of ${others}, with its private adapter`;
  roles.push(["server", server, `${learnsLengths(status)}${more}, temperature, address, ${key}`]);
  if (isShared) {
    const learns = "what the server learns, but for the key; shares alone";
    roles.push(["party", `the other half of ${others}, in this machine's place`, learns]);
  }
  if (!alone) {
    const does = status.setting === "3pc"
      ? "random numbers for every step, in every session while it runs"
      : "random numbers for every step, early or while the session runs";
    const client = isShared ? "" : ", a lasting random name and the address of this client";
    roles.push(["dealer", does, `lengths as the server does, timing${client}`]);
  }
  return roles;
}

function addressOf(party) {
  const [address, pin] = party.address.split("#");
  const trust = !party.encrypted ? "without TLS" : pin ? "TLS, certificate pinned" : "TLS";
  return `${address} (${trust}${party.is_here ? ", on this machine" : ""})`;
}

function panelText(status) {
  const made = [];
  const parties = Object.fromEntries(status.parties.map((party) => [party.role, party]));
  for (const [role, does, learns] of rolesOf(status)) {
    const list = element("dl");
    const row = (name, text) => list.append(element("dt", name), element("dd", text));
    const party = parties[role];
    row("does", does);
    row("learns", learns);
    if (party) {
      row("address", addressOf(party));
      const { bytes_sent: sent, bytes_received: received } = party;
      row("bytes", `${size(sent)} sent to it, ${size(received)} received`);
    } else if (role === "dealer") {
      row("address", "chosen by the others: this machine does not talk to it");
    }
    if (role === "server") {
      row("key", status.api_key ? "yours is sent to it, and to nobody else" : "none is sent");
    }
    const section = element("section", element("h3", ROLES[role] ?? "This machine"), list);
    section.className = "party";
    made.push(section);
  }
  const text = (words) => made.push(element("p", words));
  text(SENT[status.setting === "2pc" ? "2pc" : status.e0]);
  text(TOGETHER[status.setting === "2pc" ? "2pc" : status.e0]);
  if (!status.chat_template) {
    text("The model has no chat template: it gets the messages line by line, without roles.");
  }
  text("This is research software and has not been audited. The page stores nothing: a "
    + "conversation is gone when it is closed. Bytes are counted since the gateway took this "
    + "model.");
  return made;
}

const SENT = {
  client: "Sent are masked numbers only: no text, no token and no activation in clear.",
  party: "Sent are shares only, each of them random: no text, no token and no activation in clear.",
  "2pc": "Sent are masked and encrypted numbers: no text, no token and no activation in clear.",
};
const TOGETHER = {
  client: "The parties are assumed to follow the protocol and not to join forces: whoever runs "
    + "server and dealer can read everything, and a client that deviates may read parts of the "
    + "adapter.",
  party: "The parties are assumed to follow the protocol and not to join forces: whoever runs two "
    + "of server, computing party and dealer can read everything.",
  "2pc": "There is no dealer, and both parties are assumed to follow the protocol: a server that "
    + "deviates may read the conversation, a client that deviates the adapter.",
};
