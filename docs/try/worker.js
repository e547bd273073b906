// Runs the flow, apart from the page. The preset is one of levels: one part makes the details that an image
// of half the size lacks, at every size; another one makes the coarsest image, of 2×2 pixels.
const COARSEST = 2; // side of the coarsest image
const CHANNELS = 3;
const TOP = COARSEST * COARSEST * CHANNELS; // its latents
const LEVELS = 256; // of a byte

let loaded = 0; // bytes that came over the network
let ready; // the promise of the runtime and of the weights
const sessions = new Map();

async function file(path) {
  const response = await fetch(new URL(path, import.meta.url));
  if (!response.ok) throw new Error(`${path} is not on this site. In a clone, "make try" makes it.`);
  const chunks = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    loaded += value.length;
    postMessage({ loaded });
  }
  const blob = new Blob(chunks);
  const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const packed = start[0] === 0x1f && start[1] === 0x8b; // unless the server has unpacked it
  const stream = packed ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function load() {
  const [wasm, weights] = await Promise.all([
    file("runtime/ort-wasm-simd-threaded.wasm.gz"),
    file("model/weights.bin.gz"),
  ]);
  const ort = await import("./runtime/ort.wasm.bundle.min.mjs");
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.numThreads = 1; // more need headers that a static site does not send
  return { ort, weights };
}

async function run(graph, inputs) {
  ready ??= load();
  if (!sessions.has(graph)) sessions.set(graph, (async () => {
    const [{ ort, weights }, bytes] = await Promise.all([ready, file(`model/${graph}.onnx.gz`)]);
    const externalData = [{ path: "weights.bin", data: weights }];
    return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], externalData });
  })());
  const session = await sessions.get(graph);
  const { ort } = await ready;
  const feeds = {};
  for (const [name, [values, ...shape]] of Object.entries(inputs)) {
    feeds[name] = new ort.Tensor("float32", values, [1, ...shape]);
  }
  const outputs = await session.run(feeds);
  return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
}

// Bytes at the middle of their bins → [−½, ½), and back.
const centred = (bytes) => Float32Array.from(bytes, (byte) => (byte + 0.5) / LEVELS - 0.5);
const toBytes = (image) => Uint8ClampedArray.from(image, (y) => Math.floor(Math.fround(y + 0.5) * LEVELS));
// Drawn images may leave the range, and finer levels would magnify that.
const withinRange = (image) => image.map((y) => Math.min(Math.max(y, -0.5), 0.5));

/** Returns normal numbers of a seed. They are the page's own, not those of the package. */
function normals(seed, count, temperature) {
  let state = seed | 0;
  const uniform = () => { // mulberry32
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return temperature * radius * Math.cos(2 * Math.PI * uniform());
  });
}

/** Returns the sides of the details of an image, the finest first. */
function sides(size) {
  const found = [];
  for (let side = size / 2; side >= COARSEST; side /= 2) found.push(side);
  return found;
}

const details = (side) => 3 * CHANNELS * side * side;

/** Draws latents. A level's numbers depend on its side and the seed alone. */
function latents(size, seed, temperature) {
  const levels = [...sides(size).map((side) => [side, details(side)]), [0, TOP]];
  const eps = new Float32Array(CHANNELS * size * size);
  let begin = 0;
  for (const [side, count] of levels) {
    eps.set(normals(seed * 4099 + side, count, temperature), begin);
    begin += count;
  }
  return eps;
}

/** Makes an image twice as large: both in [−½, ½]. */
async function enlargedOnce(image, eps, side) {
  const inputs = { image: [withinRange(image), side, side, CHANNELS], eps: [eps, side, side, 3 * CHANNELS] };
  return (await run(`inverse_${side}`, inputs)).large;
}

