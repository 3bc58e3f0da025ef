// The data, the reader's choices (kept in the address), and what every part of the page uses.

const D = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

const fill = (made, given, inside) => {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "run") made.addEventListener("click", value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside.flat(Infinity).filter((part) => part !== null && part !== undefined));
  return made;
};
const el = (tag, given = {}, ...inside) => fill(document.createElement(tag), given, inside);
const drawn = (tag, given = {}, ...inside) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), given, inside);
// Prose and names of modes in turn.
const prose = (parts) => parts.map((part, at) => (at % 2 ? el("code", {}, part) : part));

// A value under a name that may be anything, such as "constructor".
const own = (named, name) => (Object.hasOwn(named, name) ? named[name] : undefined);

// ── numbers ──

const digits = (v) => (v >= 1e4 ? v.toExponential(1) : String(Number(v.toPrecision(3))));
const multiple = (v) => {
  if (v < 9.995) return v.toFixed(2);
  if (v < 99.95) return v.toFixed(1);
  return v < 9999.5 ? v.toFixed(0) : v.toExponential(1).replace("e+", "e");
};
const scaled = (v, steps) => {
  for (const [unit, scale] of steps) if (v < 999.5 * scale) return digits(v / scale) + " " + unit;
  const [unit, scale] = steps[steps.length - 1];
  return digits(v / scale) + " " + unit;
};
const time = (v) => scaled(v, [["ns", 1e-9], ["µs", 1e-6], ["ms", 1e-3], ["s", 1]]);
const bytes = (v) => scaled(v, [["B", 1], ["KiB", 1024], ["MiB", 1048576], ["GiB", 1073741824]]);
const interval = (low, high) =>
  low === null ? "" : ` [${multiple(low)}, ${high === null ? "∞" : multiple(high)}]`;
const mean = (values) => Math.exp(values.reduce((sum, v) => sum + Math.log(v), 0) / values.length);
const short = (name, most) => {
  if (name.length <= most) return name;
  const end = Math.floor(most / 2) - 1;
  return name.slice(0, most - end - 1) + "…" + name.slice(name.length - end);
};
// A long name may break after its underscores.
const breakable = (name) => name.split(/(?<=_)/).flatMap((part, at) => (at ? [el("wbr"), part] : [part]));
const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

// ── cases ──

const placeOf = (row) =>
  row.device.startsWith("cpu") ? `${row.device}, ${counted(Number(row.threads), "thread")}` : row.device;
const rows = (() => {
  const names = Object.keys(D.rows);
  if (!names.length) return [];
  const read = names.map((name) => {
    const c = D.rows[name];
    return Array.isArray(c) ? (i) => c[i] : (i) => c.texts[c.at[i]];
  });
  const first = D.rows[names[0]];
  const count = Array.isArray(first) ? first.length : first.at.length;
  return Array.from({ length: count }, (_, i) => {
    const row = { i };
    names.forEach((name, at) => { row[name] = read[at](i); });
    row.place = placeOf(row);
    row.label = row.size === "documents" ? row.function : `${row.function} (${row.size})`;
    return row;
  });
})();
const runOf = Object.fromEntries(D.runs.map((run) => [run.name, run]));
const hasInterval = (row) => Number(row.sessions) > 1;

// ── one colour and one mark for each mode ──

const MARKS = D.marks;
const numberOf = (mode) => own(D.looks, mode) || 0;
const colour = (mode, strong) => (strong ? `var(--series-${numberOf(mode) % D.colours})` : "var(--grey)");
const markPath = (mode) => MARKS[numberOf(mode) % MARKS.length];
const mark = (mode, strong) =>
  drawn("svg", { class: "mark", viewBox: "0 0 12 12", "aria-hidden": "true" },
    drawn("path", { d: markPath(mode), style: `fill:${colour(mode, strong)}` }));

// ── the reader's choices ──

const BASELINES = { fastest: "the fastest", baseline: "the usual choice",
  forward: "the function itself", manual: "the derivative by hand" };
const FILTERS = ["operator", "function", "mode", "size", "dtype", "place", "verdict", "status", "run"];
const KEYS = ["machine", "run", "operator", "dtype", "place", "size", "baseline", "compare", "mode",
  "over", "find", "sort", ...FILTERS.map((name) => "only-" + name)];
const state = {};
let now = {};

const readAddress = () => {
  for (const key of KEYS) delete state[key];
  if (!location.hash.includes("=")) return;
  for (const [key, value] of new URLSearchParams(location.hash.slice(1)))
    if (KEYS.includes(key)) state[key] = value;
};
const writeAddress = () => {
  const kept = new URLSearchParams();
  for (const key of KEYS) if (state[key]) kept.set(key, state[key]);
  // A page from disk may change nothing of its address but this.
  history.replaceState(null, "", "#" + kept);
};

const unique = (values) => [...new Set(values)];
// The options of each selector by those before it; a choice that is not there gives way.
const settle = () => {
  const chosen = {};
  const pick = (key, options, fallback) => {
    chosen[key] = options.includes(state[key]) ? state[key] : options.includes(fallback) ? fallback : options[0];
    chosen[key + "s"] = options;
    return chosen[key];
  };
  const machine = D.machines.find((m) => m.name === pick("machine", D.machines.map((m) => m.name)));
  chosen.about = machine;
  let views = D.views.filter((v) => machine && runOf[v.run].machine === machine.name);
  for (const [key, fallback] of [["run", machine && machine.run], ["operator", machine && machine.operator],
    ["dtype"], ["place"], ["size", ""]]) {
    const options = unique(views.map((v) => v[key]));
    if (key === "run") options.reverse();
    const value = pick(key, options, fallback);
    views = views.filter((v) => v[key] === value);
  }
  chosen.view = views[0];
  const view = chosen.view;
  chosen.rows = !view ? [] : rows.filter((r) => r.run === view.run && r.operator === view.operator
    && r.dtype === view.dtype && r.place === view.place && (!view.size || r.size === view.size));
  pick("baseline", Object.keys(BASELINES).filter((name) => name === "fastest"
    || chosen.rows.some((r) => r["to_" + name] !== null)), "fastest");
  chosen.modes = view ? standings(view, chosen.rows, chosen.baseline) : [];
  chosen.strong = view ? highlighted(view) : new Set();
  pick("compare", unique(chosen.rows.map((r) => r.label)));
  now = chosen;
};

const ratio = (row, end = "") => row["to_" + now.baseline + end];
// The modes with their averages: those of the rule, or multiples of another baseline.
const standings = (view, measured, baseline) => {
  if (baseline === "fastest") return view.modes;
  const made = view.modes.map((m) => {
    const known = measured.filter((r) => r.mode === m.mode && r["to_" + baseline] !== null);
    const values = known.map((r) => r["to_" + baseline]);
    const worst = known[values.indexOf(Math.max(...values))];
    return { ...m, low: null, high: null, tied: false, covered: known.length,
      average: known.length ? mean(values) : null,
      worst: worst ? worst["to_" + baseline] : null, worstCase: worst ? worst.label : "" };
  }).filter((m) => m.average !== null);
  return made.sort((a, b) => a.byHand - b.byHand || a.average - b.average);
};
// The five modes that are drawn in colour: the first, the usual choice, and the next ones.
const highlighted = (view) => {
  const modes = view.modes.filter((m) => !m.byHand).map((m) => m.mode);
  const usual = modes.includes(view.usual) ? [view.usual] : [];
  return new Set(unique([...modes.slice(0, 1), ...usual, ...modes]).slice(0, 5));
};
