// What the painter has chosen: class, tool, sizes.

/** Tells "change" whenever a setting changes. */
export class State extends EventTarget {
  tool = "brush";
  classId = 0;
  size = 12;
  stamp = 0;
  stampScale = 1;
  mirrored = false;
  hovered = null; // the class under the pointer
  #before = "brush";

  set(settings) {
    const tool = this.tool;
    Object.assign(this, settings);
    if (this.tool !== tool && tool !== "eyedropper" && tool !== "hand") this.#before = tool;
    this.dispatchEvent(new Event("change"));
  }

  /** The tool that was in use before the eyedropper or the hand. */
  get before() { return this.#before; }

  hover(classId) {
    if (this.hovered === classId) return;
    this.hovered = classId;
    this.dispatchEvent(new Event("hover"));
  }
}
