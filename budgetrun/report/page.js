"use strict";
// A convenience: sorting and copying of tables, values at the pointer. The page can be read without it.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function button(words, press) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = words;
  made.addEventListener("click", press);
  return made;
}

// ---- tables

const words = row => [...row.cells].filter(cell => !cell.matches(".strips")).map(cell => cell.textContent);

// numbers by size, then words, then what is missing; of a cell such as "x1.71 to x1.77", the first number counts
function key(cell) {
  const text = cell.textContent.replace(/^x/, "");
  const number = cell.matches("td") ? parseFloat(text) : Number(text || NaN);
  return text === "—" ? [2, 0, ""] : Number.isNaN(number) ? [1, 0, text] : [0, number, text];
}

function compare(a, b) {
  return a[0] - b[0] || a[1] - b[1] || a[2].localeCompare(b[2], "en", { numeric: true });
}

function sortable(table) {
  const [body] = table.tBodies;
  const original = [...body.rows];
  for (const head of table.tHead.rows[0].cells) {
    if (head.matches(".strips")) continue;
    const press = () => {
      const next = { ascending: "descending", descending: null }[head.ariaSort];
      const order = next === undefined ? "ascending" : next;
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      head.ariaSort = order;
      const keyed = original.map(row => [row, key(row.cells[head.cellIndex])]);
      if (order) keyed.sort((a, b) => (a[1][0] === 2 || b[1][0] === 2 || order === "ascending" ? 1 : -1) * compare(a[1], b[1]));
      body.append(...keyed.map(([row]) => row));
    };
    const made = button("", press);
    made.append(...head.childNodes);
    head.append(made);
  }
}

const printable = text => !/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u.test(text);

// what a terminal would interpret is written out
function shown(text) {
  const code = c => {
    const hex = c.codePointAt(0).toString(16), length = hex.length < 3 ? 2 : hex.length < 5 ? 4 : 8;
    return `\\${{ 2: "x", 4: "u", 8: "U" }[length]}${hex.padStart(length, "0")}`;
  };
  return [...text].map(c => (printable(c) ? c : /\s/.test(c) ? " " : code(c))).join("");
}

