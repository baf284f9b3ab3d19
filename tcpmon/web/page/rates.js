
"use strict";
// From answers of status.json, which have totals, to label sets with rates. Nothing here touches the page.

const STALE_S = 10; // over a longer gap a rate would be an average of long ago
const KEPT = 60; // refreshes in a sparkline

// --- numbers in words

function scaled(number, base, units) {
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) {
    number /= base;
    unit += 1;
  }
  const digits = number >= 99.95 || (unit === 0 && base === 1024) ? 0 : number >= 9.995 ? 1 : 2;
  return number.toFixed(digits) + units[unit];
}

const bytes = (number) => scaled(number, 1024, [" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"]);
const whole = (number) => number.toLocaleString("en-US");

function rate(number) {
  if (number < 9.95) return number.toFixed(1);
  return number < 999.5 ? number.toFixed(0) : scaled(number, 1000, ["", " k", " M", " G", " T"]);
}

// --- label sets

const activity = (numbers) => numbers.connects + numbers.accepts + numbers.failures;

// Per second since `before`; null where that is not known, or a counter began anew
function ratesSince(before, totals, seconds) {
  if (!before || !seconds) return null;
  const rates = {};
  for (const name of Object.keys(totals)) {
    if (name === "open") continue; // no counter
    if (totals[name] < before[name]) return null;
    rates[name] = (totals[name] - before[name]) / seconds;
  }
  return rates;
}

function labelSet(values, totals, old, before, seconds) {
  const rates = ratesSince(before, totals, seconds);
  const trend = [...(old ? old.trend : []), rates && activity(rates)].slice(-KEPT);
  return { values, totals, rates, trend, row: old ? old.row : null };
}

// The seconds from one answer to the next; 0 where they cannot be compared
function between(last, answer) {
  if (!last || last.started !== answer.started) return 0;
  const elapsed = answer.uptime - last.uptime;
  return elapsed > 0 && elapsed <= STALE_S ? elapsed : 0;
}

// The answer with its label sets by key, given the one before (null: the first). `sums` stands for all of them.
function follow(last, answer) {
  const width = answer.labels.length;
  const named = (numbers) => Object.fromEntries(answer.columns.map((name, at) => [name, numbers[at]]));
  const seconds = between(last, answer);
  // Where all are told of, one that was not there before had counted nothing
  const nothing = last && last.rows.length === last.label_sets ? named(answer.columns.map(() => 0)) : null;
  const sets = new Map();
  for (const row of answer.rows) {
    const values = row.slice(0, width);
    const key = JSON.stringify(values);
    const old = last && last.sets.get(key);
    sets.set(key, labelSet(values, named(row.slice(width)), old, old ? old.totals : nothing, seconds));
  }
  const sums = labelSet([], named(answer.total), last && last.sums, last && last.sums.totals, seconds);
  return { ...answer, sets, sums, names: new Map(Object.entries(answer.netns)) };
}
