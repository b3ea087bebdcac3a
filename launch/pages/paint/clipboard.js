// Copy and paste. A copied area stays on this page. The system's clipboard gets a text in its place, so that Ctrl+V pastes what was
// copied last: the area, or a picture from elsewhere.

import { isTyping } from "./dom.js";
import { tell } from "./messages.js";

const MARK = `An area of a layout, copied on the page of crn_jax (${crypto.getRandomValues(new Uint32Array(2)).join("")})`;
const SOON = 1000; // milliseconds; within this time the browser's event follows the key

/** Returns what the keys copy, cut and duplicate do. `cancel` ends what is being drawn, and `open` opens a picture. */
export function shareClipboard(select, state, redraw, cancel, open) {
  let copied = -Infinity; // when an area was last copied by a key

  /** Runs an action on the selected area, if there is one. */
  const act = (action) => {
    if (!select.hasSelection) return false;
    action();
    redraw();
    return true;
  };
  for (const kind of ["copy", "cut"]) {
    addEventListener(kind, (event) => {
      if (isTyping(event.target) || performance.now() - copied > SOON) return;
      copied = -Infinity;
      event.clipboardData.setData("text/plain", MARK);
      event.preventDefault();
    });
  }
  addEventListener("paste", (event) => {
    if (isTyping(event.target)) return;
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (event.clipboardData.getData("text/plain") === MARK) {
      cancel();
      state.set({ tool: "select" });
      select.paste();
      redraw();
    } else if (file) open(new File([file], "The picture in the clipboard", { type: file.type }));
    else if (state.tool === "select" && select.paste()) redraw();
    else tell("There is neither a picture nor a copied area to paste.");
  });

  const byKey = (action) => () => { if (act(action)) copied = performance.now(); };
  return {
    copy: byKey(() => select.copy()),
    cut: byKey(() => select.cut()),
    duplicate: () => act(() => {
      select.copy();
      select.paste();
    }),
  };
}
