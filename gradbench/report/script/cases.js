// All cases of the machine: exact filters, a search for words, sorting by number.

const COLUMNS = [
  ["function", "function", 1], ["operator", "operator", 2], ["mode", "mode", 1], ["size", "size", 2],
  ["dtype", "dtype", 3], ["seconds", "time", 1, time], ["to_fastest", "× fastest", 1, multiple],
  ["verdict", "verdict", 2], ["status", "status", 3], ["place", "device", 3], ["run", "run", 3]];
const DETAILS = [["reason", "reason"], ["note", "note"], ["q", "q-value", digits], ["to_forward", "× the function", multiple],
  ["to_baseline", "× usual choice", multiple], ["to_manual", "× by hand", multiple], ["peak_memory", "peak memory", bytes],
  ["ulps", "error (ulp)", digits], ["sessions", "sessions"], ["torch", "torch"]];
const STEP = 100;
const natural = new Intl.Collator("en", { numeric: true });
let limit = STEP;

const fold = (value) => String(value).toLowerCase();
// A word that is a whole value of a column finds that value only; any other finds parts.
const matcher = (text, every) => {
  const words = fold(text).split(/\s+/).filter(Boolean);
  const names = [...FILTERS, "device"];
  const tests = words.map((word) => {
    const exact = every.some((row) => names.some((name) => fold(row[name]) === word));
    return exact ? (row) => names.some((name) => fold(row[name]) === word)
      : (row) => [...names, "reason"].some((name) => fold(row[name]).includes(word));
  });
  return (row) => tests.every((test) => test(row));
};
const before = (name, a, b) => {
  if (typeof a === "number" || typeof b === "number") return a - b;
  if (name === "size") return (b === "documents") - (a === "documents") || natural.compare(a, b);
  return natural.compare(a, b);
};

const casesShown = () => {
  const every = rows.filter((row) => runOf[row.run].machine === now.machine);
  const exact = FILTERS.filter((name) => state["only-" + name]);
  const fits = matcher(state.find || "", every);
  const hits = every.filter((row) => exact.every((name) => String(row[name]) === state["only-" + name]) && fits(row));
  const [name, down] = (state.sort || "").split(" ");
  if (name) {
    const sign = down ? -1 : 1;
    hits.sort((a, b) => {
      const x = a[name], y = b[name], lacksX = x === null || x === "", lacksY = y === null || y === "";
      return lacksX || lacksY ? lacksX - lacksY : sign * before(name, x, y);
    });
  }
  return [every, hits];
};

const drawCases = () => {
  const [every, hits] = casesShown();
  const form = byId("filter"), typing = document.activeElement === form.elements.find;
  if (!typing) form.elements.find.value = state.find || "";
  for (const name of FILTERS) {
    const select = form.elements["only-" + name], values = unique(every.map((row) => String(row[name]))).sort((a, b) => before(name, a, b));
    select.parentElement.hidden = values.length < 2;
    select.replaceChildren(new Option("any", ""), ...values.filter(Boolean).map((v) =>
      new Option(short(v, 40), v, false, v === state["only-" + name])));
  }
  const [sorted, down] = (state.sort || "").split(" ");
  // A column that says the same of all says nothing.
  const columns = COLUMNS.filter(([name]) => !["dtype", "status", "place", "run"].includes(name)
    || unique(every.map((row) => row[name])).length > 1);
  const head = el("tr", {}, columns.map(([name, title, rank, form]) => el("th", { scope: "col", class: "p" + rank + (form ? " number" : ""),
    "aria-sort": sorted === name ? (down ? "descending" : "ascending") : "none" },
    el("button", { type: "button", run: () => choose("sort", sorted === name && !down ? name + " down" : name) }, title))));
  const lines = hits.slice(0, limit).map((row) => {
    const line = el("tr", {}, columns.map(([name, , rank, form]) => {
      const value = row[name], shown = value === null || value === "" ? "" : form ? form(value) : value;
      const sure = name === "to_fastest" && row.verdict === "undecided" ? "~" : "";
      const long = ["function", "mode", "run"].includes(name) ? " name" : "";
      return el("td", { class: "p" + rank + (form ? " number" : long) }, sure, long ? breakable(short(String(shown), 60)) : shown,
        name === "function" ? el("small", { class: "narrow" }, [row.operator, row.size === "documents" ? "" : row.size].filter(Boolean).join(" · ")) : null,
        name === "to_fastest" && value !== null && hasInterval(row) && row.verdict !== "fastest" ? el("small", { class: "p2" }, interval(row.to_fastest_low, row.to_fastest_high)) : null,
        name === "seconds" ? (row.status === "ok" ? null : el("small", {}, row.status)) : null);
    }));
    line.onclick = () => {
      const next = line.nextElementSibling;
      if (next && next.className === "detail") { next.remove(); return; }
      const said = DETAILS.filter(([name]) => row[name] !== null && row[name] !== undefined && row[name] !== "")
        .map(([name, title, form]) => `${title}: ${form ? form(row[name]) : row[name]}`);
      const rest = COLUMNS.map(([name, title, , form]) => `${title}: ${row[name] === null ? "" : form ? form(row[name]) : row[name]}`);
      line.after(el("tr", { class: "detail" }, el("td", { colspan: columns.length }, [...rest, ...said].join("; "))));
    };
    return line;
  });
  const table = byId("table");
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...lines);
  byId("count").textContent = `${counted(hits.length, "case")} of ${every.length}`
    + (limit < hits.length ? `, the first ${limit} shown` : "") + ". Select a row for the rest of its numbers.";
  byId("more").hidden = limit >= hits.length;
};
