// Of a page that is served: a newer version takes its place, and what was chosen, unfolded and sorted stays so.

const kept = "report";

addEventListener("pagehide", () => {
  const heads = all("figure.tabular table").map(table => [...table.tHead.rows[0].cells].map(head => head.ariaSort));
  sessionStorage.setItem(kept, JSON.stringify({
    view: document.querySelector("[name=view]:checked")?.id,
    open: all("details").map(folded => folded.open),
    scheme: document.documentElement.style.colorScheme,
    heads,
  }));
});

function restore() {
  const { view, open = [], scheme = "", heads = [] } = JSON.parse(sessionStorage.getItem(kept) ?? "{}");
  const chosen = document.getElementById(view);
  if (chosen) chosen.checked = true;
  document.documentElement.style.colorScheme = scheme;
  all("details").forEach((folded, i) => { folded.open = open[i] ?? false; });
  all("figure.tabular table").forEach((table, i) => (heads[i] ?? []).forEach((order, column) => {
    const press = table.tHead.rows[0].cells[column]?.querySelector("button");
    for (let n = 0; press && n < ["ascending", "descending"].indexOf(order) + 1; n++) press.click();
  }));
}

async function follow() {
  try {
    const version = await (await fetch("/version")).text();
    if (version !== document.body.dataset.version) location.reload();
  } catch {
    document.title = `(ended) ${document.title.replace(/^\(ended\) /, "")}`;
  }
}

restore();
setInterval(follow, 3000);
