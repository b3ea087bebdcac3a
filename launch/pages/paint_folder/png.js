// PNG files as they store their pixels. A canvas would show colours, and change some of them, in place of a palette's indices.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const KINDS = { // by the number of the colour type: name, channels, and bits of a sample
  0: ["grey", 1, [1, 2, 4, 8, 16]], 2: ["rgb", 3, [8, 16]], 3: ["palette", 1, [1, 2, 4, 8]], 4: ["grey+alpha", 2, [8, 16]],
  6: ["rgba", 4, [8, 16]],
};
const MOST = 1 << 28; // samples

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

/** The CRC-32 of bytes. */
export function crc32(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = CRC[(c ^ byte) & 0xff] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

/** What is wrong with a file, as the end of a sentence that begins with its name. */
export class NotReadable extends Error {}

const damaged = () => new NotReadable("the file is damaged or cut short. Save it again.");

/** The pixels of a PNG file: {width, height, kind, depth, samples, palette, alpha}. Samples are numbers of `depth` bits, those of a
 * pixel side by side. `palette` has the levels of each colour, and `alpha` the opacity of the first ones. */
export async function decode(bytes) {
  if (!SIGNATURE.every((byte, i) => bytes[i] === byte)) throw new NotReadable("this is no PNG file. Layouts are opened as PNG.");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), data = [];
  let header = null, palette = new Uint8Array(0), alpha = new Uint8Array(0), type = "";
  for (let place = 8; type !== "IEND";) {
    if (place + 12 > bytes.length) throw damaged();
    const length = view.getUint32(place), end = place + 8 + length;
    if (end + 4 > bytes.length || crc32(bytes.subarray(place + 4, end)) !== view.getUint32(end)) throw damaged();
    type = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    const content = bytes.subarray(place + 8, end);
    if (type === "IHDR") header = headerOf(content);
    else if (type === "PLTE") palette = content;
    else if (type === "tRNS") alpha = content;
    else if (type === "IDAT") data.push(content);
    place = end + 4;
  }
  if (!header) throw damaged();
  const { width, height, channels, depth } = header, row = Math.ceil((width * channels * depth) / 8);
  const rows = await transformed(data, new DecompressionStream("deflate"), (row + 1) * height);
  if (rows.length !== (row + 1) * height) throw damaged();
  unfilter(rows, row, height, Math.max(1, (channels * depth) >> 3));
  return { ...header, samples: samplesOf(rows, row, header), palette, alpha };
}

function headerOf(content) {
  if (content.length !== 13) throw damaged();
  const view = new DataView(content.buffer, content.byteOffset, 13);
  const width = view.getUint32(0), height = view.getUint32(4), [depth, color, compression, filter, interlace] = content.subarray(8);
  const [kind, channels, depths] = KINDS[color] ?? [];
  if (!depths?.includes(depth) || !width || !height || compression || filter) throw damaged();
  if (interlace) throw new NotReadable("this PNG is interlaced. Save it without interlacing.");
  if (width * height * channels > MOST) throw new NotReadable(`${height}x${width} pixels are too many.`);
  return { width, height, kind, channels, depth };
}

/** Takes back the filters of rows, each of which has the number of its filter before it. `step` is the bytes of a pixel. */
function unfilter(rows, row, height, step) {
  for (let y = 0; y < height; y++) {
    const begin = y * (row + 1) + 1, filter = rows[begin - 1], above = y ? begin - row - 1 : -1;
    if (filter > 4) throw damaged();
    for (let x = 0; filter && x < row; x++) {
      const left = x >= step ? rows[begin + x - step] : 0, up = above < 0 ? 0 : rows[above + x];
      const corner = above >= 0 && x >= step ? rows[above + x - step] : 0;
      rows[begin + x] += filter === 1 ? left : filter === 2 ? up : filter === 3 ? (left + up) >> 1 : paeth(left, up, corner);
    }
  }
}

function paeth(left, up, corner) {
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function samplesOf(rows, row, { width, height, channels, depth }) {
  const count = width * channels, samples = depth === 16 ? new Uint16Array(count * height) : new Uint8Array(count * height);
  for (let y = 0; y < height; y++) {
    const begin = y * (row + 1) + 1;
    for (let x = 0; x < count; x++) {
      const bit = x * depth, byte = rows[begin + (bit >> 3)];
      samples[y * count + x] = depth === 16 ? (byte << 8) | rows[begin + 2 * x + 1] : (byte >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
    }
  }
  return samples;
}

/** A PNG file of samples, with a palette if one is given. */
export async function encode({ width, height, kind, depth, samples, palette }) {
  const color = Number(Object.keys(KINDS).find((number) => KINDS[number][0] === kind)), count = width * KINDS[color][1];
  const row = (count * depth) / 8, rows = new Uint8Array((row + 1) * height);
  for (let i = 0; i < samples.length; i++) {
    const x = i % count, begin = ((i - x) / count) * (row + 1) + 1;
    if (depth === 16) [rows[begin + 2 * x], rows[begin + 2 * x + 1]] = [samples[i] >> 8, samples[i] & 255];
    else rows[begin + x] = samples[i];
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, (depth << 8) | color);
  const chunks = [["IHDR", new Uint8Array(header.buffer)], ...(palette ? [["PLTE", palette]] : []),
    ["IDAT", await transformed([rows], new CompressionStream("deflate"))], ["IEND", new Uint8Array(0)]];
  const file = new Blob([Uint8Array.from(SIGNATURE), ...chunks.map(([type, content]) => chunk(type, content))]);
  return new Uint8Array(await file.arrayBuffer());
}

function chunk(type, content) {
  const bytes = new Uint8Array(12 + content.length), view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set([...type].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc32(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

/** The bytes that a stream makes of parts, and not many more than `most`. */
async function transformed(parts, stream, most = Infinity) {
  const reader = new Blob(parts).stream().pipeThrough(stream).getReader(), pieces = [];
  let size = 0;
  try {
    while (size <= most) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      size += value.length;
    }
    if (size > most) await reader.cancel();
  } catch {
    throw damaged();
  }
  const whole = new Uint8Array(size);
  let place = 0;
  for (const piece of pieces) {
    whole.set(piece, place);
    place += piece.length;
  }
  return whole;
}
