// What there is to start from: a blank horizon, held-out layouts, files, the clipboard, photographs. All of it can be undone.

import { $, element } from "./dom.js";
import * as engine from "./engine.js";
import { complain, tell } from "./messages.js";
import { put } from "./view.js";

/** Fills the shelf. Returns how files are opened, and the layout to begin with. `look` asks whether the server is another one. */
export async function offerStarts(info, scenes, work, colors, look) {
  const { width, height, bytes } = info, shelf = $("start");

  const thumbnail = (ids) => {
    const canvas = element("canvas", { width, height });
    put(canvas, (i) => colors[ids[i]]);
    return canvas;
  };
  const offer = (label, ids, caption) => {
    const button = element("button", { className: "tile", "aria-label": `Start from ${label}`, onclick: () => { work.replace(ids); showCanvas(); } },
      thumbnail(ids), element("span", { className: "caption" }, caption));
    button.style.setProperty("--ratio", width / height);
    shelf.append(button);
  };

  const { above, below, row } = scenes.horizon;
  const blank = work.layout.ids.slice().fill(above, 0, row * width).fill(below, row * width);
  offer("a blank horizon", blank, "Blank horizon");
  const opener = (label, title, act) => $("openers").append(element("button", { title, onclick: act }, label));
  opener("Open a file…", "Open a layout PNG. It can also be dropped on the page.", () => $("file").click());
  opener("Paste", "Open the picture in the clipboard (Ctrl+V)", fromClipboard);
  if (info.photographs) opener("Photograph…", "Let the segmenter label a photograph", () => $("photograph").click());

  let first = blank;
  for (let number = 0; number < scenes.layouts; number++) {
    const ids = await engine.heldOut(number, bytes);
    if (number === 0) first = ids;
    offer(`held-out layout ${number}`, ids, `Held out ${number}`);
  }

  for (const [id, kind] of [["file", "layout"], ["photograph", "photograph"]]) {
    $(id).addEventListener("change", () => {
      const [file] = $(id).files;
      $(id).value = "";
      if (file) take(file, kind);
    });
  }

  /** Opens a file as a layout or a photograph. */
  async function take(file, kind = "layout", reading) {
    if (file.size > info.max_upload) {
      return complain(new Error(`${file.name}: the file has ${(file.size / 1e6).toFixed(0)} MB, and at most ${Math.floor(info.max_upload / 1e6)} MB are read.`));
    }
    const busy = kind === "photograph" && setTimeout(() => tell("The segmenter is labelling the photograph…"), 300);
    try {
      await look();
      const { ids, notes } = await engine.open(kind, file, bytes, reading, info.session);
      work.replace(ids);
      for (const note of notes) tell(note);
    } catch (error) {
      const names = { ids: "Its ids are right", colors: "Its colours are right" };
      const actions = (error.choices ?? []).map((choice) => [names[choice], () => take(file, kind, choice)]);
      if (info.photographs && kind === "layout") actions.push(["It is a photograph: label it", () => take(file, "photograph")]);
      complain(error, actions);
    } finally {
      clearTimeout(busy);
    }
  }

  async function fromClipboard() {
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((each) => each.startsWith("image/"));
        if (type) return take(new File([await item.getType(type)], "The picture in the clipboard"));
      }
      tell("There is no picture in the clipboard.");
    } catch {
      tell("The browser does not let the page read the clipboard. Press Ctrl+V instead.");
    }
  }

  const drop = $("drop");
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    drop.hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.hidden = true; });
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    drop.hidden = true;
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  });
  return { take, first };
}

/** Scrolls back to the canvas, where what was clicked is seen, or is needed next. */
const showCanvas = () => document.querySelector("main").scrollTo({ top: 0 });

/** The objects that can be stamped, as pictures in the colour of their class. */
export function offerObjects(stamps, info, state, colors) {
  const buttons = stamps.map((mask, number) => {
    const canvas = element("canvas", { width: mask.width, height: mask.height });
    put(canvas, (i) => (mask.bits[i] ? colors[mask.class] : 0));
    const name = info.classes[mask.class], place = stamps.slice(0, number).filter((other) => other.class === mask.class).length + 1;
    return element("button", { className: "tile object", "aria-label": `Stamp ${name} ${place}`, title: `${name}, ${mask.height}×${mask.width}`,
      onclick: () => { state.set({ tool: "stamp", stamp: number, stampScale: 1 }); showCanvas(); } }, canvas, element("span", { className: "caption" }, name));
  });
  $("objects").append(...buttons);
  if (!buttons.length) $("objects").append(element("p", { className: "quiet" }, "This run has no held-out layouts to cut objects from."));
  const mark = () => buttons.forEach((button, number) => button.setAttribute("aria-pressed", state.tool === "stamp" && number === state.stamp));
  state.addEventListener("change", mark);
  mark();
}