// what a spreadsheet takes for a formula is quoted as JSON, as in the files of aggregate --format csv
function csv(table) {
  const cell = text => {
    const harmless = printable(text) && (!/^[=+\-@"]/.test(text) || text === "-inf" || Number.isFinite(Number(text)));
    const safe = harmless ? text : JSON.stringify(text);
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return all("tr", table).map(row => words(row).map(cell).join(",") + "\n").join("");
}

// the same as aggregate --format latex
function latex(table, caption) {
  const special = {
    ...Object.fromEntries([..."%_&#${}"].map(c => [c, `\\${c}`])), ...Object.fromEntries([..."[]*"].map(c => [c, `{${c}}`])),
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", "±": "$\\pm$", "—": "---",
  };
  const escaped = text => [...shown(text)].map(c => special[c] ?? c).join("");
  const line = row => [...row.cells].filter(cell => !cell.matches(".strips")).map(cell => {
    const text = escaped(cell.textContent);
    return cell.querySelector("strong") ? `\\textbf{${text}}` : text;
  }).join(" & ") + " \\\\";
  const [head, ...body] = all("tr", table);
  const columns = all("th:not(.strips)", head).map(cell => (cell.matches(".number") ? "r" : "l")).join("");
  return [
    "% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering", `\\caption{${escaped(caption)}}`,
    `\\begin{tabular}{${columns}}`, "\\toprule", line(head), "\\midrule", ...body.map(line), "\\bottomrule",
    "\\end{tabular}", "\\end{table}", "",
  ].join("\n");
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed here, as in some browsers for a local file
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function copying(name, text) {
  const made = button(`Copy ${name}`, async () => {
    await copy(text());
    made.textContent = "Copied";
    setTimeout(() => { made.textContent = `Copy ${name}`; }, 1500);
  });
  return made;
}

function equip(figure) {
  const table = figure.querySelector("table"), scroll = figure.querySelector(".scroll");
  const caption = figure.querySelector("figcaption"), tools = document.createElement("div");
  const hint = document.createElement("span");
  hint.className = "hint";
  hint.textContent = "→ the table goes on to the right: scroll it sideways";
  tools.className = "tools";
  if (!table.matches(".examples")) {
    sortable(table);
    tools.append(copying("CSV", () => csv(table)), copying("LaTeX", () => latex(table, caption.textContent)));
  }
  tools.append(hint);
  scroll.after(tools);
  new ResizeObserver(() => { hint.hidden = scroll.scrollWidth <= scroll.clientWidth; }).observe(scroll);
}

// ---- values of charts, at the pointer or by the arrow keys

const told = document.createElement("div");
told.className = "told";
told.setAttribute("role", "status");

// the places of a line's points on the screen
function places(line) {
  const steps = line.getAttribute("d").replaceAll("h0", "").match(/-?\d+/g).map(Number);
  const matrix = line.getScreenCTM();
  let x = 0, y = 0;
  return Array.from({ length: steps.length / 2 }, (_, i) => {
    x += steps[2 * i];
    y += steps[2 * i + 1];
    return new DOMPoint(x, y).matrixTransform(matrix);
  });
}

// what is said about a line's points: here, for all lines, or in the first view, which it is the same as
function about(line, what) {
  const look = line.classList[1], from = [line.ownerSVGElement, line.closest("[role=img]")];
  const found = from.flatMap(root => [`.${look}[data-${what}]`, `:not([class])[data-${what}]`].map(s => root.querySelector(`metadata${s}`)));
  return found.find(Boolean)?.dataset[what].split("|") ?? [];
}

function tell(line, i, place) {
  const name = line.closest(".gallery").querySelector(`.legend .${line.classList[1]} span`).textContent;
  told.textContent = `${name}: ${about(line, "values")[i] ?? ""}, ${about(line, "places")[i] ?? ""}`;
  told.style.left = `${Math.max(0, Math.min(place.x + 12, innerWidth - told.offsetWidth - 4))}px`;
  told.style.top = `${Math.max(0, place.y - told.offsetHeight - 8)}px`;
}

const drawn = root => all(".view .line:not(.reference)", root).filter(line => line.getClientRects().length);

document.addEventListener("pointermove", event => {
  const chart = event.target.closest?.(".charts svg[role=img]");
  let best = [24, null]; // pixels: no farther than this
  for (const line of chart ? drawn(chart) : []) {
    const frame = line.ownerSVGElement.getBoundingClientRect();
    places(line).forEach((place, i) => {
      const far = Math.hypot(place.x - event.clientX, place.y - event.clientY);
      if (far < best[0] && place.y >= frame.top - 4 && place.y <= frame.bottom + 4) best = [far, line, i, place];
    });
  }
  if (best[1]) tell(...best.slice(1));
  else told.textContent = "";
});

document.addEventListener("keydown", event => {
  const gallery = document.activeElement;
  const [lines, points] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
  if (!gallery.matches(".gallery") || !(lines || points)) return;
  event.preventDefault();
  const there = drawn(gallery), [line = -1, point = 0] = (gallery.dataset.at ?? "").split(",").filter(Boolean).map(Number);
  const now = there[(Math.max(line, lines ? line : 0) + lines + there.length) % there.length];
  const found = places(now), i = line < 0 ? 0 : Math.max(0, Math.min(found.length - 1, point + points));
  gallery.dataset.at = [there.indexOf(now), i];
  now.closest("[role=img]").scrollIntoView({ block: "nearest" });
  tell(now, i, places(now)[i]);
});

document.addEventListener("focusout", () => { told.textContent = ""; });

// ---- the page

function equipped() {
  all("figure.tabular").forEach(equip);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  document.querySelector("nav ul").append(button("Light or dark", () => {
    const now = root.style.colorScheme || (dark.matches ? "dark" : "light");
    root.style.colorScheme = now === "dark" ? "light" : "dark";
  }));
  document.body.append(told);
}

addEventListener("beforeprint", () => all("details").forEach(folded => { folded.open = true; }));
equipped();
