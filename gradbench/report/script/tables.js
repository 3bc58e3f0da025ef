// Function × mode, what a cell knows, and one comparison with its code.

const SIGNS = { unsupported: "–", refused: "R", wrong: "W", failed: "F", crashed: "C",
  "timed out": "T", "out of memory": "M" };
const STEPS = [1.1, 1.25, 1.6, 2.5, 5, 12];
const shade = (v) => {
  if (v < 0.9) return v < 0.5 ? "f2" : "f1";
  const at = STEPS.findIndex((end) => v < end);
  return "h" + (at < 0 ? STEPS.length : at);
};
const close = (row) => (now.baseline === "fastest" ? row.verdict === "undecided"
  : hasInterval(row) && ratio(row, "_low") !== null && ratio(row, "_low") < 1
    && (ratio(row, "_high") === null || ratio(row, "_high") > 1));

let columnsFrom = 0, focused = "";

const drawMatrix = (wide) => {
  const table = byId("matrix");
  const width = wide || table.parentElement.clientWidth || 800;
  const phone = width < 600, labels = unique(now.rows.filter((r) => r.mode !== "forward").map((r) => r.label));
  const named = phone ? 116 : Math.min(280, 24 + 8.3 * Math.max(10, ...labels.map((label) => Math.min(32, label.length))));
  const timed = new Set(now.modes.map((m) => m.mode));
  const others = unique(now.rows.map((r) => r.mode)).filter((m) => m !== "forward" && !timed.has(m));
  const all = [...now.modes, ...others.map((mode) => ({ mode, average: null, byHand: false }))];
  const most = Math.max(3, Math.floor((width - named) / (wide ? 28 : phone ? 48 : 52)));
  columnsFrom = Math.min(columnsFrom, Math.max(0, all.length - most));
  const columns = all.slice(columnsFrom, columnsFrom + most);
  const each = Math.min(72, Math.floor((width - named) / columns.length) - 2);
  table.style.setProperty("--each", each + "px");
  table.style.setProperty("--named", named - 4 + "px");
  const firstByHand = columns.findIndex((m) => m.byHand);
  const edge = (at) => (at === firstByHand && at > 0 ? " apart" : "");
  const cells = new Map(now.rows.map((r) => [r.label + "\n" + r.mode, r]));
  const heads = columns.map((m, at) => el("th", { scope: "col", class: "mode" + edge(at), title: m.mode },
    el("span", {}, mark(m.mode, now.strong.has(m.mode)), short(m.mode, 30), m.byHand ? " (by hand)" : "")));
  const averages = columns.map((m, at) => m.average === null ? el("td", { class: edge(at) }, "–")
    : el("td", { class: shade(m.average) + edge(at), title: `${m.mode}: ${multiple(m.average)}`
      + `${interval(m.low, m.high)} over ${m.covered}` }, multiple(m.average)));
  const body = labels.map((label) => {
    const open = () => { state.compare = label; delete state.mode; render(); byId("comparison").scrollIntoView(); };
    return el("tr", { class: label === now.compare ? "chosen" : null },
      el("th", { scope: "row" }, el("button", { type: "button", run: open, title: label }, breakable(short(label, 32)))),
      columns.map((m, at) => {
        const row = cells.get(label + "\n" + m.mode);
        if (!row) return el("td", { class: edge(at) }, "");
        const v = ratio(row), known = v !== null;
        const sign = row.status === "ok" ? "·" : SIGNS[row.status] || "·";
        const cell = el("td", { class: (known ? shade(v) : "none") + (row.verdict === "fastest" ? " win" : "") + edge(at) },
          known ? (close(row) ? "~" : "") + multiple(v) : sign);
        cell.dataset.row = row.i;
        cell.tabIndex = -1;
        fill(cell, { "aria-haspopup": "dialog", "aria-label": `${m.mode} for ${label}: `
          + (known ? multiple(v) + "×" + (row.verdict === "fastest" ? ", the fastest" : close(row) ? ", too close to call" : "") : row.status) }, []);
        return cell;
      }));
  });
  table.replaceChildren(
    el("thead", {}, el("tr", {}, el("td", { class: "corner" }, ""), heads)),
    el("tbody", {}, el("tr", { class: "average" }, el("th", { scope: "row" }, "average"), averages), body));
  // One cell at a time takes the focus; the arrows move it.
  const cellsOf = [...table.querySelectorAll("td[data-row]")];
  const current = cellsOf.find((cell) => cell.dataset.row === focused) || cellsOf[0];
  if (current) current.tabIndex = 0;
  const pager = byId("pager"), several = all.length > columns.length;
  pager.hidden = !several;
  if (several) {
    const move = (by) => () => { columnsFrom = Math.max(0, Math.min(all.length - most, columnsFrom + by)); drawMatrix(); };
    pager.replaceChildren(
      el("button", { type: "button", run: move(-most), disabled: columnsFrom === 0, "aria-label": "previous modes" }, "‹"),
      ` modes ${columnsFrom + 1} to ${columnsFrom + columns.length} of ${all.length} `,
      el("button", { type: "button", run: move(most), disabled: columnsFrom + columns.length >= all.length, "aria-label": "next modes" }, "›"));
  }
  const missing = unique(now.rows.filter((r) => ratio(r) === null && r.status !== "ok" && r.mode !== "forward").map((r) => r.status));
  // More modes than a sheet is wide are said to be missing.
  const left = all.length - columns.length;
  byId("signs").textContent = ["Outlined: the fastest", "~: too close to call",
    ...missing.map((status) => `${SIGNS[status] || "·"}: ${status}`),
    ...(wide && left ? [`${counted(left, "mode")} not printed`] : [])].join("; ") + ".";
};

