// Mouse, pen, fingers and keyboard on the layout, as the points that tools take. What one of them has pressed, the others do not
// move or release. While a pen is down, touches are those of the hand that holds it, and do nothing.

const KEYBOARD = "keyboard";

/** Hands what happens on the layout's view on to the chosen tool. Returns a function that cancels what is being drawn. */
export function listen(view, camera, state, tools, work, onPlace) {
  const { frame } = view;
  const fingers = new Map();
  let pressed = null; // the tool that was pressed; another one may be chosen meanwhile
  let holder = null; // the pointer that pressed it, or that pans; or KEYBOARD
  let pen = null; // the pointer of a pen that is down
  let panning = null, pinch = null;
  let cursor = null; // the last point, for the tool's marks and for the keyboard

  const tool = () => tools.get(state.tool);
  const unit = () => (frame.getBoundingClientRect().width * camera.scale) / view.width;
  const pointOf = (event) => ({
    ...view.pixelAt(event),
    straight: event.shiftKey,
    copies: event.altKey,
    pressure: event.pointerType === "pen" ? event.pressure : null,
    unit: unit(),
  });
  const keyPoint = (event) => ({ ...cursor, straight: false, copies: event.altKey, pressure: null, unit: unit() });

  function show(point) {
    cursor = point;
    const there = point && view.contains(point);
    onPlace(there ? { x: Math.floor(point.x), y: Math.floor(point.y) } : null);
    view.redraw();
  }

  function stop() {
    (pressed?.interrupt ?? pressed?.cancel)?.call(pressed);
    pressed = holder = panning = null;
  }

  frame.addEventListener("pointerdown", (event) => {
    frame.focus({ preventScroll: true });
    event.preventDefault();
    if (event.pointerType === "touch" && pen !== null) return;
    frame.setPointerCapture(event.pointerId);
    if (event.pointerType === "pen") {
      pen = event.pointerId;
      fingers.clear(); // the hand may have come down first
      pinch = null;
    }
    if (holder !== null && holder !== event.pointerId) stop();
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, event);
      if (fingers.size === 2) pinch = spread();
      if (fingers.size > 1) return;
    }
    if (event.button === 2 || (event.altKey && tool().sized)) {
      const [x, y] = [Math.floor(view.pixelAt(event).x), Math.floor(view.pixelAt(event).y)];
      if (view.contains({ x, y })) state.set({ classId: work.at(x, y) });
    } else if (event.button === 1 || tool().pans) {
      panning = view.placeOf(event);
      holder = event.pointerId;
    } else if (event.button === 0) {
      pressed = tool();
      holder = event.pointerId;
      pressed.down(pointOf(event));
    }
    show(pointOf(event));
  });

  frame.addEventListener("pointermove", (event) => {
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event);
    else if (event.pointerType === "touch") return;
    if (pinch && fingers.size === 2) {
      const now = spread();
      camera.pan(now.x - pinch.x, now.y - pinch.y);
      camera.zoom(now.apart / pinch.apart, now);
      pinch = now;
      return;
    }
    if (holder !== null && holder !== event.pointerId) return;
    if (panning) {
      const place = view.placeOf(event);
      camera.pan(place.x - panning.x, place.y - panning.y);
      panning = place;
    } else if (pressed) {
      const each = event.getCoalescedEvents?.() ?? [];
      for (const part of each.length ? each : [event]) pressed.move?.(pointOf(part));
    }
    show(pointOf(event));
  });

  const release = (event) => {
    fingers.delete(event.pointerId);
    if (fingers.size < 2) pinch = null;
    if (pen === event.pointerId) pen = null;
    if (holder !== event.pointerId) return;
    const released = pressed;
    pressed = holder = panning = null;
    if (!released) return;
    if (event.type === "pointercancel") released.cancel?.();
    else released.up?.(pointOf(event));
    show(event.pointerType === "touch" ? null : pointOf(event));
  };
  frame.addEventListener("pointerup", release);
  frame.addEventListener("pointercancel", release);
  frame.addEventListener("pointerleave", () => { if (!pressed) show(null); });
  frame.addEventListener("contextmenu", (event) => event.preventDefault());

  function spread() {
    const [one, other] = [...fingers.values()].map((event) => view.placeOf(event));
    return { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2, apart: Math.hypot(one.x - other.x, one.y - other.y) || 1e-3 };
  }

  // The keyboard moves a point: arrow keys, the space bar presses.
  frame.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const held = event.ctrlKey || event.metaKey || event.altKey;
    if (!held && tool().key?.(event.key, { shift: event.shiftKey })) {
      event.preventDefault();
      view.redraw();
    } else if (event.key in steps && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      const far = event.shiftKey ? 10 : 1, [dx, dy] = steps[event.key];
      if (tool().pans) return camera.pan((-dx * far) / 50, (-dy * far) / 50);
      const { x, y } = cursor ?? { x: view.width / 2, y: view.height / 2 };
      const limit = (value, whole) => Math.min(Math.max(Math.floor(value) + 0.5, 0.5), whole - 0.5);
      cursor = { x: limit(x + far * dx, view.width), y: limit(y + far * dy, view.height) };
      camera.reveal({ x: cursor.x / view.width, y: cursor.y / view.height });
      pressed?.move?.(keyPoint(event));
      show(cursor);
    } else if (event.key === " " && !event.repeat && holder === null && !tool().pans) {
      event.preventDefault();
      cursor ??= { x: Math.floor(view.width / 2) + 0.5, y: Math.floor(view.height / 2) + 0.5 };
      pressed = tool();
      holder = KEYBOARD;
      pressed.down(keyPoint(event));
      show(cursor);
    } else if (event.key === " ") event.preventDefault();
  });
  frame.addEventListener("keyup", (event) => {
    if (event.key !== " " || holder !== KEYBOARD) return;
    const released = pressed;
    pressed = holder = null;
    released.up?.(keyPoint(event));
    show(cursor);
  });
  frame.addEventListener("blur", stop);

  view.draw = (context, size) => tool().draw?.(context, size, cursor);
  state.addEventListener("change", () => {
    if (pressed && pressed !== tool()) stop();
    view.redraw();
  });
  work.addEventListener("change", view.redraw);

  return () => {
    pressed = holder = panning = null;
    tool().cancel?.();
    view.redraw();
  };
}

/** Lets the wheel move the camera over a view. */
export function navigate(view, camera) {
  view.frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const { width, height } = view.frame.getBoundingClientRect();
      camera.pan((-event.deltaX * lines) / width, (-event.deltaY * lines) / height);
    } else camera.zoom(Math.exp(-event.deltaY * lines * 0.002), view.placeOf(event));
  }, { passive: false });
}

