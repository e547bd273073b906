// The page: tabs, photographs, and what the worker found. Each panel keeps its last result as `panel.result`.
import { bicubic, canvasOf, coloured, filed, repeated, squareOf } from "./pixels.js";

const READ = 128; // side of the images that are read
const SMALL = 64; // side of the images that are enlarged or mixed
const COARSE = 8; // side of the coarsest details whose unusual places are shown
const root = document.getElementById("try");
const photos = { first: undefined, second: undefined }; // {name, picture}

// --- the worker ---

let worker, asked = 0, waiting;

function ask(action, options, onStep = () => {}) {
  if (!worker) {
    worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => {
      if (data.id !== undefined && data.id !== waiting?.id) return;
      if (data.id === undefined) waiting?.onLoad(data.loaded);
      else if (data.step) waiting.onStep(data.step);
      else settle(data);
    };
    worker.onerror = () => waiting && settle({ error: "this browser is too old for the page." });
  }
  return new Promise((resolve, reject) => {
    const onLoad = (loaded) => say(`Loading: ${(loaded / 1e6).toFixed(1)} MB`);
    waiting = { id: ++asked, resolve, reject, onStep, onLoad };
    worker.postMessage({ id: asked, action, options });
  });
}

function settle({ error, result }) {
  const { resolve, reject } = waiting;
  waiting = undefined; // what is still loading says nothing more
  if (error) reject(new Error(error));
  else resolve(result);
}

// --- elements ---

function element(html) {
  const template = document.createElement("template");
  template.innerHTML = html.trim();
  return template.content.firstElementChild;
}

const range = (name, label, value) => `<label>${label} <output>${value}</output>
  <input type="range" name="${name}" min="0" max="1.2" step="0.05" value="${value}"></label>`;
const number = (name, label, value) => `<label>${label}
  <input type="number" name="${name}" min="0" max="9999" value="${value}" required></label>`;
const choice = (name, label, values, chosen) => `<label>${label} <select name="${name}">
  ${values.map((v) => `<option ${v === chosen ? "selected" : ""}>${v}</option>`).join("")}</select></label>`;

const drawing = (hot) => range("temperature", "Temperature", hot) + number("seed", "Seed", 47);
const PANELS = {
  draw: ["Draw", "Draws three images, each from the coarsest level to the finest.",
    choice("size", "Side, pixels", [32, 64, 128], 64) + drawing(1)],
  enlarge: ["Enlarge", `Shrinks the photo's middle square to ${SMALL} pixels, and draws what was lost.`,
    choice("factor", "Times", [2, 4], 2) + drawing(0.7)],
  bits: ["Bits", `What an ideal coder would need for the photo's middle square, at ${READ} pixels.`, ""],
  unusual: ["Unusual", `Where the photo's middle square, at ${READ} pixels, is unlike photographs.`,
    `<label><input type="checkbox" name="spoil"> Spoil a corner first</label>`],
  mix: ["Mix", `Goes from the latents of one photo to those of another, both at ${SMALL} pixels.`, ""],
};

const photoBox = (which) => `<div class="photo" data-photo="${which}">
  <canvas width="${SMALL}" height="${SMALL}" role="img" aria-label="No photo"></canvas>
  <span><label class="button">${which === "first" ? "Choose a photo" : "Choose another"}
  <input type="file" accept="image/*"></label> or drop it here
  <button type="button">Take ours</button></span></div>`;

function build() {
  const names = Object.keys(PANELS);
  root.append(
    element(`<div role="tablist" aria-label="What the model does">${names.map((name) => `<button role="tab"
      id="tab-${name}" aria-controls="panel-${name}">${PANELS[name][0]}</button>`).join("")}</div>`),
    element(`<div class="photos">${["first", "second"].map(photoBox).join("")}</div>`),
    ...names.map((name) => element(`<section role="tabpanel" id="panel-${name}" aria-labelledby="tab-${name}">
      <p>${PANELS[name][1]}</p><form>${PANELS[name][2]}<button>${PANELS[name][0]}</button></form>
      <div class="results"></div></section>`)),
    element(`<p role="status" aria-live="polite"></p>`),
  );
  for (const name of names) {
    const [tab, panel] = [root.querySelector(`#tab-${name}`), root.querySelector(`#panel-${name}`)];
    tab.addEventListener("click", () => select(name));
    tab.addEventListener("keydown", (event) => {
      const own = names.indexOf(name);
      const places = { ArrowRight: (own + 1) % names.length, ArrowLeft: own - 1, Home: 0, End: -1 };
      if (!(event.key in places)) return;
      event.preventDefault();
      select(names.at(places[event.key]), true);
    });
    for (const input of panel.querySelectorAll("[type=range]")) {
      input.addEventListener("input", () => (input.previousElementSibling.value = input.value));
    }
    panel.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      perform(name, panel, Object.fromEntries(new FormData(event.target)));
    });
  }
  for (const box of root.querySelectorAll(".photo")) buildPhoto(box);
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    const box = event.target.closest(".photo");
    take(box?.dataset.photo ?? "first", event.dataTransfer.files[0]);
  });
  select(names.includes(location.hash.slice(1)) ? location.hash.slice(1) : "draw");
}