// ── what a cell knows ──

const VERDICTS = { fastest: "the fastest automatic mode", faster: "faster than the fastest automatic mode",
  slower: "slower", same: "no difference that matters", undecided: "too close to call", "": "not judged" };
const codeOf = (row) => own(own(D.code, row.operator) || {}, row.mode);
const facts = (row) => {
  const said = [];
  if (row.status !== "ok") said.push(`${row.status}: ${row.reason}`);
  if (row.seconds !== null) said.push(`${time(row.seconds)} a call (sessions: ${time(row.seconds_low)} to ${time(row.seconds_high)})`);
  for (const [name, words] of Object.entries(BASELINES)) {
    const v = row["to_" + name];
    if (v !== null && (name === "fastest" || name === now.baseline))
      said.push(`${multiple(v)}× ${words}` + (hasInterval(row) ? interval(row[`to_${name}_low`], row[`to_${name}_high`]) : " (one session, no interval)"));
  }
  if (row.seconds !== null) said.push(VERDICTS[row.verdict] + (row.q !== null && row.q !== undefined ? `, q ${row.q < 0.001 ? "< 0.001" : "= " + digits(row.q)}` : ""));
  const rivals = rows.filter((r) => r.run === row.run && r.operator === row.operator && r.label === row.label
    && r.dtype === row.dtype && r.place === row.place && !r.by_hand && r.mode !== "forward" && r.to_fastest !== null)
    .sort((a, b) => a.to_fastest - b.to_fastest);
  const fastest = rivals.find((r) => r.verdict === "fastest");
  if (row.verdict === "fastest") {
    const second = rivals.find((r) => r !== row);
    if (second) said.push(`runner-up: ${second.mode}, ${multiple(second.to_fastest)}×` + (hasInterval(second) ? interval(second.to_fastest_low, second.to_fastest_high) : ""));
  } else if (fastest) said.push(`fastest: ${fastest.mode}, ${time(fastest.seconds)}`);
  if (row.peak_memory !== null && row.peak_memory !== undefined) said.push(`peak memory ${bytes(row.peak_memory)}`);
  if (row.note) said.push(row.note);
  return said;
};

let pinned = null;
const hideCard = () => {
  const card = byId("card"), back = pinned && card.contains(document.activeElement) ? pinned : null;
  card.hidden = true;
  pinned = null;
  if (back) back.focus();
};
const showCard = (cell, pin) => {
  const row = rows[Number(cell.dataset.row)], card = byId("card"), code = codeOf(row);
  pinned = pin ? cell : null;
  fill(card, { role: "dialog", tabindex: "-1", "aria-label": `${row.mode} for ${row.label}` }, []);
  card.replaceChildren(el("b", {}, row.mode), ` for ${row.label}`,
    el("ul", {}, facts(row).map((text) => el("li", {}, text))),
    pin ? el("p", {}, el("button", { type: "button", run: () => {
      Object.assign(state, { compare: row.label, mode: row.mode }); hideCard(); render(); byId("comparison").scrollIntoView();
    } }, "Compare all modes"), " ", el("button", { type: "button", run: hideCard }, "Close")) : null,
    code ? el("pre", {}, code[1].split("\n").slice(0, 14).join("\n") + (code[1].split("\n").length > 14 ? "\n…" : "")) : null);
  card.hidden = false;
  const at = cell.getBoundingClientRect(), room = document.documentElement.clientWidth;
  const left = Math.max(8, Math.min(at.left, room - card.offsetWidth - 8));
  const below = at.bottom + card.offsetHeight + 8 < innerHeight || at.top < card.offsetHeight + 8;
  card.style.left = left + scrollX + "px";
  card.style.top = (below ? at.bottom + 4 : at.top - card.offsetHeight - 4) + scrollY + "px";
};
const STEPS_OF = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
// The next cell with content in a direction; none at an edge.
const nextCell = (cell, [down, across]) => {
  let row = cell.parentElement, at = cell.cellIndex;
  while (row) {
    row = down > 0 ? row.nextElementSibling : down < 0 ? row.previousElementSibling : row;
    at += across;
    const next = row && row.cells[at];
    if (!next) return null;
    if (next.dataset.row) return next;
  }
  return null;
};
const moveFocus = (from, to) => {
  from.tabIndex = -1;
  to.tabIndex = 0;
  focused = to.dataset.row;
  to.focus();
};
const watchCells = () => {
  const table = byId("matrix");
  const cellOf = (event) => event.target.closest && event.target.closest("td[data-row]");
  table.addEventListener("pointerover", (event) => {
    const cell = cellOf(event);
    if (event.pointerType === "mouse" && cell && !pinned) showCard(cell, false);
  });
  table.addEventListener("pointerleave", () => { if (!pinned) hideCard(); });
  table.addEventListener("click", (event) => { const cell = cellOf(event); if (cell) showCard(cell, true); });
  table.addEventListener("keydown", (event) => {
    const cell = cellOf(event);
    if (!cell || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") {
      showCard(cell, true);
      byId("card").focus();
    } else if (own(STEPS_OF, event.key)) {
      const next = nextCell(cell, STEPS_OF[event.key]);
      if (next) moveFocus(cell, next);
    } else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideCard(); });
  document.addEventListener("click", (event) => {
    if (pinned && !byId("card").contains(event.target) && !cellOf(event)) hideCard();
  });
};

