// Layout files: PNGs of ids or of colours, as a label space says. `info` is about.json: `ids` are the class of each id in files,
// `colors` the colour of each class, and `void_colors` further colours of void, the last class.

import { Refused } from "./errors.js";
import { NotReadable, crc32, decode, encode } from "./png.js";
import { idsOf } from "./raster.js";

const TOLD = 5;
const TOLERANCE = 0.02; // of the aspect ratio; a layout may be stretched by so much

const code = (red, green, blue) => (red << 16) | (green << 8) | blue;
const idsTable = (info) => new Map(Object.entries(info.ids).map(([id, index]) => [Number(id), index]));
const colorsTable = (info) => new Map([
  ...info.void_colors.map((color) => [code(...color), info.classes.length - 1]),
  ...info.colors.map((color, index) => [code(...color), index]),
]);

/** The class ids of a layout file: {ids, width, height}. `reading` says what a palette holds, "ids" or "colors". If it is not
 * given, indices and colours have to show the same classes, or else the painter is asked. */
export async function readLayout(content, name, info, reading = info.read_as) {
  const refuse = (words, choices = []) => new Refused({ error: `${name}: ${words}`, choices }, 422);
  const file = await decode(content).catch((error) => {
    throw error instanceof NotReadable ? refuse(error.message) : error;
  });
  const { width, height, kind, depth, samples, palette, alpha } = file;
  const finish = (ids) => ({ ids, width, height });
  const classes = (values, table, words) => finish(lookUp(values, table, info, (unknown) => refuse(words(unknown))));
  const asIds = (values) => classes(values, idsTable(info), (unknown) => `${told(unknown)} ${unknown.size > 1 ? "are no label ids" : "is no label id"} of ${info.labels}. Open a layout of its classes.`);
  const asColors = (values) => classes(values, colorsTable(info), (unknown) =>
    `${unknown.size > 1 ? `${unknown.size} colours are` : "1 colour is"} not in ${info.labels}'s palette: ${told(unknown, (value) => `(${value >> 16}, ${(value >> 8) & 255}, ${value & 255})`)}. ` +
    "Save layouts as PNG without antialiasing, or open a layout of its classes.");

  const clearColor = () => refuse(`some pixels are transparent. Paint them in void's colour, (${info.colors.at(-1).join(", ")}).`);
  if (kind === "grey") {
    if (alpha.length >= 2 && samples.includes((alpha[0] << 8) | alpha[1])) throw clearColor(); // one grey is declared transparent
    if (depth < 8) throw refuse(`a grey PNG of ${depth} bit${depth > 1 ? "s" : ""} a pixel. Save ids with 8 or 16 bits.`);
    return asIds(samples);
  }
  if (kind === "palette") {
    const entries = Math.floor(palette.length / 3), used = [...new Set(samples)].sort((one, other) => one - other);
    if (Math.max(...used) >= entries) throw refuse(`index ${Math.max(...used)} has no colour in the palette of ${entries}. Save the layout again.`);
    const colors = Int32Array.from({ length: entries }, (_, i) => code(...palette.subarray(3 * i, 3 * i + 3)));
    const chosen = reading ?? meaning(used, colors, info, refuse);
    if (chosen === "ids") return asIds(samples);
    const clear = used.filter((i) => (alpha[i] ?? 255) < 255 && colorsTable(info).get(colors[i]) !== info.classes.length - 1);
    if (clear.length) throw clearColor();
    return asColors(Int32Array.from(samples, (i) => colors[i]));
  }
  if (kind === "grey+alpha") throw refuse("a layout is a PNG of ids (8 or 16 bits) or of colours, not of greys with transparency.");
  if (depth === 16) throw refuse("a colour PNG of 16 bits a channel. Save colours with 8.");
  const channels = kind === "rgba" ? 4 : 3, values = new Int32Array(width * height);
  const declared = kind === "rgb" && alpha.length >= 6 ? code(alpha[1], alpha[3], alpha[5]) : -1; // one colour is transparent
  for (let i = 0; i < values.length; i++) {
    values[i] = code(samples[channels * i], samples[channels * i + 1], samples[channels * i + 2]);
    if ((channels === 4 && samples[4 * i + 3] < 255) || values[i] === declared) throw clearColor();
  }
  return asColors(values);
}

/** What a palette PNG holds, if it is plain: "ids" if its colours show the same classes as its indices, or if they are the greys
 * of their own numbers. */
