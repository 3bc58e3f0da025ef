"use strict";
(() => {
  const packed = JSON.parse(document.getElementById("rows").textContent);
  const get = (name, i) => {
    const c = packed[name];
    return Array.isArray(c) ? c[i] : c.texts[c.at[i]];
  };
  const length = Array.isArray(packed.operator) ? packed.operator.length : packed.operator.at.length;
  const digits = (v) => (v >= 1e4 ? v.toExponential(1) : String(Number(v.toPrecision(3))));
  const scaled = (v, steps) => {
    for (const [unit, scale] of steps) if (v < 999.5 * scale) return digits(v / scale) + " " + unit;
    const [unit, scale] = steps[steps.length - 1];
    return digits(v / scale) + " " + unit;
  };
  const time = (v) => scaled(v, [["ns", 1e-9], ["µs", 1e-6], ["ms", 1e-3], ["s", 1]]);
  const bytes = (v) => scaled(v, [["B", 1], ["KiB", 1024], ["MiB", 1048576], ["GiB", 1073741824]]);
  const held = (v, i) => {
    const low = get("to_fastest_low", i), high = get("to_fastest_high", i);
    if (low === null || Number(get("sessions", i)) < 2) return digits(v);
    return digits(v) + " [" + digits(low) + ", " + (high > 1e300 ? "∞" : digits(high)) + "]";
  };
  const columns = [["operator"], ["function"], ["mode"], ["size"], ["seconds", "time", time],
    ["to_fastest", "× fastest", held], ["verdict"], ["status"], ["reason"], ["note"],
    ["to_forward", "× forward", digits], ["to_baseline", "× baseline", digits],
    ["peak_memory", "peak memory", bytes], ["ulps", "error (ulp)", digits], ["sessions"],
    ["dtype"], ["device"], ["threads"], ["torch"], ["run"]];
  const form = document.getElementById("filter");
  for (const name of ["operator", "verdict", "status"]) {
    const values = packed[name].texts || [];
    const select = form.elements[name];
    select.add(new Option("any", "\u0000"));
    for (const value of values) select.add(new Option(value || "not judged", value));
  }
  const step = 200;
  let order = [...Array(length).keys()], sorted = "", up = true, limit = step;
  const body = document.querySelector("#table tbody");
  const headings = document.querySelector("#table thead").insertRow();
  for (const [name, title] of columns) {
    const cell = document.createElement("th"), button = document.createElement("button");
    button.type = "button";
    button.textContent = title || name;
    button.onclick = () => {
      up = sorted === name ? !up : true;
      sorted = name;
      const sign = up ? 1 : -1;
      order.sort((a, b) => {
        const x = get(name, a), y = get(name, b);
        if (x === y) return 0;
        if (x === null) return 1;
        if (y === null) return -1;
        if (name === "threads" || name === "sessions") return sign * (Number(x) - Number(y));
        return x < y ? -sign : sign;
      });
      for (const other of headings.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      show();
    };
    cell.append(button);
    headings.append(cell);
  }
  const show = () => {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = ["operator", "verdict", "status"].map((n) => [n, form.elements[n].value])
      .filter(([, value]) => value !== "\u0000");
    const names = ["operator", "function", "size", "dtype", "device", "mode", "verdict", "status",
      "reason", "torch", "run"];
    const hits = order.filter((i) => wanted.every(([n, value]) => get(n, i) === value)
      && (!words.length || (() => {
        const text = names.map((n) => get(n, i)).join(" ").toLowerCase();
        return words.every((word) => text.includes(word));
      })()));
    const lines = hits.slice(0, limit).map((i) => {
      const line = document.createElement("tr");
      for (const [name, , form] of columns) {
        const cell = line.insertCell(), value = get(name, i);
        cell.textContent = value === null ? "" : form ? form(value, i) : value;
        if (form) cell.className = "number";
        if (name === "reason") cell.className = "long";
      }
      return line;
    });
    body.replaceChildren(...lines);
    const shown = Math.min(limit, hits.length);
    document.getElementById("count").textContent =
      `${hits.length} of ${length} rows` + (shown < hits.length ? `, the first ${shown} shown` : "");
    document.getElementById("more").hidden = shown >= hits.length;
  };
  document.getElementById("more").onclick = () => { limit += 5 * step; show(); };
  form.oninput = () => { limit = step; show(); };
  form.onsubmit = (event) => event.preventDefault();
  const open = () => {
    const part = location.hash && document.getElementById(location.hash.slice(1));
    if (part && part.tagName === "DETAILS") part.open = true;
  };
  window.addEventListener("hashchange", open);
  let unfolded = [];
  window.addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("section:not(#code) details:not([open])")];
    for (const part of unfolded) part.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const part of unfolded) part.open = false;
  });
  open();
  show();
})();
