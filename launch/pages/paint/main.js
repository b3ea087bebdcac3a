// Puts the page together.

import { listClasses } from "./classes.js";
import { shareClipboard } from "./clipboard.js";
import { showCollection } from "./collection.js";
import { $, once } from "./dom.js";
import * as engine from "./engine.js";
import { Refused, Unreachable } from "./errors.js";
import { copyCommand, keep, saveImage, saveLayout } from "./keep.js";
import { listenToKeys } from "./keys.js";
import { Live } from "./live.js";
import { complain, tell } from "./messages.js";
import { SIZES, resize, showTools } from "./options.js";
import { Panel, chooseOne } from "./panels.js";
import { listen, navigate } from "./pointer.js";
import { maskOf, union } from "./raster.js";
import { offerObjects, offerStarts } from "./start.js";
import { State } from "./state.js";
import { makeTools } from "./tools.js";
import { Camera, View, rgba } from "./view.js";
import { Work } from "./work.js";

/** The parts of the page, once it is there. */
export let parts = null;

async function start() {
  const [info, scenes] = await Promise.all([engine.about(), engine.scenes()]);
  const colors = Uint32Array.from(info.colors, (color) => rgba(color));
  const stamps = scenes.stamps.map((stamp) => ({ class: stamp.class, ...maskOf(stamp) }));
  const work = new Work(info.width, info.height, info.bytes), state = new State(), camera = new Camera();

  const view = new View($("layout-view"), info.width, info.height, camera, "Layout: arrow keys move the point, the space bar presses");
  const panels = info.runs.map((run, number) => new Panel(number, run, info, camera, state));
  $("stage").classList.toggle("several", panels.length > 1);
  const tools = makeTools(work, state, stamps, info.classes.length - 1);
  showTools(tools, state, info);
  offerObjects(stamps, info, state, colors);
  const starts = await offerStarts(info, scenes, work, colors, () => live.look());
  const kept = keep(info, work, state, panels), before = kept.read();

  let dirty = null;
  const repaint = once(() => {
    view.paint((i) => colors[work.layout.ids[i]], dirty);
    dirty = null;
    shade();
  });
  work.addEventListener("change", ({ rect }) => {
    dirty = union(dirty, rect);
    repaint();
  });
  const shade = () => view.cover(state.hovered === null ? null : (i) => (work.layout.ids[i] === state.hovered ? 0 : 0xb0181614));
  state.addEventListener("hover", () => {
    shade();
    for (const panel of panels) panel.shade();
  });

  const cancel = listen(view, camera, state, tools, work, (place) => {
    $("place").textContent = place ? `${info.classes[work.at(place.x, place.y)]} · ${place.x}, ${place.y}` : "";
  });
  for (const each of [view, ...panels.map((panel) => panel.view)]) navigate(each, camera);
  const classes = listClasses(info, work, state), collection = showCollection(panels, info, state);
  const live = new Live(info, work, panels);

  const shownPanel = chooseOne(panels, collection.panel() ?? panels[0]);
  const select = tools.get("select");
  const clipboard = shareClipboard(select, state, view.redraw, cancel, starts.take);
  const actions = {
    undo: () => work.undo(),
    redo: () => work.redo(),
    smaller: () => resize(state, -1),
    larger: () => resize(state, 1),
    zoomIn: () => camera.zoom(1.5),
    zoomOut: () => camera.zoom(1 / 1.5),
    fit: () => camera.fit(),
    previousClass: () => classes.move(-1),
    nextClass: () => classes.move(1),
    search: () => $("search").focus(),
    canvas: () => view.frame.focus(),
    help: () => $("keys").showModal(),
    map: () => collection.toggleMap?.(),
    pickChosen: () => collection.pickChosen?.(),
    look: (u) => collection.look?.(u),
    saveLayout: () => { saveLayout(work, shownPanel(), live); },
    cancel,
    selectAll: () => {
      cancel(); // an area that is being dragged is no longer the selection
      state.set({ tool: "select" });
      select.selectAll();
      view.redraw();
    },
    ...clipboard,
  };
  listenToKeys(tools, state, actions);

  for (const [id, act] of Object.entries({
    undo: actions.undo, redo: actions.redo, "zoom-in": actions.zoomIn, "zoom-out": actions.zoomOut, "zoom-fit": actions.fit,
    "save-layout": actions.saveLayout, help: actions.help,
    "save-image": () => saveImage(work, shownPanel(), live, 1), "save-large": () => saveImage(work, shownPanel(), live, 4),
    "copy-command": () => copyCommand(work, shownPanel(), live),
  })) $(id).addEventListener("click", act);
  $("copy-command").hidden = !info.command;
  camera.addEventListener("change", () => { $("zoom").textContent = `${Math.round(100 * camera.scale)}%`; });
  const history = () => {
    $("undo").disabled = !work.canUndo;
    $("redo").disabled = !work.canRedo;
  };
  work.addEventListener("commit", history);

  showStatus(live, panels);
  work.load(before?.ids ?? starts.first);
  if (before) {
    const { tool, classId, size, stamp } = before;
    const known = { tool: tools.has(tool) && tool, classId: classId in info.classes && classId, size: size >= SIZES[0] && size <= SIZES[1] && size, stamp: stamp in stamps && stamp };
    state.set(Object.fromEntries(Object.entries(known).filter(([, value]) => value !== false)));
    before.panels?.forEach((each, i) => panels[i]?.restore(each));
  } else {
    state.set({ classId: work.at(info.width >> 1, info.height - 1 - (info.height >> 3)) });
  }
  kept.listen();
  history();
  parts = { info, work, state, camera, view, panels, tools, live, starts, collection };
  document.body.dataset.ready = "yes";
}

/** The light at the top: ready, compiling, or gone. How fast the last image was stands apart, because screen readers read out
 * whatever changes in the status. */
function showStatus(live, panels) {
  let told = "";
  const show = () => {
    const random = panels.some(({ run }) => run.random_vgg19) ? " · trained with random VGG-19 weights" : "";
    const times = panels.flatMap(({ latency }) => (latency === null ? [] : [latency]));
    const failed = panels.find(({ run }) => run.state === "failed");
    const [light, words] = live.isLost ? ["lost", live.problem || "The server does not answer. Your work is kept."]
      : live.isWaiting ? ["busy", panels.some(({ run }) => run.state === "loading") ? "Loading…" : "Compiling…"]
      : live.problem ? ["lost", live.problem]
      : failed ? ["lost", failed.run.problem]
      : ["ready", `Ready${random}`];
    $("status").dataset.light = light;
    if (words !== told) $("status-text").textContent = told = words;
    $("status-text").title = words;
    $("latency").textContent = light === "ready" && times.length ? `· ${Math.round(Math.max(...times))} ms from stroke to image` : "";
    for (const panel of panels) panel.note.textContent = panel.latency === null ? "" : `${Math.round(panel.latency)} ms`;
  };
  live.addEventListener("status", show);
  live.addEventListener("lost", () => {
    show();
    tell("The server does not answer. You can go on painting: the work is kept, and images come when launch.paint runs again.");
  });
  live.addEventListener("back", () => tell("The server is back."));
  live.addEventListener("other", () => tell("The server now paints with other runs.", { isError: true, actions: [["Reload the page", () => location.reload()]] }));
  show();
}

start().catch((error) => {
  $("status").dataset.light = "lost";
  $("status-text").textContent = error.message;
  complain(error, [["Reload the page", () => location.reload()]]);
  if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
});