function meaning(used, colors, info, refuse) {
  const byId = idsTable(info), byColor = colorsTable(info);
  const areIds = used.every((i) => byId.has(i)), areColors = used.every((i) => byColor.has(colors[i]));
  if (areIds && areColors && used.every((i) => byId.get(i) === byColor.get(colors[i]))) return "ids";
  if (used.every((i) => colors[i] === code(i, i, i)) && used.some((i) => i > 0)) return "ids";
  if (!areIds && !areColors) return "colors"; // unknown ones are told by whoever looks them up
  const shown = (indices) => [...new Set(indices.map((index) => info.classes[index] ?? "unknown classes"))].slice(0, TOLD).join(", ");
  const words = `By its indices, it shows ${shown(used.map((i) => byId.get(i)))}; by its colours, ${shown(used.map((i) => byColor.get(colors[i])))}.`;
  throw refuse(`a palette PNG of which indices and colours mean different things. ${words}`, [...(areIds ? ["ids"] : []), ...(areColors ? ["colors"] : [])]);
}

function lookUp(values, table, info, refusal) {
  const ids = idsOf(new ArrayBuffer(values.length * info.bytes), info.bytes), unknown = new Map();
  for (let i = 0; i < values.length; i++) {
    const found = table.get(values[i]);
    if (found === undefined) unknown.set(values[i], (unknown.get(values[i]) ?? 0) + 1);
    else ids[i] = found;
  }
  if (unknown.size) throw refusal(unknown);
  return ids;
}

function told(unknown, words = String) {
  const most = [...unknown].sort(([, one], [, other]) => other - one);
  const listed = most.slice(0, TOLD).map(([value, pixels]) => `${words(value)} (${pixels.toLocaleString("en")} pixel${pixels > 1 ? "s" : ""})`).join(", ");
  return most.length > TOLD ? `${listed} and ${most.length - TOLD} more` : listed;
}

/** Brings a layout to the canvas as the run's examples were. If stretching does not suffice, it is cropped to its middle. */
export function onCanvas(layout, info) {
  const { width: w, height: h } = layout, { width, height } = info, notes = [];
  let fit = info.fit;
  if (fit === "resize" && Math.abs(h * width - w * height) > TOLERANCE * w * height) {
    fit = "crop";
    notes.push(`The layout is ${h}x${w}, which is another shape than the canvas of ${height}x${width}. Its middle is shown.`);
  }
  const ids = new layout.ids.constructor(width * height).fill(info.classes.length - 1);
  let [left, top, right, bottom, shownWidth, shownHeight] = [0, 0, w, h, width, height];
  if (fit === "pad") {
    const scale = Math.min(height / h, width / w);
    [shownWidth, shownHeight] = [Math.max(rounded(w * scale), 1), Math.max(rounded(h * scale), 1)];
  } else if (fit === "crop" || fit === "random_crop") {
    const scale = Math.min(h / height, w / width), kept = [Math.min(height * scale, h), Math.min(width * scale, w)];
    [top, left] = [(h - kept[0]) * 0.5, (w - kept[1]) * 0.5];
    [right, bottom] = [Math.min(left + kept[1], w), Math.min(top + kept[0], h)];
  }
  const columns = nearest(left, right, shownWidth), rows = nearest(top, bottom, shownHeight);
  const x0 = (width - shownWidth) >> 1, y0 = (height - shownHeight) >> 1;
  rows.forEach((row, y) => columns.forEach((column, x) => { ids[(y0 + y) * width + x0 + x] = layout.ids[row * w + column]; }));
  return { ids, notes };
}

/** The nearest pixel to the middle of each of `count` parts of a line, summed up as Pillow does. */
function nearest(begin, end, count) {
  const step = (end - begin) / count, places = new Int32Array(count);
  let place = begin + step * 0.5;
  for (let i = 0; i < count; i++, place += step) places[i] = Math.floor(place);
  return places;
}

/** The nearest whole number, and between two of them the even one. */
function rounded(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/** The canvas's class ids as a PNG of ids with the classes' colours. Ids above 255 have no palette. If a class has no id, as void
 * may have none, colours are written in place of ids. */
export async function layoutPng(ids, info) {
  const { width, height } = info, idOf = new Map(), table = idsTable(info);
  for (const [id, index] of table) if (id >= 0) idOf.set(index, Math.min(id, idOf.get(index) ?? id));
  if (!ids.every((index) => idOf.has(index))) {
    const samples = new Uint8Array(3 * ids.length);
    ids.forEach((index, i) => samples.set(info.colors[index], 3 * i));
    return encode({ width, height, kind: "rgb", depth: 8, samples });
  }
  const samples = Uint16Array.from(ids, (index) => idOf.get(index));
  if (Math.max(...idOf.values()) > 255) return encode({ width, height, kind: "grey", depth: 16, samples });
  const palette = new Uint8Array(3 * 256);
  for (let i = 0; i < 256; i++) palette.set(info.colors[table.get(i) ?? info.classes.length - 1], 3 * i);
  return encode({ width, height, kind: "palette", depth: 8, samples, palette });
}

/** A name for a layout's file that tells layouts apart. */
export const fileName = (ids) => `layout_${crc32(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength)).toString(16).padStart(8, "0")}.png`;
