"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [rows, cols] = data.grid;
  const perFrame = rows * cols;
  const slotOf = new Map(data.shown.map((frame, slot) => [frame, slot]));
  const film = document.getElementById("film");
  const details = document.getElementById("details");
  const description = document.getElementById("description");
  const CELL = 10;
  const KEPT = 2; // fates from here up are kept tokens

  const html = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const svg = (name, attributes = {}, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u00a0%`;
  const seconds = (frame) => `${data.times[frame]} s`;
  const frameOf = (cell) => Math.floor(cell / perFrame);
  const rowOf = (cell) => Math.floor((cell % perFrame) / cols);
  const colOf = (cell) => (cell % perFrame) % cols;
  const cellName = (cell) => `row ${rowOf(cell)}, column ${colOf(cell)}`;
  const fateOf = (run, cell) => Number(run.fates[slotOf.get(frameOf(cell))][cell % perFrame]);
  const square = (cell) => ({ x: colOf(cell) * CELL, y: rowOf(cell) * CELL, width: CELL, height: CELL });

  const runs = data.runs.map((run, number) => {
    const byCell = new Map(); // index -> its tokens: a keyframe may have two, the original and the merged one
    const byNumber = new Map();
    for (const [token, cell, role, mass, parts, flat] of run.tokens) {
      const sources = [];
      for (let i = 0; i < flat.length; i += 2) sources.push({ cell: flat[i], share: flat[i + 1] });
      const entry = { token, cell, role, mass, parts, sources };
      byNumber.set(token, entry);
      byCell.set(cell, [...(byCell.get(cell) || []), entry]);
    }
    const holder = new Map(run.into.cell.map((cell, i) => [cell, run.into.token[i]]));
    const clipOf = new Map();
    run.clips.forEach(([first, stop], clip) => {
      for (let frame = first; frame < stop; frame++) clipOf.set(frame, { clip, first, stop });
    });
    return { ...run, number, byCell, byNumber, holder, clipOf, views: new Map() };
  });

  // ---- Frames

  const keyframe = (run, frame) => {
    const { first, stop } = run.clipOf.get(frame);
    return frame === first && stop - first > 1;
  };

  function frameElement(run, frame, tag) {
    const cells = [...run.fates[slotOf.get(frame)]].filter((fate) => Number(fate) >= KEPT).length;
    const tokens = run.counts[slotOf.get(frame)];
    const text = tokens === cells ? `${tokens} kept` : `${tokens} kept, in ${cells} positions`;
    const mark = keyframe(run, frame) ? "keyframe, " : "";
    const overlay = svg("svg", {
      class: cells > perFrame / 2 ? "dense" : "", tabindex: 0, role: "group",
      viewBox: `0 0 ${cols * CELL} ${rows * CELL}`, preserveAspectRatio: "none",
      "aria-label": `frame ${frame} at ${seconds(frame)}, ${mark}${text} of ${perFrame}; arrow keys move through them`,
    });
    const image = html("img", { alt: `frame ${frame} at ${seconds(frame)}`, decoding: "async" });
    image.src = `data:image/jpeg;base64,${data.pictures[slotOf.get(frame)]}`;
    const view = html("div", { className: keyframe(run, frame) ? "view keyframe" : "view" }, image, overlay);
    view.style.aspectRatio = `${data.size[0]} / ${data.size[1]}`;
    const number = html("b", { textContent: `${frame}` });
    const whose = runs.length > 1 ? ` · ${run.name}` : "";
    const caption = html("figcaption", {}, number, ` · ${seconds(frame)} · ${mark}${text}${whose}`);
    const element = html(tag, { className: "frame" }, html("figure", {}, view, caption));
    const state = { run, frame, element, view, overlay, drawn: false };
    overlay.state = state;
    run.views.set(frame, state);
    whenSeen.observe(element);
    element.state = state;
    return element;
  }

  const whenSeen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      whenSeen.unobserve(target);
      draw(target.state);
    }
  }, { rootMargin: "600px" });

  function draw(state) {
    if (state.drawn) return;
    state.drawn = true;
    const { run, frame, overlay } = state;
    const paths = ["", ""];
    const tokens = svg("g");
    const first = frame * perFrame;
    for (let cell = first; cell < first + perFrame; cell++) {
      const fate = fateOf(run, cell);
      if (fate < KEPT) paths[fate] += `M${colOf(cell) * CELL} ${rowOf(cell) * CELL}h${CELL}v${CELL}h-${CELL}z`;
      else tokens.append(tokenElement(run, cell, fate));
    }
    overlay.append(
      svg("path", { class: "discarded", d: paths[0] }), svg("path", { class: "absorbed", d: paths[1] }),
      svg("g", { class: "lights" }), tokens,
    );
  }

  function tokenElement(run, cell, fate) {
    const inside = { x: colOf(cell) * CELL + 0.5, y: rowOf(cell) * CELL + 0.5, width: CELL - 1, height: CELL - 1 };
    return svg("g", {
      class: `token fate-${fate}`, tabindex: -1, role: "img", "data-cell": cell, "aria-label": summary(run, cell),
    }, svg("rect", { class: "halo", ...inside }), svg("rect", { class: "edge", ...inside }));
  }

  // ---- Descriptions of a patch

  function summary(run, cell) {
    const tokens = run.byCell.get(cell) || [];
    const heavy = Math.max(0, ...tokens.map((each) => each.mass));
    const mass = heavy > 1.05 ? `, represents ${heavy.toFixed(1)} tokens` : "";
    return `${data.names[fateOf(run, cell)]}, ${cellName(cell)}${mass}`;
  }

  function composition({ token, role, mass, parts }, kept) {
    const names = ["itself", "this frame", "other frames"];
    const words = names.flatMap((name, i) => (parts[i] > 0.0005 ? [`${percent(parts[i])} ${name}`] : []));
    const rest = 1 - parts[0] - parts[1] - parts[2];
    if (rest > 0.005) words.push(`${percent(rest)} small shares`);
    const stack = html("div", { className: "stack" });
    for (const part of parts) {
      const bar = html("i");
      bar.style.width = `${100 * part}%`;
      stack.append(bar);
    }
    const text = `token ${token} of ${kept}, ${role}, mass ${mass.toFixed(2)}: ${words.join(", ")}`;
    return [html("p", { textContent: text }), stack];
  }

  function describe(run, cell) {
    const head = [run.name, `frame ${frameOf(cell)}`, seconds(frameOf(cell)), cellName(cell)].slice(runs.length > 1 ? 0 : 1);
    const children = [html("p", {}, html("b", { textContent: data.names[fateOf(run, cell)] }), ` · ${head.join(" · ")}`)];
    const tokens = run.byCell.get(cell) || [];
    for (const entry of tokens) children.push(...composition(entry, run.kept));
    const sources = [...sourcesOf(run, cell)].filter(([source]) => source !== cell);
    const links = sources.slice(0, 5).map(([source, share]) => jump(run, source, share));
    const more = sources.length > links.length ? ` and ${sources.length - links.length} more` : "";
    if (links.length) children.push(html("p", {}, "from ", ...links, more));
    const held = run.holder.get(cell);
    const keeper = run.byNumber.get(held);
    if (keeper) children.push(html("p", {}, "most of it is in ", jump(run, keeper.cell)));
    return children;
  }

  function jump(run, cell, share) {
    const where = `frame ${frameOf(cell)}, ${cellName(cell)}`;
    const short = `frame ${frameOf(cell)} (${rowOf(cell)}, ${colOf(cell)})${share ? ` ${percent(share)}` : ""}`;
    const button = html("button", { type: "button", title: where, textContent: short });
    button.disabled = !run.views.has(frameOf(cell));
    button.addEventListener("click", () => {
      show(run, frameOf(cell));
      addLight(run, cell, "target", 1);
    });
    return button;
  }

  function show(run, frame) {
    const state = run.views.get(frame);
    if (!state) return;
    state.element.scrollIntoView({ behavior: "smooth", block: "center", inline: "center" });
    state.view.classList.remove("flash");
    void state.view.offsetWidth; // forces a layout, which restarts the animation
    state.view.classList.add("flash");
  }

  // ---- Lights: where a token's information came from

  function sourcesOf(run, cell) {
    const shares = new Map();
    for (const entry of run.byCell.get(cell) || []) {
      for (const source of entry.sources) shares.set(source.cell, Math.max(shares.get(source.cell) || 0, source.share));
    }
    return new Map([...shares].sort((a, b) => b[1] - a[1]));
  }

  let lit = [];
  let active = null;

  function clear() {
    for (const element of lit) element.remove();
    lit = [];
    if (active) active.classList.remove("active");
    active = null;
  }

  function lightUp(run, cell, element) {
    clear();
    active = element;
    if (element) element.classList.add("active");
    const others = [...sourcesOf(run, cell)].filter(([source]) => source !== cell);
    for (const [source, share] of others) addLight(run, source, "light", 0.05 + 0.6 * Math.sqrt(share));
    const keeper = run.byNumber.get(run.holder.get(cell));
    if (keeper) addLight(run, keeper.cell, "light", 0.3);
    if (!element) addLight(run, cell, "target", 1);
    description.replaceChildren(...describe(run, cell));
    details.hidden = false;
    const box = run.views.get(frameOf(cell)).view.getBoundingClientRect();
    details.classList.toggle("left", box.left + box.width / 2 > innerWidth / 2);
    details.classList.toggle("top", box.top + box.height / 2 > innerHeight / 2);
  }

  function close() {
    clear();
    details.hidden = true;
  }

  function addLight(run, cell, kind, opacity) {
    const state = run.views.get(frameOf(cell));
    if (!state) return;
    draw(state);
    const light = svg("rect", { class: kind, ...square(cell), "data-cell": cell });
    light.setAttribute("fill-opacity", opacity.toFixed(2));
    light.setAttribute("stroke-opacity", Math.min(1, 0.2 + 1.6 * opacity).toFixed(2));
    state.overlay.querySelector(".lights").append(light);
    lit.push(light);
  }

  // ---- Pointer and keys

  function cellAt(event) {
    const overlay = event.target.closest(".view svg");
    if (!overlay) return null;
    const box = overlay.getBoundingClientRect();
    const col = Math.min(cols - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * cols)));
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
    return { state: overlay.state, cell: overlay.state.frame * perFrame + row * cols + col };
  }

  const elementAt = (state, cell) => state.overlay.querySelector(`.token[data-cell="${cell}"]`);
  let pointed = null;

  film.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return; // a moving finger scrolls the page
    const found = cellAt(event);
    const key = found && `${found.state.run.number}/${found.cell}`;
    if (key === pointed) return;
    pointed = key;
    if (found) lightUp(found.state.run, found.cell, elementAt(found.state, found.cell));
  });
  film.addEventListener("pointerleave", () => { pointed = null; });
  film.addEventListener("click", (event) => {
    const found = cellAt(event);
    if (!found) return;
    const element = elementAt(found.state, found.cell);
    (element || found.state.overlay).focus({ preventScroll: true });
    lightUp(found.state.run, found.cell, element);
  });
  film.addEventListener("focusin", (event) => {
    const token = event.target.closest(".token");
    if (token) lightUp(token.closest(".view svg").state.run, Number(token.dataset.cell), token);
  });

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  function nearest(state, from, [down, right]) {
    let best = null;
    let least = Infinity;
    for (const element of state.overlay.querySelectorAll(".token")) {
      const cell = Number(element.dataset.cell);
      const along = (rowOf(cell) - rowOf(from)) * down + (colOf(cell) - colOf(from)) * right;
      const aside = Math.abs((rowOf(cell) - rowOf(from)) * right) + Math.abs((colOf(cell) - colOf(from)) * down);
      if (along > 0 && along + 2 * aside < least) [best, least] = [element, along + 2 * aside];
    }
    return best;
  }

  film.addEventListener("keydown", (event) => {
    const overlay = event.target.closest(".view svg");
    if (!overlay) return;
    if (event.key === "Escape") {
      overlay.focus();
      close();
    } else if (STEPS[event.key] || event.key === "Home" || event.key === "End") {
      event.preventDefault();
      draw(overlay.state);
      const tokens = overlay.querySelectorAll(".token");
      const token = event.target.closest(".token");
      const end = event.key === "End" ? tokens[tokens.length - 1] : tokens[0];
      const step = token && STEPS[event.key];
      const next = step ? nearest(overlay.state, Number(token.dataset.cell), step) : end;
      if (next) next.focus();
    }
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  addEventListener("click", (event) => {
    if (!event.target.closest(".view, #details, .bar")) close();
  });
  document.getElementById("close").addEventListener("click", close);

  // ---- The film

  function clipElement(run, clip, first, frames) {
    const several = run.clips.some(([from, to]) => to - from > 1);
    const strip = html("ol", { className: "strip" }, ...frames.map((frame) => frameElement(run, frame, "li")));
    if (!several) return strip;
    const last = frames[frames.length - 1];
    const until = last > first ? ` to ${seconds(last)}` : "";
    const title = html("h3", { textContent: `clip ${clip} · ${seconds(first)}${until}` });
    return html("section", { className: "clip" }, title, strip);
  }

  function oneRun(run) {
    if (run.clips.every(([first, stop]) => stop - first === 1)) {
      return [html("div", { className: "clip" }, clipElement(run, 0, 0, data.shown))];
    }
    return run.clips.flatMap(([first, stop], clip) => {
      const frames = data.shown.filter((frame) => frame >= first && frame < stop);
      return frames.length ? [clipElement(run, clip, first, frames)] : [];
    });
  }

  function sideBySide(chosen) {
    const line = (className, cells) => html("div", { className }, ...cells);
    const heads = chosen.map((run) => html("div", { className: "frame", textContent: run.name }));
    const lines = data.shown.map((frame) => line("strip", chosen.map((run) => frameElement(run, frame, "div"))));
    return [line("rows", [line("strip head", heads), ...lines])];
  }

  function build() {
    clear();
    for (const run of runs) run.views.clear();
    const boxes = [...document.querySelectorAll("[data-run]")];
    const chosen = boxes.filter((box) => box.checked).map((box) => runs[Number(box.dataset.run)]);
    if (!chosen.length && runs.length > 1) film.replaceChildren("No method is chosen.");
    else film.replaceChildren(...(runs.length > 1 ? sideBySide(chosen) : oneRun(runs[0])));
  }

  addEventListener("beforeprint", () => {
    for (const run of runs) for (const state of run.views.values()) draw(state);
  });

  // ---- Tools

  for (const box of document.querySelectorAll("[data-fate]")) {
    box.addEventListener("change", () => film.classList.toggle(`hide-${box.dataset.fate}`, !box.checked));
  }
  for (const box of document.querySelectorAll("[data-run]")) box.addEventListener("change", build);
  for (const button of document.querySelectorAll("[data-all]")) {
    button.addEventListener("click", () => {
      for (const box of document.querySelectorAll("[data-run]")) box.checked = Boolean(button.dataset.all);
      build();
    });
  }
  const dim = document.getElementById("dim");
  dim.addEventListener("input", () => film.style.setProperty("--dim", dim.value / 100));
  const size = document.getElementById("size");
  const resize = () => film.style.setProperty("--width", `${size.value}px`);
  size.addEventListener("input", resize);
  for (const bar of document.querySelectorAll(".bar[data-frame]")) {
    bar.addEventListener("click", () => {
      const run = runs.find((each) => each.views.has(Number(bar.dataset.frame)));
      if (run) show(run, Number(bar.dataset.frame));
    });
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(document.getElementById(button.dataset.copy), button));
  }

  async function copy(source, button) {
    const selection = getSelection();
    selection.selectAllChildren(source);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      document.execCommand("copy"); // the clipboard may not be available to a page opened from a file
    }
    button.textContent = "Copied";
  }

  resize();
  build();
})();
