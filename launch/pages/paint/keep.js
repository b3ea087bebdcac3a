// What a painter takes away, and what survives a reload.

import { element } from "./dom.js";
import * as engine from "./engine.js";
import { Refused, Unreachable } from "./errors.js";
import { complain, tell } from "./messages.js";
import { pixelOf, put } from "./view.js";

function download(content, name) {
  const address = URL.createObjectURL(content);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** The layout as a file with the ids and colours that the run of a panel reads, and its name. It can be had without the server,
 * so that nothing is lost if that is gone, or paints with other runs. */
async function layoutFile(work, panel, live) {
  const ids = work.layout.ids.slice();
  try {
    await live.look();
  } catch (error) {
    if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
  }
  return engine.layoutFile(ids, panel.run, live.info);
}

/** Saves the layout. */
export async function saveLayout(work, panel, live) {
  try {
    const { content, name } = await layoutFile(work, panel, live);
    download(content, name);
  } catch (error) {
    complain(error);
  }
}

/** Saves what a panel shows, at the run's size or enlarged. The file is named after the layout's. */
export async function saveImage(work, panel, live, times) {
  const rgb = panel.shown();
  if (!rgb) return complain(new Error("There is no image yet."));
  if (!live.isShown(panel)) {
    return complain(new Error(live.isSettled
      ? `The image on the page is that of an older layout, so it is not saved. ${live.problem}`
      : "The image of this layout is still being made. Save it when it is there."));
  }
  const layoutName = await layoutFile(work, panel, live).then(({ name }) => name, () => "layout.png");
  const { width, height } = panel.run, own = element("canvas", { width, height });
  put(own, pixelOf(rgb));
  let canvas = own;
  if (times > 1) {
    canvas = element("canvas", { width: times * width, height: times * height });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(own, 0, 0, canvas.width, canvas.height);
  }
  const content = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  download(content, layoutName.replace(".png", times > 1 ? `_image_${times}x.png` : "_image.png").replace("layout_", ""));
}

/** Copies the command that makes the image on the page, and saves the layout that it reads. */
export async function copyCommand(work, panel, live) {
  try {
    const { content, name } = await layoutFile(work, panel, live);
    const index = panel.looked >= 0 ? panel.looked : panel.base;
    const picks = panel.looked >= 0 ? {} : Object.fromEntries(panel.picks);
    const line = await engine.command(panel.number, index, picks, name, live.info.session);
    download(content, name);
    const show = (words) => tell(`${words} It reads ${name}, which was saved as well: give it in the folder of that file. ${line}`, { actions: [["OK", () => {}]] });
    try {
      await navigator.clipboard.writeText(line);
      show("The command is in the clipboard.");
    } catch {
      show("The browser does not let the page write to the clipboard. This is the command.");
    }
  } catch (error) {
    complain(error);
  }
}

/** Class ids as a text of runs: "class" or "class*length", numbers in base 36. */
function packed(ids) {
  const runs = [];
  for (let i = 0; i < ids.length;) {
    let end = i + 1;
    while (end < ids.length && ids[end] === ids[i]) end++;
    runs.push(end - i > 1 ? `${ids[i].toString(36)}*${(end - i).toString(36)}` : ids[i].toString(36));
    i = end;
  }
  return runs.join(" ");
}

/** Fills `ids` from a text; false if it is not one of `packed`, with as many ids and no unknown class. */
function unpack(text, ids, classes) {
  let place = 0;
  for (const run of text.split(" ")) {
    const [id, length = 1] = run.split("*").map((number) => Number.parseInt(number, 36));
    if (!(id >= 0 && id < classes && length >= 1 && place + length <= ids.length)) return false;
    ids.fill(id, place, place + length);
    place += length;
  }
  return place === ids.length;
}

/** Keeps the work of this tab, and for a new tab the work of the last one. Returns what was kept, or null. */
export function keep(info, work, state, panels) {
  const key = `crn_jax paint ${info.labels} ${info.classes.length} ${info.height}x${info.width}`;
  const save = () => {
    const { tool, classId, size, stamp } = state;
    const text = JSON.stringify({ layout: packed(work.layout.ids), tool, classId, size, stamp, panels: panels.map((panel) => panel.stored()) });
    for (const storage of [() => sessionStorage, () => localStorage]) {
      try {
        storage().setItem(key, text);
      } catch { /* it is full, or the browser keeps nothing */ }
    }
  };
  const read = () => {
    for (const storage of [() => sessionStorage, () => localStorage]) {
      try {
        const kept = JSON.parse(storage().getItem(key)), ids = work.layout.ids.slice();
        if (kept && unpack(kept.layout, ids, info.classes.length)) return { ...kept, ids };
      } catch { /* damaged, or the browser keeps nothing */ }
    }
    return null;
  };
  const listen = () => {
    work.addEventListener("commit", save);
    for (const panel of panels) panel.addEventListener("change", save);
    addEventListener("pagehide", save);
  };
  return { read, listen };
}
