// The images of each run beside the layout; and of a run with several images, which one is looked at, and which image each
// class is taken from, as --index and --pick of launch.synthesize say.

import { $, element } from "./dom.js";
import { View, pixelOf, rgba } from "./view.js";

export const COMPOSED = -1;

/** The colours of the map of choices, by the number of the image. */
const CHOICES = [[66, 133, 244], [240, 140, 40], [52, 168, 83], [214, 64, 120], [140, 100, 220], [20, 175, 190], [225, 190, 40], [150, 110, 80], [130, 135, 145]];
export const choiceColor = (u) => CHOICES[u % CHOICES.length];

/** A run's images. Tells "change" when another image is looked at, or a class is taken from another one. */
export class Panel extends EventTarget {
  images = null; // uint8 RGB, one array for each image
  ids = null; // the layout at the size of the images
  shownLayout = null; // the number that the layout of the images has for Live
  looked = COMPOSED; // the image that is looked at
  base = 0; // the image that all classes are taken from but those in `picks`
  picks = new Map(); // from classes to images
  latency = null; // milliseconds

  constructor(number, run, info, camera, state) {
    super();
    [this.number, this.run, this.info, this.state] = [number, run, info, state];
    this.name = element("b", {}, run.name);
    this.note = element("span", { className: "quiet" });
    this.figure = element("figure", { className: "view image-view" }, element("figcaption", {}, this.name, this.note));
    $("stage").append(this.figure);
    this.view = new View(this.figure, run.width, run.height, camera, `Image by ${run.name}`);
    this.veil = element("p", { className: "veil" });
    this.view.frame.append(this.veil);
    this.wait();
  }

  /** The number of the image of a class. */
  imageOf(classId) { return this.picks.get(classId) ?? this.base; }

  get isComposed() { return [...this.picks.values()].some((u) => u !== this.base); }

  /** Says what the run's images wait for. */
  wait() {
    const { name, state, problem, seconds, progress, height, width } = this.run;
    this.name.textContent = name; // a server that is started again may paint with another checkpoint
    const compiling = `Compiling for ${height}×${width}… ${Math.round(seconds)} s`;
    const ready = this.images ? undefined : "Making the first image…";
    const words = { loading: `Loading… ${progress}`, waiting: "Waiting for the other run…", compiling, ready }[state];
    this.veil.hidden = state === "ready" && !ready;
    this.veil.textContent = problem || words || "";
    this.veil.classList.toggle("busy", words !== undefined);
    this.veil.classList.toggle("failed", state === "failed");
  }

  show({ images, ids }) {
    [this.images, this.ids] = [images, ids];
    this.wait();
    this.redraw();
    this.dispatchEvent(new Event("rendered"));
  }

  /** The RGB bytes of what is shown. */
  shown() {
    return this.images && (this.looked === COMPOSED ? this.composed() : this.images[this.looked]);
  }

  /** The RGB bytes of the image that shows each class as the image chosen for it does (Eq. 3 of the paper). */
  composed() {
    if (!this.isComposed) return this.images[this.base];
    const result = new Uint8Array(this.images[0].length), source = this.info.classes.map((_, id) => this.images[this.imageOf(id)]);
    for (let i = 0; i < this.ids.length; i++) {
      const from = source[this.ids[i]];
      result[3 * i] = from[3 * i];
      result[3 * i + 1] = from[3 * i + 1];
      result[3 * i + 2] = from[3 * i + 2];
    }
    return result;
  }

  redraw() {
    const rgb = this.shown();
    if (!rgb) return;
    this.view.paint(pixelOf(rgb));
    this.shade();
  }

  /** Darkens all but the hovered class, or shows the map of choices. */
  shade(map = this.mapped) {
    this.mapped = map;
    const { hovered } = this.state;
    if (!this.ids) return;
    if (hovered !== null) this.view.cover((i) => (this.ids[i] === hovered ? 0 : 0xb0181614));
    else if (map && this.isComposed) this.view.cover((i) => rgba(choiceColor(this.imageOf(this.ids[i])), 150));
    else this.view.cover(null);
  }

  /** Looks at an image. Until a class is picked, all else comes from the image that was looked at before. */
  look(u) {
    if (!this.isComposed && this.looked !== COMPOSED && this.looked !== u) this.base = this.looked;
    this.looked = u;
    this.#changed();
  }

  pick(classId, u) {
    if (u === this.base) this.picks.delete(classId);
    else this.picks.set(classId, u);
    this.looked = COMPOSED;
    this.#changed();
  }

  drop(classId) {
    this.picks.delete(classId);
    this.#changed();
  }

  setBase(u) {
    this.base = u;
    for (const [classId, image] of this.picks) if (image === u) this.picks.delete(classId);
    this.looked = COMPOSED;
    this.#changed();
  }

  stored() { return { looked: this.looked, base: this.base, picks: [...this.picks] }; }

  restore({ looked, base, picks }) {
    const count = this.run.images, fits = (u) => Number.isInteger(u) && u >= 0 && u < count;
    if (fits(base)) this.base = base;
    this.picks = new Map((picks ?? []).filter(([id, u]) => id in this.info.classes && fits(u)));
    this.looked = fits(looked) ? looked : COMPOSED;
    this.#changed();
  }

  #changed() {
    this.redraw();
    this.dispatchEvent(new Event("change"));
  }
}

/** Lets a click choose the panel whose image, layout and command are saved. Returns a function that gives it. */
export function chooseOne(panels, first) {
  let chosen = null;
  const choose = (panel) => {
    chosen = panel;
    for (const each of panels) each.figure.classList.toggle("chosen", panels.length > 1 && each === chosen);
    if (panels.length > 1) $("save-image").title = `Save the image of ${chosen.run.name} at the size of the run; click the image of another run to save that`;
  };
  for (const panel of panels) for (const kind of ["focus", "click"]) panel.view.frame.addEventListener(kind, () => choose(panel));
  choose(first);
  return () => chosen;
}
