const find = selector => document.querySelector(selector);
const finite = value => typeof value === "number" && Number.isFinite(value);

// Names may be any text. They become text nodes and attributes here, and are never parsed as HTML.
const maker = namespace => (tag, attributes, ...children) => {
  const element = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes))
    typeof value === "function" ? element.addEventListener(name, value) : element.setAttribute(name, value);
  element.append(...children.flat(Infinity).filter(child => child !== null));
  return element;
};
const html = maker("http://www.w3.org/1999/xhtml"), svg = maker("http://www.w3.org/2000/svg");
