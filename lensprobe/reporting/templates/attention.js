"use strict";
(() => {
  // Weights travel as deflated bytes, one piece a layer; a piece is unpacked when a head of it is opened.
  const inflate = async (text) => {
    const bytes = Uint8Array.from(atob(text.trim()), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const clip = (value, low, high) => Math.min(high, Math.max(low, value));
  const child = (parent, name, kind) => {
    const made = parent.appendChild(document.createElement(name));
    if (kind) made.className = kind;
    return made;
  };

  const start = (root) => {
    root.dataset.ready = "";
    const one = (selector) => root.querySelector(selector);
    const source = one(".lp-facts");
    const buttons = [...root.querySelectorAll(".lp-strip > button")];
    if (!source) { for (const button of buttons) button.disabled = true; return; }
    const { tokens, heads, causal, ink, steps } = JSON.parse(source.textContent);
    const size = tokens.length, cells = causal ? size * (size + 1) / 2 : size * size;
    const zoom = one(".lp-zoom"), plane = one(".lp-plane"), area = one(".lp-scroll");
    const text = one(".lp-text"), readout = one(".lp-readout"), without = one(".lp-without");
    const pieces = new Map();
    const layerOf = (layer) => {
      if (!pieces.has(layer)) pieces.set(layer, inflate(one(`.lp-data[data-layer="${layer}"]`).textContent));
      return pieces.get(layer);
    };
    let open = null, weights = null, query = size - 1, key = 0, cell = 0, turn = 0;

    const weight = (q, k) => {
      if (!weights || (causal && k > q)) return 0;
      // Key after key, each with its queries from itself on.
      return weights[causal ? k * size - k * (k - 1) / 2 + q - k : k * size + q];
    };
    const rest = () => {
      let top = 0;
      for (let q = 0; q < size; q++) for (let k = 1; k < size; k++) top = Math.max(top, weight(q, k));
      return top || steps;
    };
    const shade = (value, top) => Math.sqrt(Math.min(1, value / top));

    // Names of keys stay at the top and names of queries at the left while the pattern scrolls.
    const side = 92;
    const across = child(plane, "div", "lp-across"), down = child(plane, "div", "lp-down");
    const canvas = child(plane, "canvas"), cursor = child(plane, "div", "lp-cursor");
    canvas.width = canvas.height = size;
    Object.assign(across.style, { height: `${side}px` });
    Object.assign(down.style, { width: `${side}px` });
    Object.assign(canvas.style, { left: `${side}px`, top: `${side}px` });
    const lay = () => {
      const wide = `${cell * size}px`, every = Math.max(1, Math.ceil(13 / cell));
      across.replaceChildren();
      down.replaceChildren();
      down.style.height = canvas.style.width = canvas.style.height = wide;
      plane.style.width = `${side + cell * size + 2}px`;
      for (let i = 0; i < size; i += every) {
        const key = child(across, "span"), query = child(down, "span");
        key.textContent = query.textContent = tokens[i];
        Object.assign(key.style, { left: `${side + (i + 0.5) * cell}px`, height: `${side - 6}px` });
        Object.assign(query.style, { top: `${(i + 0.5) * cell}px`, width: `${side - 6}px` });
      }
      point();
    };
    const paint = () => {
      const picture = new ImageData(size, size), skip = without.checked ? 1 : 0;
      const top = skip ? rest() : steps;
      for (let q = 0; q < size; q++) for (let k = skip; k < size; k++) {
        const at = 4 * (q * size + k);
        picture.data.set(ink, at);
        picture.data[at + 3] = Math.round(255 * shade(weight(q, k), top));
      }
      canvas.getContext("2d").putImageData(picture, 0, 0);
      colour();
    };
    const colour = () => {
      const skip = without.checked ? 1 : 0, top = skip ? rest() : steps;
      words.forEach((word, k) => {
        const value = k < skip ? 0 : weight(query, k);
        word.style.background = value ? `rgba(${ink}, ${(0.75 * shade(value, top)).toFixed(3)})` : "";
        word.toggleAttribute("aria-current", k === query);
      });
    };
    const named = (i) => `${i} “${tokens[i]}”`;
    const point = (scroll) => {
      const wide = Math.max(cell, 7);
      Object.assign(cursor.style, { width: `${wide}px`, height: `${wide}px`,
        left: `${side + (key + 0.5) * cell - wide / 2}px`, top: `${side + (query + 0.5) * cell - wide / 2}px` });
      const value = weight(query, key);
      readout.textContent = causal && key > query ? `Query ${named(query)} comes before key ${named(key)}.`
        : `Query ${named(query)} gives ${(value / steps).toFixed(3)} to key ${named(key)}.`;
      if (scroll) cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
    };
    const move = (q, k, scroll) => {
      const other = q !== query;
      query = clip(q, 0, size - 1);
      key = clip(k, 0, size - 1);
      point(scroll);
      if (other) colour();
    };
    const words = tokens.map((token, i) => {
      const word = child(text, "span");
      word.textContent = token;
      word.addEventListener("click", () => move(i, Math.min(key, i)));
      if (token.includes("↵")) child(text, "br");
      return word;
    });

    const show = async (layer, head) => {
      const mine = ++turn;
      open = { layer, head };
      for (const button of buttons) button.setAttribute("aria-pressed",
        String(Number(button.dataset.layer) === layer && Number(button.dataset.head) === head));
      one(".lp-name").textContent = `Layer ${layer}, head ${head}`;
      const at = buttons.findIndex((button) => button.getAttribute("aria-pressed") === "true");
      for (const step of root.querySelectorAll("[data-step]")) step.disabled = !buttons[at + Number(step.dataset.step)];
      // Under the row it belongs to, so that a long grid need not be scrolled to and fro.
      buttons[at].closest(".lp-row").after(zoom);
      zoom.hidden = false;
      if (!("DecompressionStream" in globalThis)) {
        readout.textContent = "This browser cannot unpack the weights (it needs DecompressionStream: Chrome 80, "
          + "Firefox 113, Safari 16.4 or newer). The small pictures above are all it can show.";
        area.hidden = true;
        return;
      }
      readout.textContent = "Unpacking …";
      let data;
      try { data = await layerOf(layer); } catch (error) {
        if (mine === turn) readout.textContent = `The weights of this layer are damaged (${error.message}).`;
        return;
      }
      if (mine !== turn) return;
      weights = data.subarray(head * cells, (head + 1) * cells);
      if (!cell) cell = clip((root.clientWidth - side - 24) / size, 1.25, 24);
      lay();
      paint();
      root.dataset.shown = `${layer}.${head}`;
    };
    const close = () => {
      turn++;
      zoom.hidden = true;
      const last = buttons.find((button) => button.getAttribute("aria-pressed") === "true");
      last?.setAttribute("aria-pressed", "false");
      last?.focus();
      delete root.dataset.shown;
    };

    const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    buttons.forEach((button, i) => {
      // One stop of the tab key for the whole grid; arrow keys move inside.
      button.tabIndex = i ? -1 : 0;
      button.addEventListener("click", () => {
        show(Number(button.dataset.layer), Number(button.dataset.head)).then(() => area.focus({ preventScroll: true }));
        zoom.scrollIntoView({ block: "nearest" });
      });
      button.addEventListener("focus", () => {
        for (const other of buttons) other.tabIndex = other === button ? 0 : -1;
      });
      button.addEventListener("keydown", (event) => {
        const step = arrows[event.key];
        const to = step && i + step[0] * heads + step[1];
        if (!step || !buttons[to]) return;
        event.preventDefault();
        buttons[to].focus();
      });
    });
    for (const step of root.querySelectorAll("[data-step]")) step.addEventListener("click", () => {
      const at = buttons.findIndex((button) => button.getAttribute("aria-pressed") === "true");
      const to = buttons[at + Number(step.dataset.step)];
      if (to) show(Number(to.dataset.layer), Number(to.dataset.head));
    });
    for (const button of root.querySelectorAll("[data-size]")) button.addEventListener("click", () => {
      cell = clip(cell * Number(button.dataset.size), 1, 40);
      lay();
    });
    without.addEventListener("change", paint);
    one(".lp-close").addEventListener("click", close);
    zoom.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
    area.addEventListener("keydown", (event) => {
      const step = arrows[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      move(query + step[0], key + step[1], true);
    });
    const under = (event) => {
      const box = canvas.getBoundingClientRect();
      move(Math.floor((event.clientY - box.top) / box.height * size),
        Math.floor((event.clientX - box.left) / box.width * size));
    };
    canvas.addEventListener("pointermove", under);
    canvas.addEventListener("pointerdown", under);
  };

  const scope = document.currentScript?.getRootNode() ?? document;
  for (const root of scope.querySelectorAll(".lp-attention:not([data-ready])")) start(root);
})();
