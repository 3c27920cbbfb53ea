"use strict";
// Names and reasons come from devices. Therefore the page inserts text with textContent only, and sets only numbers as
// attributes.

const BEAT_TIMEOUT = 15000; // ms without an event after which the connection counts as lost
const RETRY = 3000; // ms without an event before the page reconnects
const STATE_LABELS = {
  "never seen": () => "– never seen",
  waiting: () => "○ waiting",
  working: (round) => `◐ working on ${round}`,
  answered: (round) => `● answered ${round}`,
  late: (round) => `! late for ${round}`,
};
const SVG = "http://www.w3.org/2000/svg";
const get = (id) => document.getElementById(id);

let status = null; // the last status that was received
let offset = 0; // seconds by which the coordinator's clock is ahead of this clock
let source = null; // the EventSource
let lastEvent = 0; // time of the last event, in ms

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// format values

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);
const tick = (share) => `${+(100 * share).toPrecision(2)} %`;

function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(n < 1 ? 0 : Math.floor(Math.log10(n) / 3), units.length - 1);
  const value = n / 1000 ** power;
  return `${power && value < 100 ? value.toPrecision(2).replace(/\.0$/, "") : Math.round(value)} ${units[power]}`;
}

function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 100) return `${s} s`;
  if (s < 6000) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

const roundName = (opened) => (opened.closing ? "the closing round" : `round ${opened.round}`);

// plots

function draw(parent, name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return parent.appendChild(element);
}

function mark(parent, kind, x, y) {
  if (kind === 0) return draw(parent, "circle", { class: "mark", cx: x, cy: y, r: 3.5 });
  if (kind === 1) return draw(parent, "rect", { class: "mark", x: x - 3, y: y - 3, width: 6, height: 6 });
  return draw(parent, "path", { class: "mark", d: `M${x},${y - 4.5}l4.5,8h-9z` });
}

function roundUp(value) { // to the next 1, 2 or 5 times a power of ten
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((k) => k * power >= value * 0.999);
}

// `series`: [{name, points: [[round, value], ...]}, ...]. Each series has its own colour, dash pattern and mark.
// `top`: upper end of the value axis; null = chosen from the values.
function plot(id, series, rounds, top, format, scale = format) {
  const figure = get(id);
  const svg = figure.querySelector("svg");
  const [width, height] = [svg.clientWidth || 320, svg.clientHeight || 176];
  const [left, right, above, below] = [52, 12, 12, 22];
  const shown = series.map((s, kind) => ({ ...s, kind })).filter((s) => s.points.length);
  const highest = top ?? roundUp(Math.max(0, ...shown.flatMap((s) => s.points.map((p) => p[1]))) || 1);
  const x = (round) => left + (round / Math.max(1, rounds)) * (width - left - right);
  const y = (value) => height - below - (value / highest) * (height - above - below);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  for (const part of shown.length ? [0, 0.5, 1] : [0]) {
    draw(svg, "line", { class: "grid", x1: left, x2: width - right, y1: y(part * highest), y2: y(part * highest) });
    const label = draw(svg, "text", { x: left - 6, y: y(part * highest) + 4, "text-anchor": "end" });
    label.textContent = scale(part * highest);
  }
  const step = Math.max(1, roundUp(rounds / Math.max(1, Math.floor((width - left) / 60))));
  for (let round = 0; round <= rounds; round += step) {
    draw(svg, "text", { x: x(round), y: height - 4, "text-anchor": "middle" }).textContent = String(round);
  }
  for (const { name, points, kind } of shown) {
    const group = draw(svg, "g", { class: `s${kind}` });
    draw(group, "path", { class: "curve", d: points.map((p, i) => `${i ? "L" : "M"}${x(p[0])},${y(p[1])}`).join("") });
    const marked = points.length > 40 ? points.slice(-1) : points;
    for (const point of marked) {
      const title = draw(mark(group, kind, x(point[0]), y(point[1])), "title", {});
      title.textContent = `${name}, round ${point[0]}: ${format(point[1])}`;
    }
  }
  const last = shown.map((s) => `${s.name} ${format(s.points.at(-1)[1])}`);
  svg.setAttribute("aria-label", last.length ? `${last.join(", ")} after round ${shown[0].points.at(-1)[0]}` : "no data yet");
  legend(figure.querySelector(".legend"), shown, last);
}

function legend(list, shown, last) {
  list.replaceChildren();
  shown.forEach(({ kind }, i) => {
    const item = list.appendChild(document.createElement("li"));
    item.className = `s${kind}`;
    const sample = draw(item, "svg", { viewBox: "0 0 30 12", "aria-hidden": "true" });
    draw(sample, "path", { class: "curve", d: "M0,6H30" });
    mark(sample, kind, 15, 6);
    const text = item.appendChild(document.createElement("span"));
    text.textContent = ` ${last[i]}`;
  });
  if (!shown.length) list.appendChild(document.createElement("li")).textContent = "no data yet";
}

function plots() {
  const { points, about } = status;
  const series = (key) => points.filter((p) => p[key] !== null).map((p) => [p.round, p[key]]);
  const accepted = points.filter((p) => !p.closing).map((p) => [p.round, p.kept]);
  const rounds = Math.max(about.rounds, points.length ? points.at(-1).round : 0);
  const accuracy = [["held-out, mean", "heldout"], ["teacher", "teacher"], ["test, mean", "test"]];
  plot("accuracy", accuracy.map(([name, key]) => ({ name, points: series(key) })), rounds, 1, percent, tick);
  plot("kept", [{ name: "mean over clients", points: accepted }], rounds, null, percent, tick);
  plot("bytes", [{ name: "up", points: series("up") }, { name: "down", points: series("down") }], rounds, null, bytes);
}