// ── one comparison ──

const drawComparison = () => {
  const select = byId("compare");
  select.replaceChildren(...now.compares.map((label) => new Option(short(label, 60), label, false, label === now.compare)));
  const timed = now.rows.filter((r) => r.label === now.compare && r.mode !== "forward" && ratio(r) !== null)
    .sort((a, b) => a.by_hand - b.by_hand || ratio(a) - ratio(b));
  const fastest = timed.find((r) => r.verdict === "fastest");
  const shown = timed.find((r) => r.mode === state.mode) || fastest || timed[0];
  const end = (r) => (hasInterval(r) && ratio(r, "_high") !== null ? ratio(r, "_high") : ratio(r));
  const start = (r) => (hasInterval(r) && ratio(r, "_low") !== null ? ratio(r, "_low") : ratio(r));
  // Cropped to the best half: slower ones stand at the edge with their number.
  const automatic = timed.filter((r) => !r.by_hand), half = automatic.slice(0, Math.max(2, Math.ceil(automatic.length / 2)));
  const best = half.length ? Math.min(...half.map((r) => ratio(r))) : 1;
  const least = Math.min(best, ...half.map(start)), most = Math.max(1.05 * best, ...half.map(end).filter((v) => v < 4 * best));
  const pad = (most - least) * 0.06 || 0.05, from = Math.max(0, least - pad), to = most + pad;
  const at = (v) => 100 * Math.min(1, Math.max(0, (v - from) / (to - from)));
  byId("dots").replaceChildren(...timed.map((r) => {
    const v = ratio(r), over = v > to || v < from, strong = now.strong.has(r.mode) || r === fastest;
    const open = () => { state.mode = r.mode; render(); };
    return el("li", { class: "dot" + (r.by_hand ? " hand" : "") + (r === shown ? " chosen" : "") },
      el("button", { type: "button", run: open, title: r.mode, "aria-pressed": String(r === shown) },
        mark(r.mode, strong), el("span", {}, breakable(short(r.mode, 34))), r.by_hand ? el("small", {}, " by hand") : null),
      el("span", { class: "track" },
        1 >= from && 1 <= to ? el("span", { class: "one", style: `left:${at(1)}%` }) : null,
        over ? el("span", { class: "beyond" + (v < from ? " left" : "") }, v < from ? "←" : "→")
          : [hasInterval(r) ? el("span", { class: "whisker", style: `left:${at(start(r))}%;width:${at(end(r)) - at(start(r))}%;background:${colour(r.mode, strong)}` }) : null,
            drawn("svg", { class: "mark point", viewBox: "0 0 12 12", style: `left:${at(v)}%` },
              drawn("path", { d: markPath(r.mode), style: `fill:${colour(r.mode, strong)}` }))]),
      el("span", { class: "value" }, el("b", {}, (close(r) ? "~" : "") + multiple(v) + "×"), " ",
        el("small", {}, hasInterval(r) && r.verdict !== "fastest" ? interval(ratio(r, "_low"), ratio(r, "_high")).trim() : "", " ", time(r.seconds))));
  }));
  byId("dots-title").textContent = timed.length ? `${now.operator} of ${now.compare}: time as a multiple of `
    + `${BASELINES[now.baseline]}, with ${Math.round(100 * runOf[now.run].confidence)} % intervals between sessions; axis from ${multiple(from)}× to ${multiple(to)}×.` : "Nothing was timed here.";
  const code = shown && codeOf(shown);
  byId("code").hidden = !code;
  if (code) {
    byId("code").replaceChildren(el("h3", {}, "The code of ", el("code", {}, shown.mode)), el("p", {}, code[0]),
      el("pre", { tabindex: "0" }, code[1]), el("p", { class: "faint" }, D.codeOf));
  }
};