function select(name, focus = false) {
  for (const tab of root.querySelectorAll("[role=tab]")) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) tab.focus();
  }
  for (const panel of root.querySelectorAll("[role=tabpanel]")) {
    panel.hidden = panel.id !== `panel-${name}`;
  }
  root.querySelector(`#panel-${name} form`).after(root.querySelector("[role=status]"));
  root.querySelector("[data-photo=first]").hidden = name === "draw";
  root.querySelector("[data-photo=second]").hidden = name !== "mix";
}

function buildPhoto(box) {
  const which = box.dataset.photo;
  box.querySelector("input").addEventListener("change", ({ target }) => {
    take(which, target.files[0]);
    target.value = ""; // so that the same file may be chosen again
  });
  box.querySelector("button").addEventListener("click", () => during(() => samplePhoto(which)));
}

/** Takes a file as a photo; the file is read here, and sent nowhere. */
async function take(which, file) {
  if (!file) return;
  try {
    show(which, file.name, await createImageBitmap(file));
    say(`${file.name}: it stays on this machine.`);
  } catch {
    say(`${file.name} is no picture that this browser reads.`);
  }
}

function show(which, name, picture) {
  photos[which] = { name, picture };
  const canvas = root.querySelector(`[data-photo=${which}] canvas`);
  canvas.getContext("2d").drawImage(canvasOf(squareOf(picture, SMALL), SMALL), 0, 0);
  canvas.setAttribute("aria-label", name);
}

async function samplePhoto(which) {
  const response = await fetch(new URL(`${which}.jpg`, import.meta.url));
  show(which, "a photo of ours", await createImageBitmap(await response.blob()));
}

function say(text) {
  root.querySelector("[role=status]").textContent = text;
}

/** Runs something with the buttons off, and says how long it took or what went wrong. */
async function during(work) {
  const controls = root.querySelectorAll("form button, .photo button");
  const [start, focused] = [performance.now(), document.activeElement];
  for (const button of controls) button.disabled = true;
  root.setAttribute("aria-busy", "true");
  say("Working …");
  try {
    await work();
    say(`Done in ${((performance.now() - start) / 1000).toFixed(1)} seconds.`);
  } catch (error) {
    say(`It did not work: ${error.message}`);
  }
  for (const button of controls) button.disabled = false;
  if (document.activeElement === document.body) focused.focus(); // a button that is off loses it
  root.removeAttribute("aria-busy");
}

async function perform(name, panel, options) {
  const results = panel.querySelector(".results");
  results.replaceChildren();
  panel.result = undefined;
  await during(async () => {
    if (name !== "draw" && !photos.first) await samplePhoto("first");
    if (name === "mix" && !photos.second) await samplePhoto("second");
    panel.result = await TABS[name](options, results);
  });
}

function figure(results, bytes, side, caption) {
  const drawn = element(`<figure><canvas width="${side}" height="${side}" role="img"></canvas>
    <figcaption></figcaption></figure>`);
  drawn.firstElementChild.getContext("2d").drawImage(canvasOf(bytes, side), 0, 0);
  drawn.firstElementChild.setAttribute("aria-label", caption);
  drawn.lastElementChild.textContent = caption;
  results.append(drawn);
}

// --- what the tabs do ---

function numbers(options) {
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [name, Number(value)]));
}

/** Asks what a photo's bits and latents are, level by level. */
function read(bytes) {
  return ask("encode", { bytes, size: READ }, ({ side }) => say(`Read details of ${side}×${side} places.`));
}

