// Messages at the foot of the page: what went wrong in words, and what was done.

import { $, element } from "./dom.js";

const SECONDS = 6;

/** Shows a message. `actions` are buttons: pairs of a label and what they do. An error stays until it is dismissed. */
export function tell(words, { isError = false, actions = [] } = {}) {
  const close = () => box.remove();
  const buttons = actions.map(([label, act]) => element("button", { onclick: () => { close(); act(); } }, label));
  const box = element("div", { className: isError ? "message error" : "message", role: isError ? "alert" : "status" },
    element("p", {}, words), ...buttons, element("button", { className: "icon", "aria-label": "Dismiss", onclick: close }, "×"));
  const older = [...$("messages").children].find((each) => each.firstChild.textContent === words);
  older?.remove();
  $("messages").append(box);
  while ($("messages").children.length > 3) $("messages").firstChild.remove();
  if (!isError && !actions.length) setTimeout(close, 1000 * SECONDS);
}

export const complain = (error, actions = []) => tell(error.message, { isError: true, actions });
