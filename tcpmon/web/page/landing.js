
// Asks status.json every REFRESH_MS, while the page is seen, and shows what it says. All text goes in as text:
// names of processes are anybody's choice.

const REFRESH_MS = 2000;
const FIRST_MS = 1000; // from the first answer, which has no rates yet, to the second
const PATIENCE_MS = 10000;
const SHOWN = 100; // rows

const byId = (id) => document.getElementById(id);
const { version, labels: labelNames } = document.body.dataset;
const table = document.querySelector("table");
const labels = labelNames.split(" ").filter(Boolean);
const headings = [...document.querySelectorAll("thead th")];
const columns = headings
  .filter((th) => th.dataset.kind !== "label")
  .map((th) => ({ name: th.dataset.column, kind: th.dataset.kind, heading: th.textContent }));

let last = null; // the last answer, as follow() has it
let view = "rates";
let order = { column: "trend", down: true };
let paused = false;
let lostSince = null;
let timer = 0;
let asking = false;

// --- from label sets to the page

// What a column shows of a label set: null where it is not known
const valueOf = (set, column) =>
  view === "totals" || column.kind === "level" ? set.totals[column.name] : set.rates?.[column.name] ?? null;

function textOf(value, kind) {
  if (value === null) return "–";
  if (kind === "bytes") return bytes(value);
  return view === "totals" || kind === "level" ? whole(value) : value ? rate(value) : "0";
}

const element = (name, properties) => Object.assign(document.createElement(name), properties);

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function cell(kind, properties) {
  const made = element(kind, properties);
  made.setAttribute("role", kind === "th" ? "rowheader" : "cell");
  return made;
}

function newRow(set) {
  const row = element("tr");
  row.setAttribute("role", "row");
  labels.forEach((label, at) => {
    const text = set.values[at];
    const th = cell("th", { className: label, scope: "row" });
    const name = label === "netns" && last.names.get(text);
    if (name) th.append(element("span", { textContent: name }), " ", element("small", { textContent: text }));
    else th.textContent = text;
    row.append(th);
  });
  if (!labels.length) row.append(cell("th", { scope: "row", textContent: "all" }));
  for (const column of columns) {
    const td = cell("td");
    Object.assign(td.dataset, { kind: column.kind, heading: column.heading });
    row.append(td);
  }
  row.append(trendCell());
  return row;
}

function trendCell() {
  const td = cell("td", { className: "trend" });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true"); // the numbers beside it say what it draws
  for (const name of ["area", "line"]) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", name);
    svg.append(path);
  }
  td.append(svg);
  return td;
}

// Its runs of known points, right-aligned, from the largest at the top to 0 at the bottom
function runs(trend) {
  const top = Math.max(...trend, 0) || 1;
  const found = [];
  let run = null;
  trend.forEach((value, at) => {
    if (value === null) {
      run = null;
      return;
    }
    if (!run) found.push((run = []));
    run.push([KEPT - trend.length + at, (19 - (18 * value) / top).toFixed(1)]);
  });
  return found.filter((points) => points.length > 1);
}

function draw(svg, trend) {
  const [area, line] = svg.children;
  const found = runs(trend);
  const through = (points) => points.map(([x, y]) => `${x} ${y}`).join("L");
  line.setAttribute("d", found.map((points) => `M${through(points)}`).join(""));
  const closed = (points) => `M${points[0][0]} 20L${through(points)}L${points.at(-1)[0]} 20Z`;
  area.setAttribute("d", found.map(closed).join(""));
}

function fill(row, set) {
  const cells = row.querySelectorAll("td");
  columns.forEach((column, at) => {
    const value = valueOf(set, column);
    put(cells[at], textOf(value, column.kind));
    cells[at].classList.toggle("zero", !value);
  });
  draw(row.querySelector("svg"), set.trend);
  return row;
}

function sortKey(set) {
  if (order.column === "trend") return view === "totals" ? activity(set.totals) : set.trend.at(-1);
  const column = columns.find(({ name }) => name === order.column);
  if (column) return valueOf(set, column);
  return set.values[labels.indexOf(order.column)];
}

function compare(one, other) {
  const [a, b] = [sortKey(one), sortKey(other)];
  const by = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : (a ?? -1) - (b ?? -1);
  return (order.down ? -by : by) || activity(other.totals) - activity(one.totals);
}

function matching() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const names = (set) => [...set.values, ...set.values.map((value) => last.names.get(value) ?? "")];
  const text = (set) => names(set).join("\n").toLowerCase();
  return [...last.sets.values()].filter((set) => words.every((word) => text(set).includes(word)));
}

function note(matched) {
  const parts = [];
  if (last.sets.size < last.label_sets)
    parts.push(
      `Of ${whole(last.label_sets)} label sets, the ${whole(last.sets.size)} with most connections since ` +
        "counting began are followed here; the sum is of all.",
    );
  if (byId("filter").value.trim()) parts.push(`${whole(matched)} of ${whole(last.sets.size)} match the filter.`);
  if (matched > SHOWN) parts.push(`The first ${SHOWN} are shown.`);
  if (!last.sets.size) parts.push("No connection has been counted yet.");
  return parts.join(" ");
}

