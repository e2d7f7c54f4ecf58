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

  const paint = (item, useDark) => {
    const { data, layout } = dressed(item, useDark);
    if (!item.drawn) item.box.replaceChildren();
    item.drawn = true;
    Plotly.react(item.box, data, { ...layout, autosize: true, uirevision: "keep" }, config);
  };

  // One by one, nearest to the screen first, so that a long page can be read at once.
  const distance = ({ box }) => {
    const { top, bottom } = box.getBoundingClientRect();
    return bottom < 0 ? -bottom : Math.max(0, top - window.innerHeight / 2);
  };
  let turn = 0;
  const draw = (useDark, whole) => {
    const mine = ++turn;
    const waiting = new Set(figures);
    const next = () => {
      if (mine !== turn || !waiting.size) return;
      const item = [...waiting].reduce((a, b) => (distance(b) < distance(a) ? b : a));
      waiting.delete(item);
      paint(item, useDark);
      setTimeout(next);
    };
    if (whole) for (const item of figures) paint(item, useDark);
    else next();
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
  window.addEventListener("beforeprint", () => { if (window.Plotly) draw(false, true); });
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
  const saved = (text, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  // plotly.py sends long arrays as base64.
  const kinds = { f8: Float64Array, f4: Float32Array, i1: Int8Array, u1: Uint8Array,
    i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array };
  const listed = (value) => {
    if (!value || !value.bdata) return value ?? [];
    const bytes = Uint8Array.from(atob(value.bdata), (char) => char.charCodeAt(0));
    const flat = Array.from(new kinds[value.dtype](bytes.buffer));
    if (!value.shape) return flat;
    const wide = Number(String(value.shape).split(",").pop());
    return Array.from({ length: flat.length / wide }, (_, i) => flat.slice(i * wide, (i + 1) * wide));
  };
  // What a figure draws, one row a point: for figures of arrays, which no table of the page holds.
  const plain = (label) => String(label)
    .replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  const drawnRows = ({ data, layout }) => {
    const rows = [["series", "x", "y", "value", "details"]];
    const named = (axis, value) => {
      const at = (axis?.tickvals ?? []).indexOf(value);
      return at < 0 ? value : plain(axis.ticktext[at]);
    };
    for (const trace of data.filter((one) => one.hoverinfo !== "skip")) {
      const across = layout["xaxis" + (trace.xaxis ?? "x").slice(1)];
      const up = layout["yaxis" + (trace.yaxis ?? "y").slice(1)];
      const x = listed(trace.x), y = listed(trace.y), z = listed(trace.z), more = listed(trace.customdata);
      const row = (i, j, value, extra) => rows.push([trace.name ?? "", named(across, x[j] ?? j),
        named(up, y[i] ?? i), value ?? "", [extra ?? []].flat().join(" ")]);
      if (z.length) z.forEach((line, i) => listed(line).forEach((value, j) => row(i, j, value, more[i]?.[j])));
      else y.forEach((_, i) => row(i, i, "", more[i]));
    }
    return rows.map((row) => row.map((cell) => quoted(String(cell ?? ""))).join(",")).join("\n") + "\n";
  };
  for (const button of document.querySelectorAll("button.data")) {
    button.addEventListener("click", () => {
      const { table, drawn, file } = button.dataset;
      const text = drawn ? drawnRows(JSON.parse(document.getElementById(drawn).textContent).figure)
        : csv(document.getElementById(table).querySelector("table"));
      saved(text, file);
      document.getElementById("status").textContent = `Downloaded ${file}`;
    });
  }

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
  for (const button of document.querySelectorAll("button[data-copy]")) {
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
