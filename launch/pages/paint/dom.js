// Elements of the page. Style and behaviour are set from scripts: the page allows neither inline.

export const $ = (id) => document.getElementById(id);

/** Makes an element. `on...` are listeners, other settings are properties or, where there is none, attributes. */
export function element(tag, settings = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Calls `draw` once before the next frame, however often it is asked to. */
export function once(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}

/** Whether keys are text just now. */
export const isTyping = (target) => target.closest?.("input:not([type=range]), textarea, select, dialog[open]") != null;
