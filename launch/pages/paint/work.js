// The layout under the brush, and its history.

import { idsOf, union } from "./raster.js";

const STEPS = 200;

/** Tells "change" while the layout changes, with the changed rectangle, and "commit" when a step is done, undone or redone. */
export class Work extends EventTarget {
  #before = null; // the class ids when the step began
  #dirty = null;
  #done = [];
  #undone = [];

  constructor(width, height, bytes) {
    super();
    this.layout = { ids: idsOf(new ArrayBuffer(width * height * bytes), bytes), width, height };
  }

  get canUndo() { return this.#done.length > 0; }
  get canRedo() { return this.#undone.length > 0; }
  get isBusy() { return this.#before !== null; }

  at(x, y) { return this.layout.ids[y * this.layout.width + x]; }

  /** Begins a step. What another tool has not finished is finished. */
  begin() {
    this.commit();
    this.#before = this.layout.ids.slice();
    this.#dirty = null;
  }

  /** Tells that a rectangle has changed. */
  changed(rect) {
    this.#dirty = union(this.#dirty, rect);
    this.#tell(rect);
  }

  /** Takes back what the step has done so far, for shapes that follow the pointer. */
  restore() {
    if (!this.#dirty) return;
    this.layout.ids.set(this.#before);
    const rect = this.#dirty;
    this.#dirty = null;
    this.#tell(rect);
  }

  cancel() {
    if (!this.isBusy) return;
    this.restore();
    this.#before = null;
  }

  /** Ends a step, which is kept if anything has changed. */
  commit() {
    if (!this.isBusy) return;
    const step = this.#dirty && this.#patch(this.#dirty);
    this.#before = null;
    if (!step) return;
    this.#done.push(step);
    if (this.#done.length > STEPS) this.#done.shift();
    this.#undone = [];
    this.dispatchEvent(new Event("commit"));
  }

  /** A step of one change. */
  edit(change) {
    this.begin();
    this.changed(change(this.layout));
    this.commit();
  }

  replace(ids) {
    this.edit(({ ids: own, width, height }) => {
      own.set(ids);
      return [0, 0, width, height];
    });
  }

  /** Puts class ids in place without a history, as at the start. */
  load(ids) {
    this.layout.ids.set(ids);
    this.#tell([0, 0, this.layout.width, this.layout.height], "loaded");
  }

  undo() {
    if (this.isBusy) return this.cancel();
    this.#move(this.#done, this.#undone, "before");
  }

  redo() {
    if (!this.isBusy) this.#move(this.#undone, this.#done, "after");
  }

  #move(from, to, which) {
    const step = from.pop();
    if (!step) return;
    const [left, top, right, bottom] = step.rect, width = right - left;
    for (let y = top; y < bottom; y++) {
      this.layout.ids.set(step[which].subarray((y - top) * width, (y - top + 1) * width), y * this.layout.width + left);
    }
    to.push(step);
    this.#tell(step.rect);
    this.dispatchEvent(new Event("commit"));
  }

  #patch([left, top, right, bottom]) {
    const { ids, width } = this.layout;
    let rect = null;
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        if (ids[y * width + x] !== this.#before[y * width + x]) rect = union(rect, [x, y, x + 1, y + 1]);
      }
    }
    if (!rect) return null;
    const part = (from) => {
      const w = rect[2] - rect[0], kept = new ids.constructor(w * (rect[3] - rect[1]));
      for (let y = rect[1]; y < rect[3]; y++) kept.set(from.subarray(y * width + rect[0], y * width + rect[2]), (y - rect[1]) * w);
      return kept;
    };
    return { rect, before: part(this.#before), after: part(ids) };
  }

  #tell(rect, cause = "painted") {
    this.dispatchEvent(Object.assign(new Event("change"), { rect, cause }));
  }
}