const TABS = {
  async draw(options, results) {
    const { size, seed, temperature } = numbers(options), found = [];
    for (let draw = 0; draw < 3; draw++) {
      const row = element(`<div class="row"></div>`);
      results.append(row);
      found.push(await ask("draw", { size, seed: seed + draw, temperature }, (bytes) => {
        const side = Math.sqrt(bytes.length / 3);
        figure(row, bytes, side, `${side}×${side}`);
      }));
    }
    return found;
  },

  async enlarge(options, results) {
    const { factor, seed, temperature } = numbers(options);
    const small = squareOf(photos.first.picture, SMALL), size = factor * SMALL;
    const smooth = bicubic(small, SMALL, factor), found = [];
    figure(results, small, SMALL, `Given: ${SMALL}×${SMALL}`);
    figure(results, smooth, size, `Bicubic: ${size}×${size}`);
    for (let draw = 0; draw <= 3; draw++) {
      const own = { seed: seed + draw, temperature: draw ? temperature : 0 };
      found.push(await ask("enlarge", { bytes: small, size: SMALL, factor, ...own }));
      figure(results, found.at(-1).image, size, draw ? `Draw ${draw}` : "The likeliest details");
    }
    const { width, height } = photos.first.picture;
    if (Math.min(width, height) >= size) {
      figure(results, squareOf(photos.first.picture, size), size, "The photo itself");
    }
    return { small, smooth, found };
  },

  async bits(_, results) {
    const bytes = squareOf(photos.first.picture, READ);
    const result = await read(bytes);
    const files = {};
    for (const name of ["PNG", "WebP"]) files[name] = await filed(bytes, READ, `image/${name.toLowerCase()}`);
    results.append(sizes(bytes.length, -result.logProb / Math.LN2 / 8, files));
    figure(results, bytes, READ, "The photo");
    for (const { side, numbers: count, bits } of result.levels.slice(0, -1)) {
      const mean = bits.reduce((sum, value) => sum + value, 0) / bits.length / count;
      const picture = coloured(bits.map((value) => value / count / 8));
      figure(results, picture, side, `${side}×${side}: ${mean.toFixed(2)} bits; white: 8`);
    }
    return { ...result, bytes, files };
  },

  async unusual({ spoil }, results) {
    const usual = await (await fetch(new URL("usual.json", import.meta.url))).json();
    const bytes = squareOf(photos.first.picture, READ);
    if (spoil) spoilCorner(bytes);
    const result = await read(bytes);
    const heat = new Float32Array(READ * READ);
    const maps = result.levels.filter(({ side }) => side >= COARSE).map(({ side, squares }) => {
      const own = squares.map((value) => rarity(value, usual.chances, usual[side]));
      repeated(own, side, READ).forEach((value, k) => (heat[k] = Math.max(heat[k], value)));
      return [side, own];
    });
    const most = -Math.log10(usual.chances.at(-1));
    const picture = (values) => coloured(values.map((value) => value / most));
    figure(results, bytes, READ, "The photo");
    figure(results, picture(heat), READ, `All levels; white: rarer than 1 in ${10 ** most}`);
    for (const [side, own] of maps) figure(results, picture(own), side, `${side}×${side}`);
    return { ...result, bytes, heat };
  },

  async mix(_, results) {
    const [first, second] = [photos.first, photos.second].map(({ picture }) => squareOf(picture, SMALL));
    let share = 0;
    const result = await ask("mix", { first, second, size: SMALL, count: 7 }, (bytes) => {
      figure(results, bytes, SMALL, `${Math.round((100 * share++) / 6)} %`);
    });
    return { ...result, first, second };
  },
};

/** Returns a table of what a square of so many bytes takes. */
function sizes(count, ideal, files) {
  const rows = [["This model, ideally", ideal], ["Bytes as they are", count]];
  for (const [name, file] of Object.entries(files)) {
    if (file) rows.push([`${name}, ${file.lossless ? "lossless" : "which changes pixels here"}`, file.size]);
  }
  const cells = ([name, size]) => `<tr><td>${name}</td><td>${Math.round(size)}</td>
    <td>${((8 * size) / count).toFixed(2)}</td></tr>`;
  return element(`<table><thead><tr><th>Coder</th><th>Bytes</th><th>Bits per number</th></tr></thead>
    <tbody>${rows.map(cells).join("")}</tbody></table>`);
}

/** Returns −log₁₀ of the share of usual places whose value is larger, interpolated. */
function rarity(value, chances, limits) {
  let [before, at] = [0, 0]; // a limit, and its −log₁₀
  for (let k = 0; k < limits.length; k++) {
    const own = -Math.log10(chances[k]);
    if (value < limits[k]) return at + ((own - at) * (value - before)) / (limits[k] - before);
    [before, at] = [limits[k], own];
  }
  return at;
}

/** Puts a checked patch of 12×12 pixels into a picture. */
function spoilCorner(bytes) {
  for (let y = 16; y < 28; y++) for (let x = 16; x < 28; x++) for (let c = 0; c < 3; c++) {
    bytes[3 * (y * READ + x) + c] = (x ^ y) & 2 ? 230 : 40;
  }
}

build();
