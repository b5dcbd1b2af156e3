// The charts of a job's rounds, drawn by Chart.js (vendor/chartjs). Legends are HTML, so that they can be read aloud.

import * as format from "./format.js";
import { find, make } from "./dom.js";

const DASHES = { solid: [], dashed: [6, 4], dotted: [2, 3] };
const SERIES = 6;

const column = (name) => (round) => round[name];
const perClient = (name) => (round) => format.ratio(round[name], round.accepted);
const spent = (...names) => (round) => {
  const seconds = round.work && round.work.seconds;
  return seconds ? names.reduce((sum, name) => sum + seconds[name], 0) : undefined;
};
const depth = (name) => (round) => (round.work ? round.work[name] : undefined);
const tierOf = (round, tier) => (round.tiers || []).find((one) => one.tier === tier);

// Each chart: what it is called, how its values read, and the lines that a job's rounds make.
const CHARTS = [
  {
    id: "accuracy",
    wide: true,
    title: (job) => format.capital(job.score),
    note: "on clients' own rows (personal) and on the common rows (shared), at the start of each round",
    show: format.score,
    lines: (job) => [
      { name: "personal, mean", value: column("personal_before_mean"), color: 1 },
      { name: "personal, worst decile", value: column("personal_before_worst_tenth"), color: 1, dash: "dashed" },
      { name: "shared", value: column("shared_before"), color: 3 },
      ...floorsOf(job),
    ],
  },
  {
    id: "loss",
    title: () => "Loss",
    note: "on clients' own rows, median over clients",
    show: format.score,
    lines: () => [
      { name: "at the start", value: column("personal_loss_before_median"), color: 1 },
      { name: "after local training", value: column("personal_loss_after_median"), color: 2, dash: "dashed" },
    ],
  },
  {
    id: "bytes",
    title: () => "Bytes per client",
    note: "on the wire, in one round (TCP payload)",
    show: format.bytes,
    zero: true,
    lines: () => [
      { name: "up", value: perClient("socket_bytes_up"), color: 1 },
      { name: "down", value: perClient("socket_bytes_down"), color: 2, dash: "dashed" },
    ],
  },
  {
    id: "compression",
    title: () => "Compression of updates",
    note: "bytes of kept values in float32, divided by bytes sent",
    show: format.factor,
    zero: true,
    lines: (job, rounds) => tiersOf(rounds).map((tier, place) => ({
      name: tier,
      value: (round) => {
        const own = tierOf(round, tier);
        return own && format.ratio(own.update_raw_bytes, own.update_bytes);
      },
      color: place + 1,
    })),
  },
  {
    id: "memory",
    title: () => "Agents' peak memory by tier",
    note: "largest resident set; dashed: mean of the tier",
    show: format.bytes,
    zero: true,
    lines: (job, rounds) => tiersOf(rounds).flatMap((tier, place) => [
      { name: tier, value: (round) => tierOf(round, tier)?.peak_rss_bytes_max || undefined, color: place + 1 },
      { name: `${tier}, mean`, value: (round) => tierOf(round, tier)?.peak_rss_bytes_mean || undefined, color: place + 1, dash: "dashed", quiet: true },
    ]),
  },
  {
    id: "clusters",
    title: () => "Clients by cluster",
    note: "participants of each round, by largest membership",
    show: format.count,
    stacked: true,
    lines: (job, rounds) => Array.from({ length: Math.max(0, ...rounds.map((round) => (round.cluster_sizes || []).length)) }, (_, place) => ({
      name: `cluster ${place}`,
      value: (round) => (round.cluster_sizes || [])[place] ?? 0,
      color: place + 1,
      dash: "block",
    })),
  },
  {
    id: "length",
    title: () => "Round length",
    note: "from opening to publishing; dashed: local training, dotted: scoring, mean over clients",
    show: format.seconds,
    zero: true,
    lines: () => [
      { name: "round", value: column("seconds"), color: 1 },
      { name: "training", value: column("train_seconds_mean"), color: 2, dash: "dashed" },
      { name: "scoring", value: column("evaluate_seconds_mean"), color: 3, dash: "dotted" },
    ],
  },
  {
    id: "time",
    title: () => "Where a client's time goes",
    note: "seconds of a round, mean over clients; frozen layers: passing rows through them, once",
    show: format.seconds,
    stacked: true,
    lines: () => [
      { name: "training", value: spent("train"), color: 1, dash: "block" },
      { name: "scoring", value: spent("score"), color: 2, dash: "block" },
      { name: "frozen layers", value: spent("fill"), color: 3, dash: "block" },
      { name: "coding and the rest", value: spent("code"), color: 4, dash: "block" },
      { name: "moving bytes", value: spent("fetch", "send"), color: 5, dash: "block" },
      { name: "waiting for others", value: spent("wait"), color: 6, dash: "block" },
    ],
  },
  {
    id: "depth",
    title: () => "Layers trained",
    note: "with adapters, counted from the output",
    show: format.mean,
    zero: true,
    lines: () => [
      { name: "mean over clients", value: depth("depth_mean"), color: 1 },
      { name: "fewest", value: depth("depth_least"), color: 2, dash: "dashed" },
      { name: "most", value: depth("depth_most"), color: 3, dash: "dotted" },
    ],
  },
];

