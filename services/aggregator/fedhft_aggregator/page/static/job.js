// A job's heading, its open round and its figures now.

import * as format from "./format.js";
import { badge, find, make, quoted, write } from "./dom.js";

const KINDS = { waiting: undefined, running: "active", evaluating: "active", completed: "good", failed: "bad", cancelled: "warn" };

export function standing(job) {
  if (job.blocked) return badge("blocked", "bad");
  if (job.paused) return badge("paused", "warn");
  return badge(job.status, KINDS[job.status]);
}

export function heading(job) {
  write(find("job-name"), job.job);
  const now = standing(job);
  find("job-status").replaceWith(now);
  now.id = "job-status";
  const about = [job.method, job.model, `${format.plural(job.rounds_total, "round")} planned`];
  if (job.submitted_by) about.push(`submitted by ${job.submitted_by}`);
  write(find("job-about"), about.filter(Boolean).join(" · "));
  const notices = [];
  if (job.paused) notices.push(notice("Paused.", job.paused, "warn"));
  if (job.blocked) notices.push(notice("Blocked.", job.blocked, "bad"));
  if (job.reason) { // of a job that completed, or is about to: why earlier than planned
    const bad = job.status === "failed";
    const word = job.status === "running" ? "Waiting." : `${format.capital(job.status)}.`;
    notices.push(notice(word, job.reason, bad ? "bad" : "warn"));
  }
  find("notices").replaceChildren(...notices);
}

function notice(word, text, kind) {
  return make("p", { class: "notice", "data-kind": kind }, make("strong", {}, word), " ", quoted(text));
}

// age: seconds since the server told of it.
export function openRound(job, age) {
  const open = job.open;
  find("live").hidden = !open;
  if (!open) return;
  const what = open.evaluation ? "Final evaluation" : `Round ${open.round} of ${job.rounds_total}`;
  write(find("live-title"), `${what}: ${open.phase}`);
  const left = open.seconds_left - age;
  const times = [`open for ${format.seconds(Math.round(open.seconds + age))}`];
  if (open.phase === "collecting" && !job.paused) {
    times.push(left > 0 ? `deadline in ${format.seconds(Math.round(left))}` : "deadline passed");
  }
  if (open.extensions) times.push(open.extensions === 1 ? "extended once" : `extended ${open.extensions} times`);
  write(find("live-time"), times.join(" · "));
  const bar = find("live-bar");
  bar.setAttribute("aria-valuemax", open.asked);
  bar.setAttribute("aria-valuenow", open.accepted);
  find("live-done").style.width = `${(100 * open.accepted) / Math.max(1, open.asked)}%`;
  const mark = find("live-quorum");
  mark.style.left = `${(100 * open.quorum) / Math.max(1, open.asked)}%`;
  mark.hidden = open.quorum >= open.asked;
  const noun = open.evaluation ? "reports" : "updates";
  write(find("live-text"), `${open.accepted} of ${open.asked} ${noun} are here. The round closes with ${open.target}; at its deadline ${open.quorum} are enough.`);
}

export function figures(job, rounds) {
  const last = job.final || rounds.at(-1) || {};
  const moved = rounds.at(-1) || last;
  const tiles = [
    ["Rounds published", `${format.count(job.rounds_done)} / ${format.count(job.rounds_total)}`, lengths(rounds)],
    [`Personal ${job.score}`, format.score(last.personal_before_mean),
      `worst decile ${format.score(last.personal_before_worst_tenth)}${floors(job)}`],
    [`Shared ${job.score}`, format.score(last.shared_before), `on the common rows; loss ${format.score(last.shared_loss_before)}${common(last)}`],
    ["Loss", format.score(last.personal_loss_before_median), "median over clients"],
    ...(last.metrics || []).slice(1).map((one) => [format.capital(one.name.replaceAll("_", " ")), format.score(one.personal_before),
      `on clients' own rows; ${format.score(one.shared_before)} on the common ones; constant answer ${format.score(one.floor)}`]),
    ...(job.best ? [["Best version", format.count(job.best.version),
      `${job.best.by} ${format.score(job.best.score)}; ${format.count(job.best.waited)} scored since`]] : []),
    ["Bytes up per client", format.bytes(format.ratio(moved.socket_bytes_up, moved.accepted)),
      `${format.bytes(format.ratio(moved.socket_bytes_down, moved.accepted))} down, last round`],
    ["Compression", format.factor(format.ratio(moved.update_raw_bytes, moved.update_bytes)), "of the last round's updates"],
    ["Clients live", `${format.count(job.live)} / ${format.count(job.clients)}`,
      job.declined ? `${format.count(job.declined)} declined` : "of those that joined"],
    ["Clusters", job.clusters ? format.count(job.clusters.sizes.length) : format.NONE,
      job.clusters ? `${job.clusters.sizes.join(" + ")} clients, version ${job.clusters.version}. ${job.clusters.reason}` : "no memberships yet"],
  ];
  find("figures").replaceChildren(...tiles.map(([name, value, note]) =>
    make("div", { class: "card" }, make("dt", {}, name), make("dd", {}, value), make("dd", { class: "note" }, note))));
}

function common(last) {
  return typeof last.shared_mass_weighted === "number" ? `; one model for everybody ${format.score(last.shared_mass_weighted)}` : "";
}

function lengths(rounds) {
  const last = rounds.at(-1);
  return last ? `last one took ${format.seconds(last.seconds)}` : "none yet";
}

function floors(job) {
  const majority = job.floors?.majority;
  return typeof majority === "number" ? `; majority class ${format.score(majority)}` : "";
}
