"use strict";
(() => {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const config = { responsive: true, displaylogo: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" } };

  const figures = [...document.querySelectorAll("[data-figure]")].map((box) => ({
    box, ...JSON.parse(document.getElementById(box.dataset.figure).textContent) }));

  // The data is kept once; `dark` lists what differs as [path, value].
  const dressed = ({ figure, dark }, useDark) => {
    const copy = structuredClone(figure);
    if (useDark) for (const [path, value] of dark) {
      const last = path[path.length - 1];
      path.slice(0, -1).reduce((at, key) => at[key], copy)[last] = value;
    }
    return copy;
  };

  const draw = (useDark) => {
    for (const item of figures) {
      const { data, layout } = dressed(item, useDark);
      if (!item.drawn) item.box.replaceChildren();
      item.drawn = true;
      Plotly.react(item.box, data, { ...layout, autosize: true, uirevision: "keep" }, config);
    }
  };

  const toggle = document.getElementById("theme");
  const dress = () => {
    toggle.querySelector(".label").textContent = isDark() ? "Light" : "Dark";
    if (window.Plotly) draw(isDark());
  };
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    dress();
  });
  system.addEventListener("change", dress);
  if (!window.Plotly) for (const { box } of figures) {
    const note = document.createElement("p");
    note.className = "failed";
    note.textContent = "plotly.js could not be loaded, so this figure cannot be drawn.";
    box.replaceChildren(note);
  }
  dress();
  window.addEventListener("beforeprint", () => { if (window.Plotly) draw(false); });
  window.addEventListener("afterprint", dress);

  // A link into a closed table opens it.
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  };
  window.addEventListener("hashchange", reveal);
  reveal();

  const exact = (cell) => cell.dataset.v ?? cell.textContent;
  const order = (a, b) => {
    const x = Number(a), y = Number(b);
    if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, undefined, { numeric: true });
  };
  for (const button of document.querySelectorAll("button.sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), row = head.parentElement, body = row.closest("table").tBodies[0];
      const index = [...row.children].indexOf(head);
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of row.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) =>
        (up ? 1 : -1) * order(exact(a.cells[index]), exact(b.cells[index])));
      body.append(...rows);
    });
  }

  const quoted = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const csv = (table) => [...table.rows].map((row) =>
    [...row.cells].map((cell) => quoted(exact(cell).trim())).join(",")).join("\n") + "\n";
  const copyText = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed here */ }
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  for (const button of document.querySelectorAll("button.copy")) {
    const name = button.textContent;
    button.addEventListener("click", async () => {
      const text = button.dataset.copy === "bibtex"
        ? document.getElementById("bibtex").textContent
        : csv(button.closest("details").querySelector("table"));
      const done = await copyText(text);
      button.textContent = done ? "Copied" : "Copying is not allowed here";
      document.getElementById("status").textContent = button.textContent;
      button.focus();
      setTimeout(() => { button.textContent = name; }, 1600);
    });
  }
})();
