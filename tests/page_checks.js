// What tests/test_report_browser.py measures in the page.

const shown = (e) => e.getClientRects().length > 0;
const everything = () => [...document.querySelectorAll("body *")].filter(shown);
const named = (e) => e.outerHTML.slice(0, 120);

// Elements beyond the screen's edge, elements without room for their text, and cut texts of figures.
window.tooWide = () => ({
  page: document.documentElement.scrollWidth,
  screen: innerWidth,
  beyond: everything().filter((e) => getComputedStyle(e).position !== "absolute"
    && e.getBoundingClientRect().right > innerWidth + 1).map(named),
  clipped: everything().filter((e) => !["SELECT", "OPTION", "svg"].includes(e.tagName)
    && !e.closest("svg") && ["hidden", "auto", "scroll"].includes(getComputedStyle(e).overflowX)
    && e.innerText && e.scrollWidth > e.clientWidth + 1).map(named),
  texts: [...document.querySelectorAll("svg text")].filter((text) => {
    const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
    return box.width && (box.right > frame.right + 1 || box.left < frame.left - 1
      || box.bottom > frame.bottom + 1 || box.top < frame.top - 1);
  }).map((text) => text.textContent),
});

// Texts whose contrast with what is behind them is below 4.5, by WCAG 2's formula.
const parsed = (text) => {
  const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
  return [r, g, b, a];
};
const luminance = ([r, g, b]) => {
  const part = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
};
const behind = (e) => {
  for (let one = e; one; one = one.parentElement) {
    const found = parsed(getComputedStyle(one).backgroundColor);
    if (found[3] > 0.99) return found;
  }
  return [255, 255, 255, 1];
};
window.poorContrast = () => everything().filter((e) => !e.closest("svg") && !e.disabled
  && [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim()))
  .map((e) => {
    const a = luminance(parsed(getComputedStyle(e).color)), b = luminance(behind(e));
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), named(e)];
  }).filter(([ratio]) => ratio < 4.5);
