// Draws everything, and again when a choice, the address or the width changes.

const drawTrust = () => {
  const about = now.about || { caveats: [], trust: [], environments: [] };
  byId("caveats").replaceChildren(...about.caveats.map((text) => el("li", {}, text)));
  byId("caveats").hidden = !about.caveats.length;
  byId("certain").replaceChildren(...about.trust.map((text) => el("li", {}, text)));
  byId("environments").replaceChildren(...about.environments.map((one, at) => el("details", { open: at === 0 },
    el("summary", {}, one.run), el("dl", {}, Object.entries(one).filter(([name, value]) => value && name !== "run")
      .map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])))));
  for (const part of document.querySelectorAll("[data-machine]")) part.hidden = part.dataset.machine !== now.machine;
};

const PARTS = ["functions", "comparison"];
const render = () => {
  settle();
  hideCard();
  writeAddress();
  drawSelectors();
  drawAnswer();
  drawSummary();
  for (const id of PARTS) byId(id).hidden = !now.view;
  byId("first").hidden = byId("operators").hidden = !now.view;
  byId("cases").hidden = !rows.length;
  if (now.view) { drawMatrix(); drawComparison(); }
  drawScaling();
  drawReleases();
  drawCases();
  drawTrust();
};

const drawWide = (width) => {
  if (now.view) drawMatrix(width);
  drawScaling(width);
  drawReleases(width);
};

byId("compare").onchange = (event) => { delete state.mode; choose("compare", event.target.value); };
byId("over").onchange = (event) => choose("over", event.target.value);
byId("filter").addEventListener("input", (event) => {
  limit = STEP;
  choose(event.target.name, event.target.value);
});
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("more").onclick = () => { limit += 5 * STEP; drawCases(); };
// A link inside the page keeps the choices in the address.
document.addEventListener("click", (event) => {
  const link = event.target.closest && event.target.closest("a[href^='#']");
  const part = link && byId(link.getAttribute("href").slice(1));
  if (!part) return;
  event.preventDefault();
  part.scrollIntoView();
});
window.addEventListener("hashchange", () => {
  const part = location.hash.length > 1 && !location.hash.includes("=") && byId(location.hash.slice(1));
  if (part) { part.scrollIntoView(); return; }
  readAddress();
  render();
});
let drawnAt = innerWidth;
window.addEventListener("resize", () => {
  if (innerWidth === drawnAt) return;
  drawnAt = innerWidth;
  drawWide();
});
// A sheet of paper is as wide as this; browsers lay it out after the event.
window.addEventListener("beforeprint", () => drawWide(680));
window.addEventListener("afterprint", () => drawWide());

document.documentElement.classList.add("scripted");
const asked = location.hash.length > 1 && !location.hash.includes("=") && byId(location.hash.slice(1));
readAddress();
watchCells();
render();
if (asked) asked.scrollIntoView();
