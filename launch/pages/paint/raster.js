// Shapes on a layout: pure functions of class ids, without the page. A layout is {ids, width, height}; a pixel (x, y) covers
// the square from (x, y) to (x + 1, y + 1). Functions that paint return the rectangle that they may have changed: [left, top,
// right, bottom], the last two exclusive.

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Class ids of so many bytes each, as an array of numbers. */
export const idsOf = (buffer, bytes) => (bytes === 2 ? new Uint16Array(buffer) : new Uint8Array(buffer));

/** The bytes that a text in base64 stands for. */
export const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

/** A mask of scenes, whose bits are packed, the first one highest. */
export function maskOf({ shape: [height, width], mask }) {
  const packed = bytesOf(mask), bits = new Uint8Array(height * width);
  for (let i = 0; i < bits.length; i++) bits[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
  return { width, height, bits };
}

export function union(one, other) {
  if (!one) return other;
  if (!other) return one;
  return [Math.min(one[0], other[0]), Math.min(one[1], other[1]), Math.max(one[2], other[2]), Math.max(one[3], other[3])];
}

function clipped({ width, height }, left, top, right, bottom) {
  return [clamp(Math.floor(left), 0, width), clamp(Math.floor(top), 0, height), clamp(Math.ceil(right), 0, width), clamp(Math.ceil(bottom), 0, height)];
}

/** The middle of the brush: of a pixel for odd sizes, of a corner for even ones, so that discs are even. */
export function snapped({ x, y }, size) {
  const odd = Math.round(size) % 2 === 1;
  return odd ? { x: Math.floor(x) + 0.5, y: Math.floor(y) + 0.5 } : { x: Math.round(x), y: Math.round(y) };
}

/** Paints all pixels whose middle is at most half a `size` from the line between two points. */
export function stroke(layout, from, to, size, value) {
  const a = snapped(from, size), b = snapped(to, size), radius = Math.max(size, 1) / 2;
  const [left, top, right, bottom] = clipped(
    layout, Math.min(a.x, b.x) - radius, Math.min(a.y, b.y) - radius, Math.max(a.x, b.x) + radius, Math.max(a.y, b.y) + radius);
  const dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy, limit = radius * radius + 1e-9;
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const px = x + 0.5 - a.x, py = y + 0.5 - a.y;
      const t = length ? clamp((px * dx + py * dy) / length, 0, 1) : 0;
      if ((px - t * dx) ** 2 + (py - t * dy) ** 2 <= limit) layout.ids[y * layout.width + x] = value;
    }
  }
  return [left, top, right, bottom];
}

export function rectangle(layout, from, to, value) {
  const [left, top, right, bottom] = clipped(
    layout, Math.min(Math.floor(from.x), Math.floor(to.x)), Math.min(Math.floor(from.y), Math.floor(to.y)),
    Math.max(Math.floor(from.x), Math.floor(to.x)) + 1, Math.max(Math.floor(from.y), Math.floor(to.y)) + 1);
  for (let y = top; y < bottom; y++) layout.ids.fill(value, y * layout.width + left, y * layout.width + Math.max(left, right));
  return [left, top, right, bottom];
}

/** Paints the pixels whose middle is inside a polygon, by the even-odd rule. */
export function polygon(layout, points, value) {
  const ys = points.map((p) => p.y), xs = points.map((p) => p.x);
  const [left, top, right, bottom] = clipped(layout, Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys));
  for (let y = top; y < bottom; y++) {
    const crossings = [];
    for (let i = 0; i < points.length; i++) {
      const p = points[i], q = points[(i + 1) % points.length], row = y + 0.5;
      if (p.y <= row !== q.y <= row) crossings.push(p.x + ((row - p.y) / (q.y - p.y)) * (q.x - p.x));
    }
    crossings.sort((one, other) => one - other);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const begin = clamp(Math.ceil(crossings[i] - 0.5), left, right), end = clamp(Math.ceil(crossings[i + 1] - 0.5), left, right);
      layout.ids.fill(value, y * layout.width + begin, y * layout.width + end);
    }
  }
  return [left, top, right, bottom];
}

/** The area of one class that is connected with a pixel, as a selection without what it holds. */
export function region({ ids, width, height }, x, y) {
  const inside = new Uint8Array(width * height), start = y * width + x, value = ids[start], stack = [start];
  let [left, top, right, bottom] = [x, y, x + 1, y + 1];
  inside[start] = 1;
  while (stack.length) {
    const i = stack.pop(), column = i % width, row = (i - column) / width;
    left = Math.min(left, column), right = Math.max(right, column + 1);
    top = Math.min(top, row), bottom = Math.max(bottom, row + 1);
    const near = [column > 0 ? i - 1 : -1, column + 1 < width ? i + 1 : -1, i - width, i + width];
    for (const j of near) {
      if (j >= 0 && j < ids.length && !inside[j] && ids[j] === value) {
        inside[j] = 1;
        stack.push(j);
      }
    }
  }
  return cropped(inside, width, [left, top, right, bottom]);
}

