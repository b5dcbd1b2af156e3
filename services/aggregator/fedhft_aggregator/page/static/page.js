// The page: which job is shown, and what changes when the server tells of something new.

import * as charts from "./charts.js";
import { ask, follow, jobPath } from "./connection.js";
import { find, make, write } from "./dom.js";
import * as format from "./format.js";
import * as job from "./job.js";
import * as tables from "./tables.js";

const TABLES_EVERY_MS = 3000;
const TABLES_AGAIN_MS = 3000;
const MOST_ROUNDS = 400;

const state = { name: "", job: undefined, toldAt: 0, rounds: new Map(), clientsAfter: "", roundsBefore: 0, tablesAt: 0, again: undefined, stop: undefined };

const chosen = () => decodeURIComponent(location.hash.match(/^#job=(.+)$/)?.[1] || "");
const ascending = () => [...state.rounds.values()].sort((a, b) => a.round - b.round);

function connection(kind, text) {
  find("connection").dataset.state = kind;
  write(find("connection"), text);
}

function listJobs(told) {
  if (told.error) return connection("lost", told.error);
  const items = told.jobs.map((one) => {
    const place = one.open ? `round ${one.open.round} of ${one.rounds_total}` : format.plural(one.rounds_done, "round");
    const link = make("a", { href: `#job=${encodeURIComponent(one.job)}`, "aria-current": one.job === state.name ? "page" : undefined },
      make("span", { class: "name" }, one.job), make("span", { class: "line" }, job.standing(one), place));
    return make("li", {}, link);
  });
  const focused = document.activeElement?.closest("#jobs a")?.getAttribute("href");
  find("jobs").replaceChildren(...items);
  if (focused) [...find("jobs").querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  const more = told.total - told.jobs.length;
  find("jobs-more").hidden = more <= 0;
  write(find("jobs-more"), `${format.plural(more, "older job")}: see fedhft job list`);
  if (!told.jobs.length) write(find("nothing-text"), "There are none yet. fedhft job submit starts one; it appears here by itself.");
  else if (!state.name) location.replace(`#job=${encodeURIComponent(told.jobs[0].job)}`);
}

function hearOfJob(news) {
  if (news.error) {
    if (news.gone) show404(news.error);
    else connection("lost", news.error);
    return;
  }
  if (!state.job || news.job !== state.name) return; // the whole job is on its way
  const before = state.job;
  const known = Math.max(0, ...state.rounds.keys());
  const first = news.rounds[0]?.round ?? 0;
  if (news.rounds_done < before.rounds_done || first > known + 1 || state.rounds.size > MOST_ROUNDS) {
    load();
    return;
  }
  const fresh = news.rounds.some((round) => !state.rounds.has(round.round)) || Boolean(news.final) !== Boolean(before.final);
  news.rounds.forEach((round) => state.rounds.set(round.round, round));
  state.job = news;
  state.toldAt = performance.now();
  render(fresh);
}

function render(fresh) {
  const rounds = ascending();
  find("nothing").hidden = true;
  find("job").hidden = false;
  document.title = `${state.job.job}: ${state.job.status} – fedhft`;
  job.heading(state.job);
  job.openRound(state.job, 0);
  job.figures(state.job, rounds);
  if (fresh) {
    charts.draw(state.job, rounds);
    const left = state.job.rounds_done - rounds.length;
    find("charts-note").hidden = left <= 0;
    write(find("charts-note"), `${format.count(rounds.length)} of ${format.count(state.job.rounds_done)} rounds are drawn: the last ones, and older ones evenly spaced.`);
  }
  if (fresh || performance.now() - state.tablesAt > TABLES_EVERY_MS) fillTables();
}

// settled: whether this is the look after the last news. The server may answer with a reading of some seconds ago, and
// after the end of a job no news comes that would show what it had missed.
async function fillTables(settled = false) {
  state.tablesAt = performance.now();
  const name = state.name;
  try {
    const [clients, rounds] = await Promise.all([
      ask(`${jobPath(name)}/clients?after=${encodeURIComponent(state.clientsAfter)}`),
      ask(`${jobPath(name)}/rounds?before=${state.roundsBefore}`),
    ]);
    if (name !== state.name) return;
    tables.clients(clients);
    tables.rounds(rounds, state.roundsBefore ? undefined : state.job.final);
    tables.bounded(rounds.bounded, !state.roundsBefore);
    turn("clients-first", state.clientsAfter, () => { state.clientsAfter = ""; });
    turn("clients-next", clients.more, () => { state.clientsAfter = clients.clients.at(-1).client; });
    turn("rounds-first", state.roundsBefore, () => { state.roundsBefore = 0; });
    const oldest = rounds.rounds[0]?.round ?? 0;
    turn("rounds-older", oldest > rounds.history_from, () => { state.roundsBefore = oldest; });
    const behind = !state.roundsBefore && (rounds.rounds.at(-1)?.round ?? 0) < state.job.rounds_done;
    clearTimeout(state.again);
    if (!settled || behind) state.again = setTimeout(() => name === state.name && fillTables(true), TABLES_AGAIN_MS);
  } catch (error) {
    if (name === state.name) connection("lost", error.message);
  }
}

function turn(id, there, go) {
  const button = find(id);
  button.hidden = !there;
  button.onclick = () => {
    go();
    fillTables();
  };
}

async function load() {
  const name = state.name;
  try {
    const told = await ask(jobPath(name));
    if (name !== state.name) return;
    state.job = told;
    state.toldAt = performance.now();
    state.rounds = new Map(told.rounds.map((round) => [round.round, round]));
    render(true);
  } catch (error) {
    if (name === state.name) show404(error.message);
  }
}

function show404(text) {
  state.job = undefined;
  find("job").hidden = true;
  find("nothing").hidden = false;
  write(find("nothing-text"), text);
}

function open() {
  state.stop?.();
  Object.assign(state, { name: chosen(), job: undefined, rounds: new Map(), clientsAfter: "", roundsBefore: 0 });
  state.stop = follow(state.name, { jobs: listJobs, job: hearOfJob, state: connection });
  for (const link of find("jobs").querySelectorAll("a")) {
    if (link.getAttribute("href") === location.hash) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (state.name) load();
}

window.addEventListener("hashchange", () => { if (chosen() !== state.name) open(); });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.repaint(state.job, ascending()));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  find("main").focus();
});
setInterval(() => { if (state.job) job.openRound(state.job, (performance.now() - state.toldAt) / 1000); }, 1000);
open();
