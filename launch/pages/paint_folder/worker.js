// Loads the model once, and then makes the images of each layout that it is sent.

let ort = null, session = null;

self.addEventListener("message", async ({ data }) => {
  if (!session) return load(data);
  try {
    const { ids, height, width } = data;
    const layout = new ort.Tensor(ids.BYTES_PER_ELEMENT === 2 ? "uint16" : "uint8", ids, [1, height, width]);
    const { images } = await session.run({ layout_ids: layout }); // [1, k, H, W, 3]
    self.postMessage({ kind: "images", content: images.data }, [images.data.buffer]);
  } catch (error) {
    self.postMessage({ kind: "refused", problem: `The image cannot be made: ${error.message}` });
  }
});

async function load({ model, runtime }) {
  try {
    const [wasmBinary, content] = await fetched([runtime, model]);
    self.postMessage({ kind: "compiling" });
    ort = await imported(runtime.module);
    ort.env.wasm.wasmBinary = wasmBinary; // it takes several threads by itself if the page is isolated from other origins
    session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
    self.postMessage({ kind: "ready" });
  } catch (error) {
    self.postMessage({ kind: "failed", problem: error instanceof Broken ? error.message : `The model cannot be started: ${error.message}` });
  }
}

/** A file that is not there, or not whole. */
class Broken extends Error {}

async function imported(address) {
  try {
    return await import(address);
  } catch (error) {
    throw new Broken(`onnxruntime-web cannot be loaded: ${error.message}.`);
  }
}

/** The contents of files {name, address, bytes}. It tells how much has come. */
async function fetched(files) {
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  let received = 0;
  return Promise.all(files.map(async ({ name, address, bytes }) => {
    const content = new Uint8Array(bytes);
    let place = 0;
    try {
      const answer = await fetch(address, { cache: "no-cache" }); // the folder may have been made anew
      if (!answer.ok) throw new Broken(`${name} cannot be loaded: the server answers with status ${answer.status}.`);
      const reader = answer.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        if (place + value.length <= bytes) content.set(value, place);
        place += value.length;
        received += value.length;
        self.postMessage({ kind: "loading", received, total });
      }
    } catch (error) {
      throw error instanceof Broken ? error : new Broken(`${name} cannot be loaded: the server does not answer.`);
    }
    if (place !== bytes) throw new Broken(`${name} has ${place.toLocaleString("en")} bytes in place of ${bytes.toLocaleString("en")}.`);
    return content;
  }));
}
