// The first screen: machine, conditions, selectors, the answer, its bars; and all operators.

const TITLES = { machine: "Machine", run: "Run", operator: "Operator", dtype: "Dtype",
  place: "Device", size: "Size", baseline: "Multiple of" };
const optionText = (key, value) => {
  if (key === "run") {
    const run = runOf[value];
    return `${run.started}, torch ${run.torch}, ${counted(run.cases, "case")}`;
  }
  if (key === "size") return value === "" ? "all" : value === "documents" ? "documents (small example inputs)" : value;
  if (key === "baseline") return BASELINES[value];
  return value;
};

const choose = (key, value) => {
  state[key] = value;
  render();
};

const drawSelectors = () => {
  const form = byId("selectors");
  const focused = document.activeElement && document.activeElement.name;
  form.replaceChildren(...Object.keys(TITLES).filter((key) =>
    now[key + "s"].length > (["operator", "run", "machine"].includes(key) ? 0 : 1)).map((key) => {
    const select = el("select", { name: key });
    for (const value of now[key + "s"])
      select.add(new Option(short(optionText(key, value), 60), value, false, value === now[key]));
    select.onchange = () => choose(key, select.value);
    return el("label", {}, TITLES[key], select);
  }));
  if (focused && form.elements[focused]) form.elements[focused].focus();
};

// Where an axis of averages ends: see answers.axis_end.
const axisEnd = (modes) => {
  const automatic = modes.filter((m) => !m.byHand);
  if (!automatic.length) return 2;
  const averages = automatic.map((m) => m.average).sort((a, b) => a - b);
  const first = automatic[0], middle = averages[Math.floor(averages.length / 2)];
  return Math.max(1.5, Math.min(first.worst, 3 * first.average), Math.min(1.3 * middle, 4 * first.average)) * 1.1;
};

const drawAnswer = () => {
  const view = now.view, about = now.about;
  byId("machine").textContent = now.machine || "";
  byId("conditions").textContent = (about && about.conditions[now.run]) || "";
  const caveats = now.run ? runOf[now.run].caveats : [];
  byId("caution").hidden = !caveats.length;
  byId("caution").replaceChildren(...caveats.slice(0, 2).map((text) => short(text, 240) + " "),
    el("a", { href: "#trust" }, "Caveats"));
  byId("operator").textContent = view ? `${view.operator}: ${own(D.meanings, view.operator) || ""}` : "";
  byId("unit").textContent = BASELINES[now.baseline] + (now.baseline === "fastest" ? " automatic mode" : "");
  byId("sentence").replaceChildren(...(view ? prose(view.text) : []));
  const modes = now.modes, end = axisEnd(modes);
  const line = (m) => el("li", { class: "bar" + (m.byHand ? " hand" : ""), title:
    `${m.mode}: ${multiple(m.average)}×${interval(m.low, m.high)} on average over ${m.covered}, `
    + `${multiple(m.worst)}× at worst (${m.worstCase})` },
    el("span", { class: "name" }, mark(m.mode, now.strong.has(m.mode)), el("span", {}, breakable(short(m.mode, 34))),
      m.tied ? el("abbr", { title: "too close to call" }, " ~") : null,
      view.usual === m.mode ? el("small", {}, " usual") : null),
    el("span", { class: "track" },
      el("span", { class: "fill" + (m.average > end ? " over" : ""), style:
        `width:${Math.min(100, 100 * m.average / end)}%;background:${colour(m.mode, now.strong.has(m.mode))}` }),
      m.worst <= end ? el("span", { class: "tick", style: `left:${100 * m.worst / end}%` }) : null,
      1 < end ? el("span", { class: "one", style: `left:${100 / end}%` }) : null),
    el("span", { class: "value" }, el("b", {}, multiple(m.average) + "×"), " ",
      el("small", {}, multiple(m.worst) + "× " + (m.covered < view.comparisons ? `(${m.covered} of ${view.comparisons})` : ""))));
  byId("bars").replaceChildren(...modes.map(line));
  byId("bars-title").textContent = view ? `Average time as a multiple of ${BASELINES[now.baseline]}, `
    + "and the worst case (tick, small number). Shorter is better." : "";
};

const drawSummary = () => {
  const found = D.views.filter((v) => v.run === now.run && !v.size);
  const body = byId("summary").tBodies[0];
  const several = (v) => found.filter((other) => other.operator === v.operator).length > 1;
  body.replaceChildren(...found.map((v) => {
    const modes = v.modes.filter((m) => !m.byHand), first = modes[0], usual = modes.find((m) => m.mode === v.usual);
    const ties = modes.filter((m) => m.tied && m !== first).length;
    const open = () => { Object.assign(state, { operator: v.operator, dtype: v.dtype, place: v.place, size: "" });
      delete state.compare; render(); byId("top").scrollIntoView(); };
    return el("tr", { class: ["operator", "dtype", "place"].every((key) => v[key] === now[key]) ? "chosen" : null },
      el("th", { scope: "row" }, el("button", { type: "button", run: open }, breakable(short(v.operator, 40))),
        several(v) ? el("small", {}, ` ${v.dtype}, ${v.place}`) : null),
      el("td", {}, el("code", {}, breakable(short(first.mode, 40))), ties ? el("small", {}, ` ~ ${ties} more`) : null),
      el("td", { class: "number" }, multiple(first.average)),
      el("td", { class: "number", title: first.worstCase }, multiple(first.worst)),
      el("td", { class: "wide-only" }, usual ? el("code", {}, breakable(short(usual.mode, 40))) : "–"),
      el("td", { class: "number wide-only" }, usual ? multiple(usual.average) : "–"));
  }));
};
