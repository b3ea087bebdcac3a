// The keyboard: what each key does anywhere on the page, and the table of it.

import { $, element, isTyping } from "./dom.js";

/** `actions` are the page's; `tools` know their own letters. */
export function listenToKeys(tools, state, actions) {
  const letters = new Map([...tools.values()].map((tool) => [tool.shortcut.toLowerCase(), tool]));
  const plain = {
    "[": actions.smaller, "]": actions.larger, "+": actions.zoomIn, "=": actions.zoomIn, "-": actions.zoomOut, "0": actions.fit,
    ",": actions.previousClass, ".": actions.nextClass, "/": actions.search, "?": actions.help, Escape: actions.cancel,
    m: actions.map, k: actions.pickChosen, c: actions.canvas,
  };
  const held = {
    z: (event) => (event.shiftKey ? actions.redo() : actions.undo()), y: actions.redo, s: actions.saveLayout,
    a: actions.selectAll, d: actions.duplicate,
    c: () => { actions.copy(); return false; }, x: () => { actions.cut(); return false; }, // the browser's own events follow
  };
  addEventListener("keydown", (event) => {
    if (isTyping(event.target) || event.defaultPrevented) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey) {
      if (held[key] && held[key](event) !== false) event.preventDefault();
      return;
    }
    if (event.altKey) return;
    if (/^[1-9]$/.test(key)) actions.look(Number(key) - 1);
    else if (plain[key]) plain[key]();
    else if (letters.has(key)) state.set({ tool: letters.get(key).id });
    else return;
    event.preventDefault();
  });

  const rows = [
    ...[...tools.values()].map((tool) => [tool.shortcut, `${tool.label}. ${tool.hint}`]),
    ["[ ]", "Smaller, larger brush or object"],
    [", .", "Previous, next class"],
    ["/", "Search the classes; Enter chooses the first"],
    ["C", "Go to the canvas. There, arrow keys move the point (Shift: by 10), and the space bar presses"],
    ["1 … 9", "Look at image 0 … 8 of the layout"],
    ["K", "Take the chosen class from the image that is looked at"],
    ["M", "Map of choices"],
    ["+ − 0", "Zoom in, zoom out, show the whole canvas"],
    ["Ctrl+Z, Ctrl+Shift+Z", "Undo, redo (200 steps)"],
    ["Ctrl+C, X, V, D, A", "Copy, cut, paste, duplicate the selection; select all. Ctrl+V also opens a picture of the clipboard"],
    ["Ctrl+S", "Save the layout"],
    ["Esc", "Cancel what is being drawn, or the selection"],
    ["Right click", "Choose the class under the pointer"],
    ["Wheel, middle button", "Zoom, pan"],
  ];
  $("key-table").append(...rows.map(([keys, words]) => element("p", {}, element("kbd", {}, keys), element("span", {}, words))));
}
