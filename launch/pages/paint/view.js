// Pictures on the page: a canvas of the picture's own pixels, which the camera places in a frame; above it marks at the
// resolution of the screen. All views share one camera, so that the same place is seen in layout and images.

import { element, once } from "./dom.js";

const MOST = 32;

/** A colour as a pixel: RGBA in a little-endian number. */
export const rgba = ([red, green, blue], alpha = 255) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

/** The pixel i of an image of RGB bytes. */
export const pixelOf = (rgb) => (i) => (0xff000000 | (rgb[3 * i + 2] << 16) | (rgb[3 * i + 1] << 8) | rgb[3 * i]) >>> 0;

/** Paints a canvas, or a rectangle of it: `pixel(i)` is pixel i of the whole canvas. */
export function put(canvas, pixel, [left, top, right, bottom] = [0, 0, canvas.width, canvas.height]) {
  if (right <= left || bottom <= top) return;
  const image = new ImageData(right - left, bottom - top), words = new Uint32Array(image.data.buffer);
  let place = 0;
  for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) words[place++] = pixel(y * canvas.width + x);
  canvas.getContext("2d").putImageData(image, left, top);
}

/** What is seen: the scale, and where the picture's top left corner lies, in parts of the frame. */
export class Camera extends EventTarget {
  scale = 1;
  x = 0;
  y = 0;

  /** Zooms by a factor around a place, given in parts of the frame. */
  zoom(factor, place = { x: 0.5, y: 0.5 }) {
    const scale = Math.min(Math.max(this.scale * factor, 1), MOST), change = scale / this.scale;
    this.set(scale, place.x - (place.x - this.x) * change, place.y - (place.y - this.y) * change);
  }

  pan(dx, dy) { this.set(this.scale, this.x + dx, this.y + dy); }

  fit() { this.set(1, 0, 0); }

  /** Moves as far as a place, given in parts of the picture, needs to be seen. */
  reveal(place) {
    const missing = (part, start) => {
      const seen = part * this.scale + start;
      return Math.min(1, Math.max(0, seen)) - seen;
    };
    this.pan(missing(place.x, this.x), missing(place.y, this.y));
  }

  set(scale, x, y) {
    const inside = (value) => Math.min(0, Math.max(1 - scale, value));
    [this.scale, this.x, this.y] = [scale, inside(x), inside(y)];
    this.dispatchEvent(new Event("change"));
  }
}

/** A frame with a picture. `draw` paints the marks above it, on a context in CSS pixels. */
export class View {
  draw = () => {};

  constructor(figure, width, height, camera, label) {
    this.camera = camera;
    [this.width, this.height] = [width, height];
    this.pixels = element("canvas", { width, height, className: "pixels" });
    this.shade = element("canvas", { width, height, className: "shade" });
    this.plane = element("div", { className: "plane" }, this.pixels, this.shade);
    this.marks = element("canvas", { className: "marks", "aria-hidden": "true" });
    this.frame = element("div", { className: "frame", tabIndex: 0, role: "application", "aria-label": label }, this.plane, this.marks);
    figure.style.setProperty("--ratio", width / height);
    figure.append(this.frame);
    this.redraw = once(() => this.#redraw());
    camera.addEventListener("change", this.redraw);
    new ResizeObserver(this.redraw).observe(this.frame);
  }

  /** The pixel under an event, with fractions; it may lie outside. */
  pixelAt(event) {
    const { left, top, width, height } = this.frame.getBoundingClientRect(), { scale, x, y } = this.camera;
    return {
      x: (((event.clientX - left) / width - x) / scale) * this.width,
      y: (((event.clientY - top) / height - y) / scale) * this.height,
    };
  }

  /** The place of an event in parts of the frame. */
  placeOf(event) {
    const { left, top, width, height } = this.frame.getBoundingClientRect();
    return { x: (event.clientX - left) / width, y: (event.clientY - top) / height };
  }

  contains({ x, y }) { return x >= 0 && y >= 0 && x < this.width && y < this.height; }

  /** Paints the picture, or a rectangle of it, as `put` does. */
  paint(pixel, rect) { put(this.pixels, pixel, rect); }

  /** Covers the picture with colours, or uncovers it (null). */
  cover(pixel) {
    if (pixel) put(this.shade, pixel);
    else this.shade.getContext("2d").clearRect(0, 0, this.width, this.height);
  }

  #redraw() {
    const { scale, x, y } = this.camera, ratio = devicePixelRatio || 1;
    const { width, height } = this.frame.getBoundingClientRect();
    this.plane.style.transform = `translate(${100 * x}%, ${100 * y}%) scale(${scale})`;
    this.plane.classList.toggle("coarse", scale * width > 3 * this.width);
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.marks.width !== w || this.marks.height !== h) [this.marks.width, this.marks.height] = [w, h];
    const context = this.marks.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, w, h);
    // From here on, coordinates are pixels of the picture.
    const [sx, sy] = [(w * scale) / this.width, (h * scale) / this.height];
    context.setTransform(sx, 0, 0, sy, x * w, y * h);
    this.draw(context, sx / ratio);
  }
}

/** Strokes a path so that it is seen on any colour. `unit` is the number of CSS pixels of a pixel of the picture. */
export function outline(context, path, unit, dashed = false) {
  for (const [color, width, dash] of [["rgb(0 0 0 / .75)", 3, []], ["#fff", 1.5, dashed ? [5, 4] : []]]) {
    context.strokeStyle = color;
    context.lineWidth = width / unit;
    context.setLineDash(dash.map((length) => length / unit));
    context.stroke(path);
  }
}

/** The edge of a mask {width, height, bits} at (left, top). */
export function edgeOf({ width, height, bits }, left, top) {
  const path = new Path2D(), at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x] === 1;
  const segment = (x0, y0, x1, y1) => {
    path.moveTo(left + x0, top + y0);
    path.lineTo(left + x1, top + y1);
  };
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      if (at(x, y) !== at(x, y - 1)) segment(x, y, x + 1, y);
      if (at(x, y) !== at(x - 1, y)) segment(x, y, x, y + 1);
    }
  }
  return path;
}
