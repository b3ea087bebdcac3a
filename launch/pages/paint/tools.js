// The tools. Each one takes points in pixels of the layout: `down`, `move` while pressed, `up`. `cancel` takes back what is not
// done, `interrupt` only what the last press has done (if it is there; a second finger calls it), and `leave` is called when another tool is chosen. `key` takes what the keyboard says to this tool. `draw` paints its
// marks. `paints` is the class that it paints, if not the chosen one. A step may end while the pointer is still down, by an undo
// or by a file that is opened: `move` then does nothing.

import * as raster from "./raster.js";
import { edgeOf, outline } from "./view.js";

const at = ({ x, y }) => [Math.floor(x), Math.floor(y)];

/** Makes all tools for a work and a state. `stamps` are masks with their `class`. */
export function makeTools(work, state, stamps, voidId) {
  const { width, height } = work.layout;
  const inside = ({ x, y }) => x >= 0 && y >= 0 && x < width && y < height;

  const brush = (id, label, shortcut, hint, value) => {
    let last = null;
    const size = (p) => (p.pressure === null ? state.size : Math.max(1, state.size * p.pressure)); // a pen may press with 0
    return {
      id, label, shortcut, hint, sized: true, paints: value,
      down(p) {
        work.begin();
        work.changed(raster.stroke(work.layout, p.straight && last ? last : p, p, size(p), value()));
        last = p;
      },
      move(p) {
        if (!work.isBusy) return;
        work.changed(raster.stroke(work.layout, last, p, size(p), value()));
        last = p;
      },
      up() { work.commit(); },
      cancel() { work.cancel(); },
      draw(context, unit, p) {
        if (!p) return;
        const path = new Path2D(), middle = raster.snapped(p, state.size);
        path.arc(middle.x, middle.y, Math.max(state.size, 1) / 2, 0, 2 * Math.PI);
        outline(context, path, unit);
      },
    };
  };

  /** A shape that is drawn anew from where the pointer was pressed to where it is; with Shift, to a point that is `kept`. */
  const dragged = (id, label, shortcut, hint, shape, kept, sized) => {
    let from = null;
    return {
      id, label, shortcut, hint, sized,
      down(p) {
        work.begin();
        from = p;
        this.move(p);
      },
      move(p) {
        if (!work.isBusy) return;
        work.restore();
        work.changed(shape(from, p.straight ? kept(from, p) : p));
      },
      up() { work.commit(); },
      cancel() { work.cancel(); },
      draw(context, unit, p) {
        if (!p) return;
        const path = new Path2D(), reach = 6 / unit;
        for (const [dx, dy] of [[reach, 0], [0, reach]]) {
          path.moveTo(p.x - dx, p.y - dy);
          path.lineTo(p.x + dx, p.y + dy);
        }
        outline(context, path, unit);
      },
    };
  };

  /** A tool that acts when the pointer is released: a second finger, which zooms, takes the click back. */
  const clicked = (id, label, shortcut, hint, click) => {
    let place = null;
    return {
      id, label, shortcut, hint,
      down(p) { place = inside(p) ? at(p) : null; },
      up() {
        if (place) click(...place);
        place = null;
      },
      cancel() { place = null; },
    };
  };

  const tools = [
    brush("brush", "Brush", "B", "Drag to paint. Shift and click paints a straight line from the last place.", () => state.classId),
    brush("eraser", "Eraser", "E", "Drag to paint void.", () => voidId),
    clicked("fill", "Fill", "F", "Click an area to give it the chosen class.", (x, y) => work.edit((layout) => raster.fill(layout, x, y, state.classId))),
    dragged("line", "Line", "L", "Drag from end to end. Shift keeps to steps of 45°.",
      (from, to) => raster.stroke(work.layout, from, to, state.size, state.classId), straightened, true),
    dragged("rectangle", "Rectangle", "R", "Drag from corner to corner. Shift makes a square.",
      (from, to) => raster.rectangle(work.layout, from, to, state.classId), squared),
    polygonTool(),
    selectTool(),
    stampTool(),
    clicked("replace", "Replace class", "W", "Click a class to turn it into the chosen one everywhere.", (x, y) => {
      const from = work.at(x, y);
      work.edit((layout) => raster.replaceClass(layout, from, state.classId));
    }),
    clicked("eyedropper", "Eyedropper", "I", "Click to choose the class under the pointer. Right click does so with any tool.", (x, y) => {
      state.set({ classId: work.at(x, y), tool: state.before });
    }),
    { id: "hand", label: "Pan", shortcut: "H", hint: "Drag to move the view. The wheel zooms, and so do two fingers.", pans: true, paints: () => null, down() {} },
  ];
  return new Map(tools.map((tool) => [tool.id, tool]));

  /** A point, or the border of the layout if that is near. */
  function atBorder({ x, y, unit }) {
    const near = 5 / unit, snap = (value, whole) => (value < near ? 0 : value > whole - near ? whole : value);
    return { x: snap(x, width), y: snap(y, height) };
  }

  /** Corners by clicks, or an outline by dragging. */
  function polygonTool() {
    let points = [], dragging = false;
    const close = () => {
      const corners = points;
      points = [];
      if (corners.length > 2) work.edit((layout) => raster.polygon(layout, corners, state.classId));
    };
    return {
      id: "polygon", label: "Polygon", shortcut: "P",
      hint: "Click corners, and the first one again to fill (or Enter). Or drag around an area. Backspace takes a corner back.",
      down(p) {
        dragging = false;
        const first = points[0];
        if (points.length > 2 && Math.hypot(p.x - first.x, p.y - first.y) * p.unit < 9) return close();
        points.push(atBorder(p));
      },
      move(p) {
        const last = points.at(-1);
        if (!last || (!dragging && Math.hypot(p.x - last.x, p.y - last.y) * p.unit < 4)) return;
        if (!dragging && points.length > 1) return; // a click that slips does not undo the corners before
        dragging = true;
        points.push({ x: p.x, y: p.y });
      },
      up() { if (dragging) close(); dragging = false; },
      cancel() { points = []; },
      interrupt() {
        if (dragging) points = [];
        else points.pop();
        dragging = false;
      },
      leave() { points = []; },
      key(name) {
        if (name === "Enter") close();
        else if (name === "Backspace" && points.length) points.pop();
        else return false;
        return true;
      },
      draw(context, unit, p) {
        if (!points.length) return;
        const path = new Path2D();
        for (const q of p ? [...points, p] : points) path.lineTo(q.x, q.y);
        if (dragging) path.closePath();
        outline(context, path, unit);
        const corner = new Path2D();
        corner.arc(points[0].x, points[0].y, 4 / unit, 0, 2 * Math.PI);
        outline(context, corner, unit);
      },
    };
  }

  /** Selects an area, and moves or copies it. The hole that a moved area leaves is closed from its edges. */
  function selectTool() {
    let area = null; // {x, y, width, height, bits}
    let held = null; // its class ids
    let under = null; // the class ids of the layout without the area, once it was moved
    let copied = null;
    let from = null, start = null, dragsArea = false, copies = false;

    const covers = ({ x, y }) => {
      const [column, row] = [Math.floor(x) - area.x, Math.floor(y) - area.y];
      return column >= 0 && row >= 0 && column < area.width && row < area.height && area.bits[row * area.width + column] === 1;
    };
    const select = (selected) => {
      area = selected;
      held = selected && raster.contents(work.layout, selected);
      under = null;
    };
    const lift = (keep) => {
      if (under) return;
      if (!keep) {
        const scratch = { ...work.layout, ids: work.layout.ids.slice() };
        raster.heal(scratch, area);
        under = scratch.ids;
      } else under = work.layout.ids.slice();
    };
    const put = (x, y) => {
      work.layout.ids.set(under);
      [area.x, area.y] = [x, y];
      raster.stamp(work.layout, area, x, y, held);
      work.changed([0, 0, width, height]);
    };
    const step = (dx, dy, keep) => {
      if (keep) under = null;
      lift(keep);
      own = true;
      work.begin();
      put(area.x + dx, area.y + dy);
      work.commit();
      own = false;
    };
    let own = false;
    work.addEventListener("commit", () => { if (!own) select(null); });

    const tool = {
      id: "select", label: "Select and move", shortcut: "S",
      hint: "Click an object, or drag a box around an area; then drag it. Alt drags a copy. Ctrl+C, Ctrl+V, Delete, arrow keys.",
      paints: () => null,
      get hasSelection() { return area !== null; },
      down(p) {
        [from, start, dragsArea] = [p, null, false];
        if (!area || !covers(p)) return;
        dragsArea = true;
        start = { x: area.x, y: area.y };
        copies = p.copies;
        if (copies) under = null;
        lift(copies);
        work.begin();
      },
      move(p) {
        const [dx, dy] = [Math.round(p.x - from.x), Math.round(p.y - from.y)];
        if (!dragsArea) select(raster.box(work.layout, from, p));
        else if (work.isBusy) put(start.x + dx, start.y + dy);
      },
      up(p) {
        if (dragsArea && !work.isBusy) select(null);
        else if (dragsArea) {
          own = true;
          work.commit();
          own = false;
          if (copies && area.x === start.x && area.y === start.y) under = null; // nothing was copied
        } else if (Math.hypot(p.x - from.x, p.y - from.y) * p.unit < 4) {
          select(inside(from) ? raster.region(work.layout, ...at(from)) : null);
        }
        dragsArea = false;
      },
      cancel() {
        if (dragsArea && work.isBusy) {
          work.cancel();
          [area.x, area.y] = [start.x, start.y];
          if (copies) under = null;
        } else select(null);
        dragsArea = false;
      },
      leave() {
        this.cancel();
        select(null);
      },
      selectAll() { select(raster.box(work.layout, { x: 0, y: 0 }, { x: width, y: height })); },
      copy() {
        if (area) copied = { ...area, bits: area.bits, held };
        return area !== null;
      },
      cut() { if (this.copy()) this.remove(); },
      paste() {
        if (!copied) return false;
        const { held: ids, ...mask } = copied;
        area = { ...mask, x: Math.min(copied.x + 6, width - 1), y: copied.y };
        [held, under] = [ids, null];
        copied = { ...copied, x: area.x };
        step(0, 0, true);
        return true;
      },
      remove() {
        if (!area) return;
        const gone = area;
        select(null);
        work.edit((layout) => raster.heal(layout, gone));
      },
      flip() {
        if (!area) return;
        lift(false);
        const mirror = (array) => array.map((_, i) => array[i - (i % area.width) + area.width - 1 - (i % area.width)]);
        [area.bits, held] = [mirror(area.bits), mirror(held)];
        step(0, 0, false);
      },
      key(name, { shift }) {
        const far = shift ? 10 : 1, steps = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
        if (!area) return false;
        if (name in steps) step(...steps[name], false);
        else if (name === "Delete" || name === "Backspace") this.remove();
        else if (name === "x") this.flip();
        else return false;
        return true;
      },
      draw(context, unit) {
        if (area) outline(context, edgeOf(area, area.x, area.y), unit, true);
      },
    };
    return tool;
  }

  function stampTool() {
    const mask = () => {
      const chosen = stamps[state.stamp];
      return chosen && raster.scaled(chosen, state.stampScale, state.mirrored);
    };
    const corner = (made, p) => [Math.round(p.x - made.width / 2), Math.round(p.y - made.height)];
    const put = (p) => {
      const made = mask();
      if (made) work.changed(raster.stamp(work.layout, made, ...corner(made, p), stamps[state.stamp].class));
    };
    return {
      id: "stamp", label: "Stamp an object", shortcut: "T",
      hint: "Choose an object, and click where it stands. Drag to place it. X mirrors it, [ and ] change its size.",
      paints: () => stamps[state.stamp]?.class ?? null,
      down(p) {
        work.begin();
        put(p);
      },
      move(p) {
        if (!work.isBusy) return;
        work.restore();
        put(p);
      },
      up() { work.commit(); },
      cancel() { work.cancel(); },
      key(name) {
        if (name !== "x") return false;
        state.set({ mirrored: !state.mirrored });
        return true;
      },
      draw(context, unit, p) {
        const made = p && mask();
        if (made) outline(context, edgeOf(made, ...corner(made, p)), unit);
      },
    };
  }
}

/** The corner of a square that reaches as far as `to` does. */
function squared(from, to) {
  const side = Math.max(Math.abs(Math.floor(to.x) - Math.floor(from.x)), Math.abs(Math.floor(to.y) - Math.floor(from.y)));
  return { ...to, x: from.x + Math.sign(to.x - from.x) * side, y: from.y + Math.sign(to.y - from.y) * side };
}

/** The nearest point to `to` on a line from `from` in a step of 45°. */
function straightened(from, to) {
  const [dx, dy] = [to.x - from.x, to.y - from.y], length = Math.hypot(dx, dy);
  const angle = (Math.round((4 * Math.atan2(dy, dx)) / Math.PI) * Math.PI) / 4;
  return { ...to, x: from.x + length * Math.cos(angle), y: from.y + length * Math.sin(angle) };
}