function floorsOf(job) {
  const { majority, local } = job.floors || {};
  const lines = [];
  if (typeof majority === "number") {
    lines.push({ name: "majority class", value: () => majority, color: "floor", dash: "dotted", flat: true });
  }
  if (local) {
    lines.push({ name: `training alone (${local.job})`, value: () => local.mean, color: "floor", dash: "dashed", flat: true });
  }
  return lines;
}

function tiersOf(rounds) {
  return [...new Set(rounds.flatMap((round) => (round.tiers || []).map((one) => one.tier)))].sort();
}

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const colorOf = (color) => token(color === "floor" ? "floor" : `series-${((color - 1) % SERIES) + 1}`);

const drawn = new Map();

// rounds: ascending. Draws what is new, and takes away what a job does not have.
export function draw(job, published) {
  const rounds = job.final ? [...published, job.final] : published;
  const holder = find("charts");
  for (const chart of CHARTS) {
    let own = drawn.get(chart.id);
    if (!own) {
      own = frameOf(chart);
      drawn.set(chart.id, own);
      holder.append(own.figure);
    }
    const lines = chart.lines(job, rounds)
      .map((line) => ({ ...line, points: pointsOf(line, rounds) }))
      .filter((line) => line.points.length);
    const measured = lines.some((line) => !line.flat);
    own.title.textContent = chart.title(job);
    own.plot.hidden = !measured;
    own.empty.hidden = measured;
    own.legend.replaceChildren(...(measured ? lines.filter((line) => !line.quiet).map((line) => entryOf(line, chart)) : []));
    const last = lines.filter((line) => !line.quiet).map((line) => `${line.name} ${chart.show(line.points.at(-1).y)}`);
    own.canvas.setAttribute("aria-label", `${chart.title(job)}, ${chart.note}. Round ${rounds.at(-1)?.round ?? 0}: ${last.join(", ")}`);
    own.final = job.final?.round;
    if (measured) plot(own, chart, lines, rounds);
  }
}

// Another colour scheme: the lines take its colours.
export function repaint(job, rounds) {
  for (const own of drawn.values()) {
    own.chart?.destroy();
    own.chart = undefined;
  }
  if (job) draw(job, rounds);
}

function frameOf(chart) {
  const title = make("h3");
  const legend = make("ul", { class: "legend" });
  const canvas = make("canvas", { role: "img" });
  const plotted = make("div", { class: "plot" }, canvas);
  const empty = make("p", { class: "empty" }, "No figures yet. They come with the first published round.");
  const note = make("p", { class: "quiet" }, chart.note);
  const figure = make("figure", { class: chart.wide ? "card wide" : "card", "data-chart": chart.id }, make("figcaption", {}, title, note, legend), plotted, empty);
  return { figure, title, legend, canvas, plot: plotted, empty };
}

function entryOf(line, chart) {
  const swatch = make("i", { "data-dash": line.dash || "solid", "aria-hidden": "true" });
  if (line.dash === "block") swatch.style.background = colorOf(line.color);
  else swatch.style.borderColor = colorOf(line.color);
  return make("li", {}, swatch, line.name, make("b", {}, chart.show(line.points.at(-1).y)));
}

