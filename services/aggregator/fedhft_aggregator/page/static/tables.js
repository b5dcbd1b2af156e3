// Tables of clients, of updates that were bounded, and of rounds.

import * as format from "./format.js";
import { badge, find, make, quoted, table } from "./dom.js";

const STATES = { live: "good", silent: "warn", declined: "bad" };
const WORDS = { set_aside: "set aside", opposed: "opposed", clipped: "clipped" };

export function clients(told) {
  const measured = told.clients.some((client) => client.capacity);
  const columns = [["Client"], ["State", "short"], ["Tier", "short"], ["Plan", "short"], ["Samples", "number"], ["Delivered", "number"],
    ["Last seen", "short"], ["Clusters", "short"], ...(measured ? [["Device", "text"]] : []), ["Note", "text"]];
  const rows = told.clients.map((client) => [
    client.client,
    badge(client.state, STATES[client.state]),
    client.tier || format.NONE,
    planOf(client.plan),
    client.samples ? format.count(client.samples) : format.NONE,
    format.count(client.rounds_delivered),
    format.ago(client.seen_seconds),
    mixOf(client.memberships),
    ...(measured ? [deviceOf(client.capacity)] : []),
    noteOf(client),
  ]);
  table(find("clients"), columns, rows, "No client has joined yet.");
}

function planOf(plan) {
  if (!plan) return format.NONE;
  const factors = [plan.train_a && "A", plan.train_b && "B"].filter(Boolean).join(", ");
  const rank = plan.rank ? `, rank ${plan.rank}` : "";
  return `${format.plural(plan.depth, "layer")}${rank}, ${Math.round(plan.density * 100)} % of rows${factors ? `, ${factors}` : ""}`;
}

// What was measured of a device: milliseconds of a layer and batch, forward + backward; its link; what it has memory for; energy.
function deviceOf(capacity) {
  if (!capacity) return format.NONE;
  const { forward_ms: forward, backward_ms: backward, up, down, deepest, energy_joules: joules } = capacity;
  return [
    forward && `${format.figure(forward)} + ${format.figure(backward)} ms`,
    up && `up ${format.bytes(up)}/s`,
    down && `down ${format.bytes(down)}/s`,
    deepest && `at most ${format.plural(deepest, "layer")}`,
    joules && `${format.figure(joules)} J a round`,
  ].filter(Boolean).join(", ") || format.NONE;
}

function mixOf(memberships) {
  if (!memberships.length) return format.NONE;
  const strongest = memberships.indexOf(Math.max(...memberships));
  const bar = make("span", { class: "mix", "aria-hidden": "true" });
  memberships.forEach((weight, place) => {
    const part = make("i");
    part.style.flex = `${weight} 0 0`;
    part.style.background = `var(--series-${(place % 6) + 1})`;
    bar.append(part);
  });
  return [bar, `${strongest} (${Math.round(memberships[strongest] * 100)} %)`];
}

function noteOf(client) {
  if (client.reason) return quoted(client.reason);
  if (client.set_aside) return ["last update set aside: ", quoted(client.set_aside)];
  if (typeof client.clipped === "number") return `last update scaled to ${format.score(client.clipped)} of its size`;
  return "";
}

export function bounded(told, firstPage) {
  const { updates, unnamed } = told;
  const note = find("bounded-note");
  find("bounded-scroll").hidden = !updates.length;
  if (updates.length) {
    note.textContent = "Set aside: left out as damaged or unusable. Opposed: left out for pointing against the others. "
      + `Clipped: scaled down.${unnamed ? ` ${format.plural(unnamed, "more update")} of these rounds are not named.` : ""}`;
  } else {
    note.textContent = `None in the ${firstPage ? "last" : "shown"} rounds: every update was folded as it was sent.`;
  }
  const columns = [["Round", "short"], ["Client", "short"], ["What", "short"], ["Why", "text"]];
  const rows = updates.map((one) => [
    format.count(one.round), one.client, badge(WORDS[one.what] || one.what, one.what === "clipped" ? "warn" : "bad"), whyOf(one),
  ]);
  table(find("bounded"), columns, rows, "");
}

function whyOf(one) {
  if (one.reason) return quoted(one.reason);
  if (typeof one.factor === "number") return `scaled to ${format.score(one.factor)} of its size`;
  return "it points against the others' updates";
}

export function rounds(told, final) {
  const columns = [["Round", "number"], ["Updates", "number"], ["Length", "number"], ["Personal", "number"], ["Worst decile", "number"],
    ["After training", "number"], ["Shared", "number"], ["Loss", "number"], ["Up, down", "number"], ["Compression", "number"],
    ["Memory", "number"], ["Clusters", "short"]];
  const listed = [...told.rounds].reverse();
  if (final) listed.unshift({ ...final, name: "final" });
  table(find("rounds"), columns, listed.map((round) => [
    round.name || format.count(round.round),
    `${round.accepted} / ${round.asked}`,
    format.seconds(round.seconds),
    format.score(round.personal_before_mean),
    format.score(round.personal_before_worst_tenth),
    format.score(round.personal_after_mean),
    format.score(round.shared_before),
    format.score(round.personal_loss_before_median),
    `${format.bytes(format.ratio(round.socket_bytes_up, round.accepted))}, ${format.bytes(format.ratio(round.socket_bytes_down, round.accepted))}`,
    format.factor(format.ratio(round.update_raw_bytes, round.update_bytes)),
    format.bytes(round.peak_rss_bytes_max || undefined),
    (round.cluster_sizes || []).join(" + ") || format.NONE,
  ]), "No round has been published yet.");
}
