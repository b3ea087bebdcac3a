// The bar above the canvas: what the chosen tool is, what it paints with, and its sizes.

import { $, element, icon } from "./dom.js";

export const SIZES = [1, 100];

export function showTools(tools, state, info) {
  const bar = $("tools"), buttons = new Map();
  for (const tool of tools.values()) {
    const button = element("button", { className: "icon", "aria-label": tool.label, title: `${tool.label} (${tool.shortcut})`,
      onclick: () => state.set({ tool: tool.id }) }, icon(tool.id));
    buttons.set(tool.id, button);
    bar.append(button);
  }
  bar.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 }, all = [...buttons.values()];
    if (!(event.key in steps)) return;
    event.preventDefault();
    all[(all.indexOf(document.activeElement) + steps[event.key] + all.length) % all.length].focus();
  });

  const swatch = element("span", { className: "swatch" }), className = element("b");
  const current = element("span", { className: "current" }, swatch, className);
  const size = element("input", { type: "range", min: SIZES[0], max: SIZES[1], "aria-label": "Brush size" });
  const sizeShown = element("output");
  const scale = element("input", { type: "range", min: 25, max: 400, step: 5, "aria-label": "Object size" });
  const scaleShown = element("output");
  const mirror = element("button", { onclick: () => state.set({ mirrored: !state.mirrored }) }, "Mirror");
  const sizes = element("label", {}, "Size", size, sizeShown), scales = element("label", {}, "Size", scale, scaleShown);
  const hint = element("span", { className: "quiet hint" });
  size.addEventListener("input", () => state.set({ size: Number(size.value) }));
  scale.addEventListener("input", () => state.set({ stampScale: Number(scale.value) / 100 }));
  $("options").append(current, sizes, scales, mirror, hint);

  let chosen = null;
  const show = () => {
    const tool = tools.get(state.tool);
    if (chosen !== tool) {
      chosen?.leave?.();
      chosen = tool;
    }
    for (const [id, button] of buttons) {
      button.setAttribute("aria-pressed", id === state.tool);
      button.tabIndex = id === state.tool ? 0 : -1;
    }
    $("options").setAttribute("aria-label", tool.label);
    const painted = tool.paints === undefined ? state.classId : tool.paints();
    current.hidden = painted === null;
    if (painted !== null) swatch.style.background = `rgb(${info.colors[painted].join(" ")})`;
    className.textContent = info.classes[painted] ?? "";
    sizes.hidden = !tool.sized;
    scales.hidden = mirror.hidden = tool.id !== "stamp";
    [size.value, sizeShown.textContent] = [state.size, state.size];
    [scale.value, scaleShown.textContent] = [Math.round(100 * state.stampScale), `${Math.round(100 * state.stampScale)}%`];
    mirror.setAttribute("aria-pressed", state.mirrored);
    hint.textContent = tool.hint;
    $("layout-view").dataset.tool = tool.id;
  };
  state.addEventListener("change", show);
  show();
}

/** Makes the brush, or the object that is stamped, larger or smaller. */
export function resize(state, steps) {
  if (state.tool === "stamp") {
    state.set({ stampScale: Math.min(Math.max(state.stampScale * 1.1 ** steps, 0.25), 4) });
  } else {
    const larger = steps > 0 ? Math.max(state.size + 1, Math.round(state.size * 1.2)) : Math.min(state.size - 1, Math.round(state.size / 1.2));
    state.set({ size: Math.min(Math.max(larger, SIZES[0]), SIZES[1]) });
  }
}