function pointsOf(line, rounds) {
  return rounds.map((round) => ({ x: round.round, y: line.value(round) })).filter((point) => typeof point.y === "number");
}

function plot(own, chart, lines, rounds) {
  const few = rounds.length <= 30;
  const datasets = lines.map((line) => ({
    label: line.name,
    data: line.points,
    borderColor: colorOf(line.color),
    backgroundColor: colorOf(line.color),
    borderDash: DASHES[line.dash] || [],
    borderWidth: chart.stacked ? 0 : line.quiet ? 1.5 : 2,
    borderRadius: chart.stacked && few ? 2 : 0,
    maxBarThickness: 34,
    categoryPercentage: few ? 0.8 : 1,
    barPercentage: few ? 0.9 : 1,
    pointRadius: few && !line.flat && !line.quiet ? 2.5 : 0,
    pointHoverRadius: line.flat ? 0 : 4,
    clip: chart.stacked ? undefined : false,
    cubicInterpolationMode: "monotone",
  }));
  const signature = `${chart.id}:${datasets.map((one) => one.label).join("|")}:${few}`;
  if (own.chart && own.signature === signature) {
    own.chart.data.datasets.forEach((dataset, place) => { dataset.data = datasets[place].data; });
    own.chart.options.scales.x = xAxis(chart, rounds);
    own.chart.update("none");
    return;
  }
  own.chart?.destroy();
  own.signature = signature;
  own.chart = new window.Chart(own.canvas, {
    type: chart.stacked ? "bar" : "line",
    data: { datasets },
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      layout: { padding: { top: 6, right: 6 } },
      plugins: {
        legend: { display: false },
        tooltip: {
          backgroundColor: token("ink"),
          titleColor: token("card"),
          bodyColor: token("card"),
          boxPadding: 4,
          usePointStyle: true,
          callbacks: {
            title: (items) => (items[0]?.parsed.x === own.final ? "Final evaluation" : `Round ${items[0]?.parsed.x}`),
            label: (item) => ` ${item.dataset.label}: ${chart.show(item.parsed.y)}`,
          },
        },
      },
      scales: {
        x: xAxis(chart, rounds),
        y: {
          stacked: Boolean(chart.stacked),
          beginAtZero: Boolean(chart.zero || chart.stacked),
          border: { display: false },
          grid: { color: token("grid") },
          ticks: { color: token("quiet"), maxTicksLimit: 6, stepSize: chart.show === format.bytes ? stepOf(lines) : undefined, callback: (value) => shortly(chart, value) },
        },
      },
    },
  });
}

function xAxis(chart, rounds) {
  const first = rounds[0].round;
  const last = rounds.at(-1).round;
  const margin = chart.stacked ? 0.5 : 0;
  return {
    type: "linear",
    min: first - margin,
    max: Math.max(last, first + 1) + margin,
    stacked: Boolean(chart.stacked),
    border: { color: token("line") },
    grid: { display: false },
    title: { display: false },
    afterBuildTicks: (axis) => { axis.ticks = ticksOf(first, last); },
    ticks: { color: token("quiet"), maxRotation: 0, autoSkip: false, callback: (value) => value },
  };
}

// Whole rounds, evenly spaced, a dozen at most.
function ticksOf(first, last) {
  const step = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find((one) => (last - first) / one <= 11) || last;
  const ticks = [{ value: first }];
  for (let value = Math.ceil((first + step / 2) / step) * step; value <= last; value += step) ticks.push({ value });
  return ticks;
}

// Round numbers of KiB or MiB between the lines of a grid.
function stepOf(lines) {
  const most = Math.max(1, ...lines.flatMap((line) => line.points.map((point) => point.y)));
  const unit = 1024 ** Math.max(0, Math.floor(Math.log(most / 4) / Math.log(1024)));
  return unit * ([1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500].find((one) => one * unit * 5 >= most) || 1024);
}

function shortly(chart, value) {
  if (chart.show === format.score) return Number(value.toFixed(2)).toString();
  if (chart.show === format.factor) return `${Number(value.toFixed(1))}×`;
  if (chart.stacked) return Number.isInteger(value) ? value : "";
  return chart.show(value);
}
