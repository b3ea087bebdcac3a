// The engine of launch.paint's page: a server makes images and reads files, and the page writes layouts. Layouts travel as the bytes of their
// class ids, and images as RGB bytes. The folder that launch.convert web makes has another engine of this name.

import { Refused, Unreachable } from "./errors.js";
import { fileName, layoutPng } from "./layout_file.js";
import { bytesOf, idsOf } from "./raster.js";

const page = crypto.getRandomValues(new Uint32Array(4)).join("");

async function ask(path, settings) {
  let answer;
  try {
    answer = await fetch(path, settings);
    if (answer.ok) return answer;
  } catch {
    throw new Unreachable("The server does not answer.");
  }
  let words = {};
  try {
    words = await answer.json();
  } catch { /* an answer without words */ }
  throw new Refused(words, answer.status);
}

const post = (path, body) => ask(path, { method: "POST", body });

async function whole(answer, read) {
  try {
    return await answer[read]();
  } catch {
    throw new Unreachable("The server has stopped amid an answer.");
  }
}

export const about = async () => whole(await ask("about"), "json");
export const scenes = async () => whole(await ask("scenes"), "json");

export async function heldOut(number, bytes) {
  return idsOf(await whole(await ask(`layouts/${number}`), "arrayBuffer"), bytes);
}

/** The images of a layout, and the layout as the network got it; null if a newer layout has taken its place. The server of
 * another session refuses this and a command, because its runs may be others. */
export async function render(number, ids, run, session) {
  const answer = await post(`render/${number}?page=${page}&session=${session}`, ids);
  if (answer.status === 204) return null;
  const content = await whole(answer, "arrayBuffer");
  const pixels = run.height * run.width;
  const images = [];
  for (let u = 0; u < run.images; u++) images.push(new Uint8Array(content, 3 * pixels * u, 3 * pixels));
  const rest = content.slice(3 * pixels * run.images);
  return { images, ids: idsOf(rest, ids.BYTES_PER_ELEMENT) };
}

/** Opens a file as "layout" or "photograph": class ids and sentences about what was done. */
export async function open(kind, file, bytes, reading, session) {
  const name = file.name ?? "The picture";
  const content = await file.arrayBuffer().catch(() => { throw new Error(`${name} cannot be read. It may be a folder, or have changed.`); });
  const read = reading ? `&read=${reading}` : "";
  const answer = await post(`open/${kind}?name=${encodeURIComponent(name)}${read}&session=${session}`, content);
  const { layout, notes } = await whole(answer, "json");
  return { ids: idsOf(bytesOf(layout).buffer, bytes), notes };
}

/** The layout as a PNG file of a run's ids with its colours, and its name. No server is asked. */
export async function layoutFile(ids, { labels }, info) {
  return { content: new Blob([await layoutPng(ids, { ...info, ...labels })], { type: "image/png" }), name: fileName(ids) };
}

export async function command(run, index, picks, file, session) {
  const answer = await post(`command?session=${session}`, JSON.stringify({ run, index, picks, file }));
  return (await whole(answer, "json")).command;
}
