// The list of classes: names, colours, search, and how much of the layout each covers.

import { $, element, once } from "./dom.js";
import { counts } from "./raster.js";

export function listClasses(info, work, state) {
  const list = $("class-list"), search = $("search");
  const rows = info.classes.map((name, id) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = `rgb(${info.colors[id].join(" ")})`;
    const share = element("span", { className: "share" });
    const row = element("li", { id: `class-${id}`, role: "option", title: name }, swatch, element("span", { className: "name" }, name), share);
    row.addEventListener("click", () => state.set({ classId: id }));
    row.addEventListener("pointerenter", () => state.hover(id));
    row.addEventListener("pointerleave", () => state.hover(null));
    list.append(row);
    return { row, share };
  });
  const shown = () => rows.flatMap(({ row }, id) => (row.hidden ? [] : [id]));

  function choose(id) {
    state.set({ classId: id });
    rows[id].row.scrollIntoView({ block: "nearest" });
  }

  /** Chooses the class that is so many rows further down. */
  function move(steps) {
    const ids = shown();
    if (!ids.length) return;
    const place = ids.indexOf(state.classId);
    choose(ids[place < 0 ? 0 : Math.min(Math.max(place + steps, 0), ids.length - 1)]);
  }

  list.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -1e6, End: 1e6 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    move(steps[event.key]);
  });
  search.addEventListener("input", () => {
    const words = search.value.trim().toLowerCase().split(/\s+/);
    rows.forEach(({ row }, id) => {
      row.hidden = !words.every((word) => info.classes[id].toLowerCase().includes(word));
    });
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      const [first] = shown();
      if (first !== undefined) choose(first);
      search.value = "";
      search.dispatchEvent(new Event("input"));
      $("layout-view").querySelector(".frame").focus();
    } else if (event.key === "Escape") {
      search.value = "";
      search.dispatchEvent(new Event("input"));
      search.blur();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      list.focus();
      move(0);
    }
  });

  const mark = () => {
    rows.forEach(({ row }, id) => {
      row.setAttribute("aria-selected", id === state.classId);
      row.classList.toggle("hovered", id === state.hovered);
    });
    list.setAttribute("aria-activedescendant", `class-${state.classId}`);
  };
  const count = once(() => {
    const total = work.layout.ids.length;
    counts(work.layout, rows.length).forEach((pixels, id) => {
      const percent = (100 * pixels) / total;
      rows[id].share.textContent = pixels === 0 ? "" : percent < 0.1 ? "<0.1%" : `${percent.toFixed(percent < 10 ? 1 : 0)}%`;
      rows[id].row.classList.toggle("absent", pixels === 0);
    });
  });
  state.addEventListener("change", mark);
  state.addEventListener("hover", mark);
  work.addEventListener("change", count);
  mark();
  count();
  return { move };
}
