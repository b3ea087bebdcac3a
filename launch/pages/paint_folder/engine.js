// The engine of a folder that launch.convert web has made: onnxruntime-web makes the images in a worker, and layout files are
// read and written here. It takes the place of the engine of launch.paint, which asks a server. What it does not offer,
// about.json says, so that the page shows no button for it.

import { Refused, Unreachable } from "./errors.js";
import { fileName, layoutPng, onCanvas, readLayout } from "./layout_file.js";

const COPY = "Copy the whole folder that launch.convert web has made.";

let info = null; // about.json
let worker = null;
let progress = { state: "loading", problem: "", progress: "" };
let since = performance.now(); // when the state began
let waiting = null; // the layout whose images are being made: {ids, resolve, reject}

/** What the page paints with, and how far the run is. The first call begins to load the model. */
export async function about() {
  info ??= await ask("about.json", "json");
  if (!worker) startWorker();
  const seconds = (performance.now() - since) / 1000;
  return { ...info, runs: info.runs.map((run) => ({ ...run, ...progress, seconds })) };
}

export const scenes = () => ask("scenes.json", "json");

export async function heldOut(number) {
  const name = `layouts/${number}.png`;
  return (await readLayout(new Uint8Array(await ask(name, "arrayBuffer")), name, info)).ids;
}

/** The images of a layout, and the layout. The page asks for one at a time. */
export async function render(_, ids, { images, height, width }) {
  if (progress.state === "failed") throw new Refused({ error: progress.problem }, 422);
  const content = await new Promise((resolve, reject) => {
    waiting = { resolve, reject };
    worker.postMessage({ ids, height, width });
  });
  const pixels = height * width;
  return { images: Array.from({ length: images }, (_, u) => content.subarray(3 * pixels * u, 3 * pixels * (u + 1))), ids };
}

/** Opens a layout file: class ids and sentences about what was done. */
export async function open(_, file, bytes, reading) {
  const content = new Uint8Array(await file.arrayBuffer());
  return onCanvas(await readLayout(content, file.name ?? "The picture", info, reading), info);
}

/** The layout as a PNG file of ids with the classes' colours, which launch.synthesize takes, and its name. */
export async function layoutFile(ids) {
  return { content: new Blob([await layoutPng(ids, info)], { type: "image/png" }), name: fileName(ids) };
}

/** What a file of the folder holds, read as "json" or as "arrayBuffer". */
async function ask(name, read) {
  let answer;
  try {
    answer = await fetch(new URL(name, document.baseURI), { cache: "no-cache" }); // the folder may have been made anew
  } catch {
    throw new Unreachable("The server of this page does not answer.");
  }
  if (!answer.ok) throw new Refused({ error: `${name} cannot be loaded: the server answers with status ${answer.status}. ${COPY}` }, answer.status);
  try {
    return await answer[read]();
  } catch { // it broke off, or the server answers with a page of its own in place of a file that is not there
    throw new Refused({ error: `${name} is damaged or cut short. ${COPY}` }, answer.status);
  }
}

function enter(state, settings = {}) {
  if (progress.state === "failed") return; // of two files, one may still be coming
  if (state !== progress.state) since = performance.now();
  progress = { state, problem: "", progress: "", ...settings };
}

/** Starts the worker. Its script is a blob: such a worker inherits the page's Content-Security-Policy. */
function startWorker() {
  const script = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
  worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
  const answers = {
    loading({ received, total }) {
      enter("loading", { progress: `${(received / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB` });
    },
    compiling() { enter("compiling"); },
    ready() { enter("ready"); },
    failed({ problem }) { fail(`${problem} ${COPY}`); },
    images({ content }) { waiting?.resolve(content); },
    refused({ problem }) { waiting?.reject(new Refused({ error: problem }, 422)); },
  };
  worker.addEventListener("message", ({ data }) => answers[data.kind](data));
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    fail(event.message ? `The worker that makes images has failed: ${event.message}.` : `The worker that makes images cannot be started. ${COPY}`);
  });
  const address = (name) => new URL(name, document.baseURI).href, { model, runtime } = info.files;
  worker.postMessage({ model: { ...model, address: address(model.name) }, runtime: { ...runtime, address: address(runtime.name), module: address(runtime.module) } });
}

function fail(problem) {
  enter("failed", { problem });
  waiting?.reject(new Refused({ error: problem }, 422));
}
