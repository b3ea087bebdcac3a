// The strip of a run's images: a tile for each, one for the image composed of them, and what was picked.

import { $, element, once } from "./dom.js";
import { COMPOSED, choiceColor } from "./panels.js";
import { pixelOf, put } from "./view.js";

export function showCollection(panels, info, state) {
  let panel = panels.find((each) => each.run.images > 1) ?? null;
  let tiles = [];
  let chosen = ""; // what the chips show
  const map = $("map");
  $("collection").hidden = panel === null;
  if (!panel) return { panel: () => null };

  function build() {
    const { width, height, images } = panel.run;
    $("tiles").style.setProperty("--ratio", width / height);
    $("collection-title").textContent = panels.length > 1 ? `Images of ${panel.run.name}` : "Images";
    tiles = [COMPOSED, ...Array(images).keys()].map((u) => {
      const canvas = element("canvas", { width, height });
      const label = u === COMPOSED ? "Composed" : `Image ${u}`;
      const dot = element("span", { className: "dot" });
      if (u !== COMPOSED) dot.style.background = `rgb(${choiceColor(u).join(" ")})`;
      const button = element("button", { className: "tile", "aria-label": `Look at ${u === COMPOSED ? "the composed image" : `image ${u}`}` }, canvas,
        element("span", { className: "caption" }, u === COMPOSED ? "" : dot, label));
      button.style.setProperty("--ratio", width / height);
      button.addEventListener("click", (event) => {
        if (u !== COMPOSED && event.shiftKey && event.detail) pickAt(canvas, event, u);
        else panel.look(u);
      });
      return { u, button, canvas };
    });
    $("tiles").replaceChildren(...tiles.map((tile) => tile.button));
    redraw();
  }

  function pickAt(canvas, event, u) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - left) / width) * canvas.width), y = Math.floor(((event.clientY - top) / height) * canvas.height);
    if (panel.ids && x >= 0 && y >= 0 && x < canvas.width && y < canvas.height) panel.pick(panel.ids[y * canvas.width + x], u);
  }

  const redraw = once(() => {
    if (panel.images) for (const { u, canvas } of tiles) put(canvas, pixelOf(u === COMPOSED ? panel.composed() : panel.images[u]));
    for (const { u, button } of tiles) {
      button.setAttribute("aria-pressed", u === panel.looked || (panel.looked === COMPOSED && !panel.isComposed && u === panel.base));
      if (u === COMPOSED) button.hidden = !panel.isComposed;
    }
    $("tiles").style.setProperty("--count", tiles.filter(({ button }) => !button.hidden).length);
    $("collection-hint").textContent = panel.isComposed
      ? "Each class comes from the image that you picked for it."
      : "Click an image to look at it, then click a class in it to take that class from it.";
    showPicks();
    map.disabled = !panel.isComposed;
    if (!panel.isComposed && map.getAttribute("aria-pressed") === "true") toggleMap();
  });

  /** Shows the chips. They stay the same elements until they change, so that the keyboard can go on with them. */
  function showPicks() {
    const now = JSON.stringify([panel.number, panel.isComposed, panel.base, [...panel.picks].sort(([one], [other]) => one - other)]);
    if (now === chosen) return;
    chosen = now;
    const focused = [...$("picks").children].indexOf(document.activeElement), isList = document.activeElement?.tagName === "SELECT";
    $("picks").replaceChildren(...chips());
    if (focused < 0) return;
    const next = $("picks").children[isList ? $("picks").children.length - 1 : focused]; // the next chip for one that was dropped
    (next ?? tiles.find(({ u }) => u === panel.base).button).focus();
  }

  function chips() {
    if (!panel.isComposed) return [];
    const select = element("select", { "aria-label": "The image of all other classes" },
      ...[...Array(panel.run.images).keys()].map((u) => element("option", { value: u, selected: u === panel.base }, `all else: image ${u}`)));
    select.addEventListener("change", () => panel.setBase(Number(select.value)));
    const picked = [...panel.picks].sort(([one], [other]) => one - other).map(([classId, u]) => {
      const words = `${info.classes[classId]}: image ${u}`;
      return element("button", { className: "chip", "aria-label": `Drop the pick ${words}`, title: "Take this class from the same image as all else",
        onclick: () => panel.drop(classId) }, words, " ×");
    });
    return [...picked, select];
  }

  function toggleMap() {
    const shown = map.getAttribute("aria-pressed") !== "true";
    map.setAttribute("aria-pressed", shown);
    for (const each of panels) each.shade(shown);
  }
  map.addEventListener("click", toggleMap);

  for (const each of panels) {
    const { frame } = each.view;
    each.addEventListener("change", () => each === panel && redraw());
    each.addEventListener("rendered", () => each === panel && redraw());
    const activate = () => {
      if (each === panel || each.run.images < 2) return;
      panel = each;
      build();
    };
    frame.addEventListener("focus", activate);
    frame.addEventListener("click", (event) => {
      activate();
      const { x, y } = each.view.pixelAt(event);
      take(each, Math.floor(x), Math.floor(y));
    });
  }

  /** Takes the class at a pixel from the image that is looked at. */
  function take(each, x, y) {
    if (each.looked === COMPOSED || !each.ids || !each.view.contains({ x, y })) return;
    each.pick(each.ids[y * each.view.width + x], each.looked);
  }

  build();
  return {
    panel: () => panel,
    look: (u) => u < panel.run.images && panel.look(u),
    toggleMap: () => map.disabled || toggleMap(),
    /** Takes the class that is chosen in the list from the image that is looked at. */
    pickChosen: () => panel.looked !== COMPOSED && panel.pick(state.classId, panel.looked),
  };
}