function cropped(inside, whole, [left, top, right, bottom]) {
  const width = right - left, height = bottom - top, bits = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) bits.set(inside.subarray((top + y) * whole + left, (top + y) * whole + right), y * width);
  return { x: left, y: top, width, height, bits };
}

export function fill(layout, x, y, value) {
  const area = region(layout, x, y);
  return stamp(layout, area, area.x, area.y, value);
}

/** Gives a class to all pixels of a mask {width, height, bits} that is put at (left, top). `value` may be ids of the mask's size. */
export function stamp(layout, { width, height, bits }, left, top, value) {
  const rect = clipped(layout, left, top, left + width, top + height);
  for (let y = rect[1]; y < rect[3]; y++) {
    for (let x = rect[0]; x < rect[2]; x++) {
      const i = (y - top) * width + (x - left);
      if (bits[i]) layout.ids[y * layout.width + x] = typeof value === "number" ? value : value[i];
    }
  }
  return rect;
}

export function replaceClass(layout, from, to) {
  for (let i = 0; i < layout.ids.length; i++) if (layout.ids[i] === from) layout.ids[i] = to;
  return [0, 0, layout.width, layout.height];
}

/** A rectangle as a selection, cut off at the border; null if nothing of it is on the layout. */
export function box(layout, from, to) {
  const [left, top, right, bottom] = clipped(
    layout, Math.min(from.x, to.x), Math.min(from.y, to.y), Math.max(from.x, to.x), Math.max(from.y, to.y));
  if (right <= left || bottom <= top) return null;
  return { x: left, y: top, width: right - left, height: bottom - top, bits: new Uint8Array((right - left) * (bottom - top)).fill(1) };
}

/** What a selection holds: its class ids, of the size of its mask. */
export function contents({ ids, width }, area) {
  const held = new ids.constructor(area.width * area.height);
  for (let y = 0; y < area.height; y++) {
    const begin = (area.y + y) * width + area.x;
    held.set(ids.subarray(begin, begin + area.width), y * area.width);
  }
  return held;
}

/** Closes a hole: each pixel of an area takes the class of the nearest pixel outside, step by step from its edge. */
export function heal(layout, area) {
  const { ids, width, height } = layout, hole = new Uint8Array(width * height);
  for (let y = 0; y < area.height; y++) {
    for (let x = 0; x < area.width; x++) if (area.bits[y * area.width + x]) hole[(area.y + y) * width + area.x + x] = 1;
  }
  let front = [];
  const [left, top, right, bottom] = clipped(layout, area.x - 1, area.y - 1, area.x + area.width + 1, area.y + area.height + 1);
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const i = y * width + x;
      if (!hole[i] && neighbours(i, width, height).some((j) => hole[j])) front.push(i);
    }
  }
  while (front.length) {
    const next = [];
    for (const i of front) {
      for (const j of neighbours(i, width, height)) {
        if (!hole[j]) continue;
        hole[j] = 0;
        ids[j] = ids[i];
        next.push(j);
      }
    }
    front = next;
  }
  return clipped(layout, area.x, area.y, area.x + area.width, area.y + area.height);
}

function neighbours(i, width, height) {
  const x = i % width, found = [];
  if (i + width < width * height) found.push(i + width);
  if (x > 0) found.push(i - 1);
  if (x + 1 < width) found.push(i + 1);
  if (i >= width) found.push(i - width);
  return found;
}

/** A mask enlarged or shrunk by a factor, and mirrored if asked. */
export function scaled({ width, height, bits }, factor, mirrored) {
  const w = Math.max(1, Math.round(width * factor)), h = Math.max(1, Math.round(height * factor)), result = new Uint8Array(w * h);
  for (let y = 0; y < h; y++) {
    const row = Math.min(height - 1, Math.floor(((y + 0.5) * height) / h));
    for (let x = 0; x < w; x++) {
      const column = Math.min(width - 1, Math.floor(((x + 0.5) * width) / w));
      result[y * w + x] = bits[row * width + (mirrored ? width - 1 - column : column)];
    }
  }
  return { width: w, height: h, bits: result };
}

/** The number of pixels of each class. */
export function counts({ ids }, classes) {
  const found = new Uint32Array(classes);
  for (let i = 0; i < ids.length; i++) found[ids[i]]++;
  return found;
}
