// Lines over sizes and over releases.

const ticksOf = (low, high) => {
  const every = [];
  for (let power = -3; power < 7; power += 1)
    for (const step of high / low < 4 ? [1, 1.2, 1.4, 1.6, 2, 2.5, 3, 4, 5, 6, 7, 8, 9] : high / low < 30 ? [1, 1.5, 2, 3, 5, 7] : [1, 3])
      every.push(Number((step * 10 ** power).toPrecision(3)));
  const inside = every.filter((v) => v >= low * 0.999 && v <= high * 1.001);
  const step = Math.ceil(inside.length / 7);
  return inside.filter((v, at) => v === 1 || at % step === 0);
};

// Series of points over places on one logarithmic axis; strong ones are labelled at their ends.
const lines = ({ width, height, places, series, low, high, unit, described, labelled, tilted }) => {
  const right = labelled ? Math.min(190, width * 0.36) : 10, left = 42, top = 10, bottom = tilted ? 44 : 26;
  const across = width - left - right, down = height - top - bottom;
  const y = (v) => top + down * (1 - Math.log(v / low) / Math.log(high / low));
  const x = (at) => left + across * places[at].at;
  const clip = "clip" + Math.random().toString(36).slice(2);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": described },
    drawn("clipPath", { id: clip }, drawn("rect", { x: left - 6, y: top - 6, width: across + 12, height: down + 12 })));
  for (const v of ticksOf(low, high))
    svg.append(drawn("line", { x1: left, x2: left + across, y1: y(v), y2: y(v), class: v === 1 ? "unit" : "grid" }),
      drawn("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, `${v}${unit}`));
  let last = -1e9;
  places.forEach((place, at) => {
    if (x(at) - last < (tilted ? 16 : 9 * place.label.length)) return;
    last = x(at);
    svg.append(tilted
      ? drawn("text", { "text-anchor": "end", transform: `translate(${x(at) + 4} ${top + down + 14}) rotate(-40)` }, place.label)
      : drawn("text", { x: x(at), y: height - 6, "text-anchor": "middle" }, place.label));
  });
  const inner = drawn("g", { "clip-path": `url(#${clip})` }), ends = [];
  for (const one of [...series].sort((a, b) => a.strong - b.strong)) {
    const ink = one.ink || colour(one.mode, one.strong), known = one.points.filter((p) => p.y !== null);
    if (!known.length) continue;
    inner.append(drawn("polyline", { points: known.map((p) => `${x(p.at)},${y(p.y)}`).join(" "),
      style: `stroke:${ink}`, class: one.strong ? "strong" : "weak" }));
    for (const p of known) {
      if (p.low) inner.append(drawn("line", { x1: x(p.at), x2: x(p.at), y1: y(p.low), y2: y(p.high || high * 2), style: `stroke:${ink}`, class: "held" }));
      const size = p.mark || one.strong ? 10 : 5;
      inner.append(drawn("path", { d: p.mark || markPath(one.mode), style: `fill:${p.ink || ink}`,
        transform: `translate(${x(p.at) - size / 2} ${y(p.y) - size / 2}) scale(${size / 12})` }, drawn("title", {}, p.tip)));
    }
    if (one.strong && labelled) ends.push({ mode: one.mode, x: x(known[known.length - 1].at), y: y(known[known.length - 1].y) });
  }
  svg.append(inner);
  ends.sort((a, b) => a.y - b.y);
  ends.forEach((end, at) => { end.at = Math.max(end.y, at ? ends[at - 1].at + 15 : top + 4); });
  const over = ends.length ? Math.max(0, ends[ends.length - 1].at - (top + down)) : 0;
  for (const end of ends) {
    end.at -= over;
    const room = Math.floor((right - 26) / 6.6);
    svg.append(drawn("line", { x1: end.x + 6, y1: Math.min(Math.max(end.y, top), top + down), x2: left + across + 10, y2: end.at, class: "leader" }),
      drawn("path", { d: markPath(end.mode), style: `fill:${colour(end.mode, true)}`, transform: `translate(${left + across + 11} ${end.at - 5}) scale(.8)` }),
      drawn("text", { x: left + across + 24, y: end.at + 4 }, short(end.mode, room), drawn("title", {}, end.mode)));
  }
  return svg;
};

const drawScaling = (wide) => {
  const families = now.about ? now.about.families : [];
  byId("scaling").hidden = !families.length;
  if (!families.length) return;
  const names = families.map((f) => [f.operator, f.function, f.dtype, f.place].join(" · "));
  const first = families.findIndex((f) => f.operator === now.operator);
  const at = names.includes(state.over) ? names.indexOf(state.over) : Math.max(0, first);
  byId("over").replaceChildren(...names.map((name, i) => new Option(short(name, 70), name, false, i === at)));
  const family = families[at], sizes = family.points.map(([n]) => Math.log(n));
  const span = sizes[sizes.length - 1] - sizes[0] || 1;
  const places = family.points.map(([n], i) => ({ at: (sizes[i] - sizes[0]) / span, label: n >= 1e4 ? n.toExponential(0).replace("e+", "e") : String(n) }));
  const modes = new Map();
  family.points.forEach(([n, indices], i) => indices.forEach((index) => {
    const row = rows[index];
    if (row.to_fastest === null) return;
    if (!modes.has(row.mode)) modes.set(row.mode, { mode: row.mode, byHand: row.by_hand, points: [] });
    modes.get(row.mode).points.push({ at: i, y: row.to_fastest,
      tip: `${row.mode}, ${family.n} = ${n}: ${time(row.seconds)}, ${multiple(row.to_fastest)}×` });
  }));
  const series = [...modes.values()];
  for (const one of series) one.average = mean(one.points.map((p) => p.y));
  const ranked = series.filter((one) => !one.byHand && one.points.length > 1).sort((a, b) => a.average - b.average);
  const winners = unique(places.map((_, i) => (ranked.find((one) => one.points.some((p) => p.at === i && p.y <= 1.0001)) || {}).mode).filter(Boolean));
  const strong = new Set(unique([...winners, ...ranked.map((one) => one.mode)]).slice(0, 5));
  for (const one of series) one.strong = strong.has(one.mode);
  const heights = series.filter((one) => one.strong).flatMap((one) => one.points.map((p) => p.y));
  const high = Math.max(2, Math.min(1.15 * Math.max(...heights), 300));
  const width = wide || byId("scaling-chart").clientWidth || 700;
  byId("scaling-chart").replaceChildren(lines({ width, height: width < 600 ? 300 : 360, places, series,
    low: 0.93 * Math.min(1, ...heights), high, unit: "×", labelled: true,
    described: `time over ${family.n} as a multiple of the fastest: ${names[at]}` }));
  byId("scaling-note").replaceChildren(`Multiple of the fastest at each ${family.n} (torch ${family.torch}); grey: other modes. `,
    ...family.crossings.flatMap((crossing) => [...prose(crossing), " "]));
};

// ── releases ──

const drawReleases = (wide) => {
  const found = now.about && now.about.releases;
  byId("releases").hidden = !found;
  if (!found) return;
  const operator = own(found.operators, now.operator) ? now.operator : Object.keys(found.operators)[0];
  const { strip, cases } = found.operators[operator];
  const sign = (step) => (!step.cases ? "none" : step.average === null ? "none" : step.average > 1.02 ? "worse" : step.average < 0.98 ? "better" : "same");
  const part = (step, name, title) => el("li", { class: sign(step), title },
    el("b", {}, name), el("span", {}, step.average === null || !step.cases ? "start" : multiple(step.average) + "×"),
    step.cases ? el("small", {}, `▲ ${step.slower}  ▼ ${step.faster}`) : null);
  const parts = (steps) => steps.map((step, at) => part(step, found.names[at] + (found.notes[found.names[at]] ? "*" : ""),
    [found.dates[at], found.notes[found.names[at]]].filter(Boolean).join("; ")));
  byId("all-steps").replaceChildren(...parts(found.strip), ...(found.whole && found.whole.cases ? [part(found.whole, "first to last", "")] : []));
  byId("strip").replaceChildren(...parts(strip));
  byId("releases-title").textContent = `${operator}: each release against the one before; the average over its cases, `
    + "and how many became slower (▲) and faster (▼).";
  const bounds = cases.flatMap((one) => one.points.filter((p) => p && p[0] !== null).map((p) => p[0]));
  const low = Math.min(0.95, ...bounds) / 1.06, high = Math.max(1.05, ...bounds) * 1.06;
  const box = byId("panels"), room = wide || box.clientWidth || 700, columns = room < 560 ? 1 : room < 900 ? 2 : 3;
  const width = Math.floor((room - 14 * (columns - 1)) / columns);
  const places = found.names.map((label, at) => ({ label, at: found.names.length > 1 ? at / (found.names.length - 1) : 0.5 }));
  box.replaceChildren(...cases.map((one) => {
    const points = one.points.map((p, at) => !p || p[0] === null ? { at, y: null } : { at, y: p[0], low: p[1], high: p[2],
      mark: p[3] === "slower" ? MARKS[3] : p[3] === "faster" ? MARKS[4] : MARKS[0],
      ink: p[3] === "slower" ? "var(--bad)" : p[3] === "faster" ? "var(--good)" : "var(--grey)",
      tip: `${found.names[at]}: ${multiple(p[0])}×${interval(p[1], p[2])} ${p[3]}` });
    const name = one.size === "documents" ? one.function : `${one.function} (${one.size})`;
    return el("figure", {}, el("figcaption", {}, el("code", {}, short(one.mode, 40)), ` ${short(name, 40)}`),
      lines({ width, height: 170, places, series: [{ mode: one.mode, strong: true, ink: "var(--grey)", points }], low, high, unit: "×",
        tilted: true, described: `${one.mode} for ${name} over torch releases` }));
  }));
  const notes = Object.entries(found.notes).map(([release, what]) => `${release}: ${what}`);
  byId("releases-note").textContent = `Multiples of the time in ${found.baseline}; bars: interval between sessions. ${found.text}`
    + (notes.length ? ` * also differs from the build before: ${notes.join("; ")}.` : "");
};