const actions = {
  /** Latents → images, from the coarsest to the finest, whose side is `size`. */
  async decode({ eps, size }, step) {
    let end = eps.length;
    const last = (count) => eps.slice((end -= count), end + count);
    let { image } = await run("inverse_coarsest", { eps: [last(TOP), 1, 1, TOP] });
    const images = [];
    for (const side of sides(size).reverse()) {
      image = await enlargedOnce(image, last(details(side)), side);
      images.push(toBytes(image));
      step(images.at(-1));
    }
    return { eps, images };
  },

  async draw({ size, seed, temperature }, step) {
    return actions.decode({ eps: latents(size, seed, temperature), size }, step);
  },

  /** Bytes → latents, log p in nats, and maps of each level: bits, and mean squares of the latents. */
  async encode({ bytes, size }, step) {
    const parts = [], levels = [];
    let logProb = -bytes.length * Math.log(LEVELS); // of centring
    let image = centred(bytes);
    const add = (side, numbers, found) => {
      const total = found.log_prob.reduce((sum, value) => sum + value, 0);
      const bits = found.log_prob.map((value) => numbers * Math.log2(LEVELS) - value / Math.LN2);
      const squares = found.log_prob.map((_, place) => {
        const own = found.eps.subarray(place * numbers, (place + 1) * numbers);
        return own.reduce((sum, value) => sum + value * value, 0) / numbers;
      });
      logProb += total;
      parts.push(found.eps);
      levels.push({ side, numbers, bits, squares });
      step(levels.at(-1));
    };
    for (const side of sides(size)) {
      const found = await run(`forward_${side}`, { image: [image, 2 * side, 2 * side, CHANNELS] });
      add(side, 3 * CHANNELS, found);
      image = found.small;
    }
    add(1, TOP, await run("forward_coarsest", { image: [image, COARSEST, COARSEST, CHANNELS] }));
    const eps = new Float32Array(bytes.length);
    parts.reduce((begin, part) => (eps.set(part, begin), begin + part.length), 0);
    return { eps, logProb, levels };
  },

  /** Bytes → an image `factor` times as large, whose details are drawn; temperature 0: the likeliest. */
  async enlarge({ bytes, size, factor, seed, temperature }) {
    let image = centred(bytes);
    const eps = [];
    for (let side = size; side < factor * size; side *= 2) {
      eps.push(normals(seed * 4099 + side, details(side), temperature));
      image = await enlargedOnce(image, eps.at(-1), side);
    }
    return { eps, image: toBytes(image) };
  },

  /** Two images → images on the way from one's latents to the other's. */
  async mix({ first, second, size, count }, step) {
    const from = (await actions.encode({ bytes: first, size }, () => {})).eps;
    const to = (await actions.encode({ bytes: second, size }, () => {})).eps;
    const images = [];
    for (let k = 0; k < count; k++) {
      const eps = between(from, to, k / (count - 1));
      images.push((await actions.decode({ eps, size }, () => {})).images.at(-1));
      step(images.at(-1));
    }
    return { from, to, images };
  },
};

/** Turns from one direction to another, while the length changes evenly. */
function between(from, to, weight) {
  const length = (eps) => Math.sqrt(eps.reduce((sum, value) => sum + value * value, 0));
  const [a, b] = [length(from), length(to)];
  const cosine = from.reduce((sum, value, k) => sum + value * to[k], 0) / (a * b);
  const angle = Math.acos(Math.min(Math.max(cosine, -1), 1));
  const turns = Math.sin(angle) > 1e-3;
  const [u, v] = turns
    ? [Math.sin((1 - weight) * angle) / Math.sin(angle), Math.sin(weight * angle) / Math.sin(angle)]
    : [1 - weight, weight];
  const wanted = (1 - weight) * a + weight * b;
  return from.map((value, k) => ((u * value) / a + (v * to[k]) / b) * wanted);
}

self.onmessage = async ({ data: { id, action, options } }) => {
  try {
    const result = await actions[action](options, (step) => postMessage({ id, step }));
    postMessage({ id, result, loaded });
  } catch (error) {
    ready = undefined; // a lost connection may be back
    sessions.clear();
    postMessage({ id, error: error.message ?? String(error) });
  }
};