function showRows() {
  const matched = matching();
  const wanted = matched.sort(compare).slice(0, SHOWN);
  const rows = wanted.map((set) => fill((set.row ??= newRow(set)), set));
  const body = byId("rows");
  // Untouched where the order is the same: what is selected stays so
  const same = rows.length === body.children.length && rows.every((row, at) => row === body.children[at]);
  if (!same) body.replaceChildren(...rows);
  fill(document.querySelector(".sum tr"), last.sums);
  put(byId("note"), note(matched.length));
}

function show(answer) {
  // Rows are made anew where namespaces got other names
  const named = last && JSON.stringify(answer.netns) === JSON.stringify(last.netns);
  last = follow(last, answer);
  if (!named) for (const set of last.sets.values()) set.row = null;
  showFacts();
  showRows();
}

function showFacts() {
  put(byId("up"), last.up);
  put(byId("label-sets"), whole(last.label_sets));
  for (const { name, lines, warning } of last.facts) {
    const fact = byId(name);
    fact.classList.toggle("warning", warning);
    const dd = fact.querySelector("dd");
    if (dd.innerText !== lines.join("\n"))
      dd.replaceChildren(...lines.map((line) => element("span", { textContent: line })));
  }
}

function showState() {
  const bad = lostSince !== null;
  const every = `every ${REFRESH_MS / 1000} s`;
  const lost = bad && `Not reachable since ${lostSince.when} (${lostSince.why}). The numbers are from before.`;
  put(byId("state"), paused ? "Paused." : bad ? `${lost} Trying again ${every}.` : `Live, read ${every}.`);
  byId("state").classList.toggle("bad", bad && !paused);
  byId("state").classList.toggle("paused", paused);
  table.classList.toggle("stale", bad);
}

// --- when

async function ask() {
  const reply = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!reply.ok) throw new Error(`it answers ${reply.status} ${reply.statusText}`.trim());
  return reply.json();
}

function reason(error) {
  if (error.name === "TimeoutError") return `no answer in ${PATIENCE_MS / 1000} s`;
  if (error instanceof SyntaxError) return "it answers no JSON";
  return error instanceof TypeError ? "no connection" : error.message;
}

async function refresh() {
  if (asking) return;
  asking = true;
  let answer = null;
  try {
    answer = await ask();
    lostSince = null;
  } catch (error) {
    lostSince ??= { when: new Date().toLocaleTimeString("en-GB"), why: reason(error) };
  }
  // Another version, or other labels: the page is to be one of that kind
  if (answer && (answer.version !== version || answer.labels.join(" ") !== labelNames)) return location.reload();
  asking = false;
  if (answer) show(answer);
  showState();
  plan(last && !last.sums.rates && !lostSince ? FIRST_MS : REFRESH_MS);
}

function plan(milliseconds) {
  clearTimeout(timer);
  if (!paused && document.visibilityState === "visible") timer = setTimeout(refresh, milliseconds);
}

function sortBy(column, down) {
  const again = order.column === column;
  order = { column, down: again ? !order.down : down };
  for (const th of headings) {
    if (th.dataset.column === column) th.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  }
  if (last) showRows();
}

function choose(wanted) {
  view = wanted;
  table.classList.toggle("rates", view === "rates");
  for (const id of ["rates", "totals"]) byId(id).setAttribute("aria-pressed", String(id === view));
  for (const th of headings) {
    const unit = th.querySelector("small");
    if (unit) unit.hidden = view === "totals";
  }
  if (last) showRows();
}

function begin() {
  const trend = element("th", { scope: "col", textContent: "Trend" });
  trend.setAttribute("role", "columnheader");
  Object.assign(trend.dataset, { column: "trend", kind: "trend" });
  headings.at(-1).after(trend);
  headings.push(trend);
  document.querySelector(".sum tr").append(trendCell());
  for (const th of headings) {
    const { column, kind } = th.dataset;
    const button = element("button", { type: "button", textContent: th.textContent });
    if (kind === "rate" || kind === "bytes") button.append(element("small", { textContent: " /s" }));
    button.addEventListener("click", () => sortBy(column, kind !== "label"));
    th.replaceChildren(button);
  }
  trend.setAttribute("aria-sort", "descending");
  choose("rates");
  byId("filter").addEventListener("input", () => {
    if (!last) return;
    showRows();
    put(byId("found"), `${whole(matching().length)} label sets match.`); // is read out
  });
  byId("rates").addEventListener("click", () => choose("rates"));
  byId("totals").addEventListener("click", () => choose("totals"));
  byId("pause").addEventListener("click", () => {
    paused = !paused;
    put(byId("pause"), paused ? "Resume" : "Pause");
    showState();
    plan(0);
  });
  document.addEventListener("visibilitychange", () => plan(0));
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  document.querySelector(".controls").hidden = false;
  document.body.classList.add("live");
  refresh();
}

begin();