// tables: cells are changed in place, so that a selection and the scroll position stay

function fill(table, rows) {
  const body = table.tBodies[0];
  const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((texts, i) => {
    const row = body.rows[i] ?? body.insertRow();
    row.role = "row"; // the phone layout is not a table for the browser without roles
    texts.forEach((text, j) => {
      const cell = row.cells[j] ?? row.insertCell();
      cell.role = "cell";
      cell.dataset.label = labels[j];
      setText(cell, text);
    });
  });
}

function devices() {
  const { opened, devices: all } = status.fleet;
  const round = opened ? roundName(opened) : "";
  const now = Date.now() / 1000 + offset;
  fill(get("devices"), all.map((d) => [
    String(d.client),
    d.name,
    status.ended !== null && d.state === "working" ? `! no report for ${round}` : STATE_LABELS[d.state](round),
    d.seen === null ? "–" : `${duration(now - d.seen)} ago`,
    String(d.answered),
    d.refused ? `${d.refused}, last: ${d.last_refusal}` : "0",
    d.facts,
  ]));
  all.forEach((d, i) => { get("devices").tBodies[0].rows[i].dataset.state = d.state; });
}

function tables() {
  const { refused } = status.fleet;
  fill(get("refusals"), refused.map((r) => [r.reason, String(r.count), r.last]));
  get("refusals").hidden = !refused.length;
  get("no-refusals").hidden = refused.length > 0;
  fill(get("numbers"), status.points.map((p) => [
    p.closing ? `${p.round}, closing` : String(p.round),
    status.about.metrics_sent ? percent(p.heldout) : "not sent", percent(p.test), percent(p.teacher), p.closing ? "–" : percent(p.kept),
    bytes(p.up), bytes(p.down), p.seconds.toFixed(2),
  ]));
}

// the run

function isOpen() {
  const { fleet, points, ended } = status;
  return ended === null && fleet.opened && !(points.length && points.at(-1).round >= fleet.opened.round);
}

function stage() {
  const { fleet, about, done, ended } = status;
  const element = get("stage");
  if (ended !== null) {
    element.dataset.end = ended === "complete" ? "complete" : "stopped";
    return setText(element, ended === "complete" ? "✓ The run is complete" : "✕ The run has stopped");
  }
  delete element.dataset.end;
  if (isOpen()) {
    const name = roundName(fleet.opened);
    return setText(element, `${name[0].toUpperCase()}${name.slice(1)}${fleet.opened.closing ? "" : ` (of 0 to ${about.rounds - 1})`} is open`);
  }
  return setText(element, done ? `${done} rounds are done; the next round is being prepared` : "Waiting for the first round");
}

function head() {
  const { about, fleet, run, done } = status;
  setText(get("run"), run);
  document.title = run ? `edgefd ${run}` : "edgefd";
  for (const key of ["method", "data", "model"]) setText(get(key), about[key]);
  setText(get("clients"), String(about.n_clients));
  setText(get("once"), about.bytes_once === null ? "–" : bytes(about.bytes_once));
  const all = `${Math.min(done, about.rounds)} of ${about.rounds}`;
  setText(get("rounds-text"), done > about.rounds ? `${all}, and the closing round` : all);
  get("rounds").max = about.rounds + 1;
  get("rounds").value = done;
  const { opened } = fleet;
  setText(get("reports-label"), opened ? `reports for ${roundName(opened)}:` : "reports:");
  setText(get("reports-text"), opened ? `${opened.reports} of ${opened.asked}` : "none yet");
  get("reports").max = opened ? opened.asked : 1;
  get("reports").value = opened ? opened.reports : 0;
  setText(get("trouble"), fleet.trouble);
  get("trouble").hidden = !fleet.trouble;
}

function clock() {
  if (!status) return;
  const now = Date.now() / 1000 + offset;
  const total = status.done ? `${status.done} rounds in ${duration(status.seconds)}` : "";
  const stopped = status.ended !== null && status.ended !== "complete";
  setText(get("why"), stopped ? status.ended : "");
  setText(get("clock"), isOpen() ? `open for ${duration(now - status.fleet.opened.began)}` : total);
  devices();
}

function show() {
  head();
  stage();
  clock();
  tables();
  plots();
}

// the connection

function link(state, text) {
  get("link").dataset.state = state;
  setText(get("link"), text);
}

function lost() {
  if (status && status.ended !== null) return;
  link("lost", "connection lost, reconnecting");
}

function listen() {
  if (source) source.close();
  source = new EventSource("/events");
  lastEvent = Date.now();
  source.onmessage = (event) => {
    lastEvent = Date.now();
    const { now, status: received } = JSON.parse(event.data);
    offset = now - Date.now() / 1000;
    status = received;
    link("live", "live");
    show();
    if (status.ended !== null) {
      source.close(); // the coordinator stops now; the page keeps its content
      link("ended", "ended");
    }
  };
  source.addEventListener("beat", () => { lastEvent = Date.now(); link("live", "live"); });
  source.onerror = lost; // the browser reconnects, unless the server refused the request
}

setInterval(() => {
  if (status && status.ended !== null) return;
  clock();
  if (source.readyState === EventSource.CLOSED || Date.now() - lastEvent > BEAT_TIMEOUT) {
    lost();
    if (Date.now() - lastEvent > RETRY) listen();
  }
}, 1000);
new ResizeObserver(() => { if (status) plots(); }).observe(document.querySelector("main"));
listen();
