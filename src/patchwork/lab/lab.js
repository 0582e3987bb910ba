// The page: what is drawn goes through the network at every change, and everything shown is what it computed.

import { splitStrokes, strokesToImage } from "./drawing.js";
import { softmax } from "./kernels.js";
import { build } from "./networks.js";
import { Surface, UNIT } from "./surface.js";

const CELL = 28;
const byId = (id) => document.getElementById(id);
const percent = (value) => (value > 0.9995 && value < 1 ? ">99.9 %" : `${(100 * value).toFixed(1)} %`);

/** Make an element with attributes and children, whose texts are never read as HTML. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "style") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// --- models ----------------------------------------------------------------------------------------------------------

async function decodeModels() {
  const models = JSON.parse(byId("bundles").textContent);
  for (const model of models) {
    const packed = Uint8Array.from(atob(model.data), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const bytes = new DataView(await new Response(stream).arrayBuffer());
    let offset = 0;
    const take = (shape, size, read) => {
      const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
      for (let index = 0; index < values.length; index++) values[index] = read(offset + index * size);
      offset += values.length * size;
      return { shape, data: values };
    };
    model.tensors = Object.fromEntries(
      model.layout.map(([name, shape]) => [name, take(shape, 2, (at) => fromHalf(bytes.getUint16(at, true)))]),
    );
    model.checks = model.checks.map((probabilities) => ({
      pixels: take(model.spec.image_size, 1, (at) => bytes.getUint8(at)).data,
      probabilities,
    }));
    model.network = build(model);
  }
  return models;
}

/** Return the number that 16 bits stand for in half precision. */
function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 0x1f, fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return exponent === 31 ? (fraction ? NaN : sign * Infinity) : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// --- state -----------------------------------------------------------------------------------------------------------

const state = { model: null, image: null, step: 0, hidden: new Set(), silenced: new Set(), forced: {}, query: 0 };
let surface, models, result, scheduled = false;

/** Compute at the next frame, once for all changes until then. */
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    compute();
    render();
  });
}

function compute() {
  const { spec } = state.model, { rows, cols } = surface;
  const cells = splitStrokes(surface.strokes, cols * UNIT, rows * UNIT, rows, cols);
  result = { cells: cells.map((strokes) => strokesToImage(strokes, UNIT)) };
  result.pixels = state.image ?? stitch(result.cells.map(({ image }) => image), rows, cols);
  if (state.image) result.cells = cut(state.image, rows, cols).map((image) => ({ image, problem: null }));
  Object.assign(result, run(state.model, result.pixels, { edit: makeEdit(spec), forced: state.forced }));
}

/** Return tokens, probabilities (tokens × classes), and attention by layer of one pass through a model's network. */
function run({ network, spec, temperature }, pixels, options = {}) {
  const sharpen = (logits, size) => softmax(logits.map((logit) => logit / temperature), size);
  if (spec.model === "ViT") {
    const { logits, trace } = network.classify(pixels, options.edit);
    const likeliest = logits.reduce((best, logit, label) => (logit > logits[best] ? label : best), 0);
    return { tokens: [likeliest], probabilities: sharpen(logits, spec.num_classes), size: spec.num_classes, traces: [trace] };
  }
  const read = network.read(pixels, options), size = spec.num_classes + 2;
  const logits = read.probabilities.map((probability) => Math.log(Math.max(probability, 1e-30)));
  const probabilities = sharpen(logits, size), end = spec.num_classes + 1;
  read.tokens.forEach((token, place) => {
    if (place && read.tokens[place - 1] === end) {
      probabilities.fill(0, place * size, (place + 1) * size)[place * size + end] = 1; // nothing else can follow
    }
  });
  return {
    tokens: read.tokens, probabilities, size, traces: [read.encoder, read.decoder],
    lens: network.lens(read.decoder),
  };
}

function makeEdit({ embed_dim: dim, num_heads: heads }) {
  const { hidden, silenced } = state;
  if (!hidden.size && !silenced.size) return undefined;
  return (name, values) => {
    if (name === "patch_embed" && hidden.size) {
      return values.map((value, index) => (hidden.has(Math.floor(index / dim)) ? 0 : value));
    }
    if (!name.endsWith(".heads")) return values;
    const layer = name.slice(0, -".heads".length), size = dim / heads;
    return values.map((value, index) => (silenced.has(`${layer}:${Math.floor((index % dim) / size)}`) ? 0 : value));
  };
}

function stitch(images, rows, cols) {
  const pixels = new Float32Array(rows * cols * CELL * CELL), width = cols * CELL;
  images.forEach((image, cell) => {
    const top = Math.floor(cell / cols) * CELL, left = (cell % cols) * CELL;
    image.forEach((value, index) => {
      pixels[(top + Math.floor(index / CELL)) * width + left + (index % CELL)] = value;
    });
  });
  return pixels;
}

function cut(pixels, rows, cols) {
  const width = cols * CELL;
  return Array.from({ length: rows * cols }, (_, cell) => Uint8Array.from({ length: CELL * CELL }, (_, index) => {
    const top = Math.floor(cell / cols) * CELL + Math.floor(index / CELL);
    return pixels[top * width + (cell % cols) * CELL + (index % CELL)];
  }));
}

// --- what is shown ---------------------------------------------------------------------------------------------------

function render() {
  renderAnswer();
  renderTokens();
  renderAttention();
}

const tokenName = (token) => {
  const { classes, num_classes: count } = state.model.spec;
  return token < classes.length ? classes[token] : token === count ? "begin" : "end";
};
const isBlank = () => !state.image && result.cells.every(({ problem }) => problem);

function renderAnswer() {
  const { tokens, probabilities, size, cells } = result, { threshold } = state.model;
  const answers = tokens.map((token, place) => {
    const probability = probabilities[place * size + token];
    return { text: tokenName(token), probability, problem: cells[place]?.problem, sure: probability >= threshold };
  });
  byId("spoken").textContent = isBlank()
    ? "Draw a digit in each cell"
    : answers.map(({ text, problem, sure }) => (problem ? "–" : sure ? text : "?")).join(" ");
  byId("cells").replaceChildren(...answers.map(({ text, probability, problem, sure }, place) => {
    const canvas = element("canvas", { width: CELL, height: CELL, role: "img", ariaLabel: `what the model sees in cell ${place + 1}` });
    const picture = new ImageData(CELL, CELL);
    cells[place].image.forEach((value, index) => picture.data.set([value, value, value, 255], index * 4));
    canvas.getContext("2d").putImageData(picture, 0, 0);
    const words = problem === "small" ? "too small" : problem ? "no digit here" : sure ? percent(probability) : `not sure: ${text}, ${percent(probability)}`;
    return element("div", { className: "cell" }, canvas, element("strong", {}, problem ? "–" : sure ? text : "?"), ` ${words}`);
  }));
}

function renderTokens() {
  const { tokens, probabilities, size } = result;
  state.step = Math.min(state.step, tokens.length - 1);
  byId("tokens").replaceChildren(...tokens.map((token, place) => element("button", {
    type: "button", onclick: () => { state.step = place; render(); },
    ...(place === state.step ? { "aria-current": "step" } : {}),
  }, tokenName(token))));
  const row = probabilities.subarray(state.step * size, (state.step + 1) * size);
  fillTable("next-token", [...row].map((probability, token) => [tokenName(token), probability]));
  const lens = result.lens?.map((layer, index) => {
    const at = layer.subarray(state.step * size, (state.step + 1) * size);
    const best = at.reduce((top, probability, token) => (probability > at[top] ? token : top), 0);
    return [`decoder ${index + 1}: ${tokenName(best)}`, at[best]];
  });
  byId("lens").hidden = !lens;
  fillTable("lens", lens ?? []);
}

function fillTable(id, rows) {
  byId(id).tBodies[0].replaceChildren(...rows.map(([label, value, note]) => element("tr", {},
    element("td", {}, label),
    element("td", {}, element("span", { className: "bar", style: `width:${(6 * value).toFixed(2)}rem` }), ` ${percent(value)}${note ?? ""}`),
  )));
}

/** Return the attention of the chosen layer from the chosen row: weights (patches) of a head or their mean. */
function attentionRow() {
  const name = byId("layer").value, call = result.traces.map((trace) => trace.attention.get(name)).find(Boolean);
  const { heads, queries, keys, weights, scores, value } = call, prefix = keys > numPatches() ? 1 : 0;
  const isCross = name.endsWith("cross_attn"), isClassifier = state.model.spec.model === "ViT";
  const row = isCross ? Math.min(state.step, queries - 1) : isClassifier && prefix ? 0 : state.query + prefix;
  const chosen = byId("head").value === "mean" ? [...Array(heads).keys()] : [Number(byId("head").value)];
  const patches = Array.from({ length: numPatches() }, (_, patch) => {
    const at = (head) => (head * queries + row) * keys + patch + prefix;
    const mean = (values) => chosen.reduce((sum, head) => sum + values[at(head)], 0) / chosen.length;
    const norm = Math.hypot(...value.subarray((patch + prefix) * state.model.spec.embed_dim, (patch + prefix + 1) * state.model.spec.embed_dim));
    return { patch, weight: mean(weights), score: mean(scores), norm };
  });
  return { patches, isCross, isQueried: !isCross && !(isClassifier && prefix) };
}

const numPatches = () => state.model.spec.grid[0] * state.model.spec.grid[1];
const patchName = (patch) => `row ${Math.floor(patch / state.model.spec.grid[1]) + 1}, column ${(patch % state.model.spec.grid[1]) + 1}`;

function renderAttention() {
  const { patches, isCross, isQueried } = attentionRow(), [rows, cols] = state.model.spec.grid;
  const overlay = byId("overlay"), box = overlay.getBoundingClientRect();
  [overlay.width, overlay.height] = [Math.max(box.width, 1), Math.max(box.height, 1)];
  const pen = overlay.getContext("2d"), highest = Math.max(...patches.map(({ weight }) => weight));
  const width = overlay.width / cols, height = overlay.height / rows;
  if (state.image) paintImage(pen, overlay);
  for (const { patch, weight } of patches) {
    pen.fillStyle = `rgba(230, 159, 0, ${(0.6 * weight) / highest})`;
    pen.fillRect((patch % cols) * width, Math.floor(patch / cols) * height, width, height);
  }
  if (isQueried) {
    Object.assign(pen, { strokeStyle: "#56b4e9", lineWidth: 3 });
    pen.strokeRect((state.query % cols) * width + 2, Math.floor(state.query / cols) * height + 2, width - 4, height - 4);
  }
  const from = isCross ? `the token ${state.step + 1}` : isQueried ? `the patch ${patchName(state.query)}` : "the class token";
  byId("attention-note").textContent = `Orange: how much ${from} attends to each patch. A weight is no proof that the patch matters: cut it and see.`;
  fillTable("attention-rows", [...patches].sort((a, b) => b.weight - a.weight).slice(0, 6).map(({ patch, weight, score, norm }) => [
    patchName(patch), weight, ` (q·k/√d ${score.toFixed(2)}, |v| ${norm.toFixed(2)})`,
  ]));
}

function paintImage(pen, canvas) {
  const [height, width] = state.model.spec.image_size, picture = new ImageData(width, height);
  state.image.forEach((value, index) => picture.data.set([value, value, value, 255], index * 4));
  const source = element("canvas", { width, height });
  source.getContext("2d").putImageData(picture, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
}

// --- controls --------------------------------------------------------------------------------------------------------

function choose(model) {
  const { spec } = model, [rows, cols] = spec.model === "ViT" ? [1, 1] : [spec.rows, spec.cols];
  Object.assign(state, { model, image: null, step: 0, hidden: new Set(), silenced: new Set(), forced: {}, query: 0 });
  if (surface.rows !== rows || surface.cols !== cols) surface.strokes = surface.undone = [];
  surface.undone = [];
  surface.resize(rows, cols);
  for (const button of byId("models").children) button.ariaPressed = String(button.value === model.name);
  byId("model-facts").textContent = `${model.facts} · weights sha256 ${model.sha256.slice(0, 12)}…`;
  const blank = run(model, new Float32Array(spec.image_size[0] * spec.image_size[1]));
  const layers = blank.traces.flatMap((trace) => [...trace.attention.keys()]).reverse().filter((name) => !/decoder\.\d+\.attn/.test(name));
  byId("layer").replaceChildren(...layers.map((name) => element("option", { value: name }, name)));
  byId("head").replaceChildren(element("option", { value: "mean" }, "mean"), ...Array.from({ length: spec.num_heads }, (_, head) =>
    element("option", { value: head }, `${head + 1}`)));
  byId("force").replaceChildren(element("option", { value: "" }, "nothing"), ...spec.classes.map((name, label) => element("option", { value: label }, name)));
  byId("force").parentElement.hidden = spec.model === "ViT";
  byId("heads").replaceChildren(...layers.flatMap((name) => Array.from({ length: spec.num_heads }, (_, head) => element("button", {
    type: "button", ariaPressed: "false", value: `${name}:${head}`, onclick: (event) => toggle(state.silenced, event.currentTarget),
  }, `${name} ${head + 1}`))));
  const grid = byId("patches");
  grid.style.setProperty("--rows", rows);
  grid.style.setProperty("--cols", cols);
  grid.style.gridTemplate = `repeat(${spec.grid[0]}, 1fr) / repeat(${spec.grid[1]}, 1fr)`;
  grid.replaceChildren(...Array.from({ length: numPatches() }, (_, patch) => element("button", {
    type: "button", ariaPressed: "false", value: patch, ariaLabel: `patch ${patchName(patch)}`, tabIndex: -1,
    onclick: (event) => { state.query = patch; toggle(state.hidden, event.currentTarget, patch); },
  })));
  byId("cut-note").textContent = byId("check-note").textContent = "";
  schedule();
}

function toggle(set, button, key = button.value) {
  if (!set.delete(key)) set.add(key);
  button.ariaPressed = String(set.has(key));
  schedule();
}

function restore() {
  state.hidden.clear();
  state.silenced.clear();
  state.forced = {};
  byId("force").value = "";
  for (const button of document.querySelectorAll("#heads button, #patches button")) {
    button.ariaPressed = "false";
    button.classList.remove("needed");
  }
  byId("cut-note").textContent = "";
  schedule();
}

/** Hide each patch alone, and mark the one without which the answer is least probable. */
function findNeeded() {
  const { tokens, pixels } = result, before = logProbability(result, tokens);
  const drops = Array.from({ length: numPatches() }, (_, patch) => {
    const hidden = new Set([...state.hidden, patch]), dim = state.model.spec.embed_dim;
    const edit = (name, values) => name === "patch_embed" ? values.map((value, index) => (hidden.has(Math.floor(index / dim)) ? 0 : value)) : values;
    const forced = Object.fromEntries(tokens.map((token, place) => [place, token]));
    return before - logProbability(run(state.model, pixels, { edit, forced }), tokens);
  });
  const most = drops.indexOf(Math.max(...drops)), { patches } = attentionRow();
  const attended = patches.reduce((best, each) => (each.weight > best.weight ? each : best));
  [...byId("patches").children].forEach((button, patch) => button.classList.toggle("needed", patch === most));
  const agrees = attended.patch === most ? "It is also the most attended one." : `The most attended one is ${patchName(attended.patch)}.`;
  byId("cut-note").textContent = `Most needed: ${patchName(most)}; without it the answer is ${Math.exp(drops[most]).toPrecision(3)} times less probable. ${agrees}`;
}

function logProbability({ probabilities, size }, tokens) {
  return tokens.reduce((sum, token, place) => sum + Math.log(Math.max(probabilities[place * size + token], 1e-30)), 0);
}

function check() {
  const { checks } = state.model;
  let largest = 0;
  for (const { pixels, probabilities } of checks) {
    const ours = run({ ...state.model, temperature: 1 }, pixels).probabilities;
    ours.forEach((value, index) => (largest = Math.max(largest, Math.abs(value - probabilities[index]))));
  }
  byId("check-note").textContent = `${checks.length} test images: probabilities differ from PyTorch's by at most ${largest.toExponential(1)}.`;
}

function showSample() {
  const { checks } = state.model;
  state.sample = ((state.sample ?? -1) + 1) % checks.length;
  surface.replace([]);
  state.image = checks[state.sample].pixels;
  schedule();
}

const ENCODED = 36; // base of the numbers in a link

function encodeStrokes() {
  const numbers = (stroke) => stroke.map((point) => point.map((value) => Math.round(value).toString(ENCODED)).join(".")).join("_");
  return `#m=${encodeURIComponent(state.model.name)}&s=${surface.strokes.map(numbers).join("~")}`;
}

function decodeStrokes(hash) {
  const given = new URLSearchParams(hash.slice(1)), model = models.find(({ name }) => name === given.get("m"));
  const strokes = (given.get("s") ?? "").slice(0, 20000).split("~").filter(Boolean).map((stroke) =>
    stroke.split("_").map((point) => point.split(".").map((value) => parseInt(value, ENCODED))));
  const isValid = strokes.every((stroke) => stroke.every((point) => point.length === 2 && point.every((value) => Math.abs(value) < 1e5)));
  return { model: model ?? models[0], strokes: isValid ? strokes : [] };
}

function listen() {
  const on = (id, type, handler) => byId(id).addEventListener(type, handler);
  const step = (by) => { state.step = Math.min(Math.max(state.step + by, 0), result.tokens.length - 1); render(); };
  on("undo", "click", () => surface.undo());
  on("clear", "click", () => surface.replace([]));
  on("erase", "click", ({ currentTarget: button }) => { surface.erasing = !surface.erasing; button.ariaPressed = String(surface.erasing); });
  on("hide", "click", ({ currentTarget: button }) => {
    const hides = byId("patches").classList.toggle("hiding");
    byId("patches").classList.toggle("lined", hides);
    for (const patch of byId("patches").children) patch.tabIndex = hides ? 0 : -1;
    button.ariaPressed = String(hides);
  });
  on("sample", "click", showSample);
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("layer", "change", render);
  on("head", "change", render);
  on("needed", "click", findNeeded);
  on("restore", "click", restore);
  on("run-check", "click", check);
  on("force", "change", ({ currentTarget: { value } }) => {
    if (value === "") delete state.forced[state.step];
    else state.forced[state.step] = Number(value);
    schedule();
  });
  on("share", "click", async ({ currentTarget: button }) => {
    history.replaceState(null, "", encodeStrokes());
    const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    button.textContent = copied ? "Copied" : "In the address bar";
  });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); surface.undo(); }
    if (event.target.closest("button, select, input")) return;
    if (event.key === "ArrowRight" || event.key === " ") { event.preventDefault(); step(1); }
    if (event.key === "ArrowLeft") { event.preventDefault(); step(-1); }
  });
}

surface = new Surface(byId("surface"), () => {
  if (surface.strokes.length) state.image = null;
  if (state.model) schedule();
});
models = await decodeModels();
byId("models").replaceChildren(...models.map((model) => element("button", {
  type: "button", value: model.name, ariaPressed: "false", onclick: () => choose(model),
}, model.name)));
listen();
const { model, strokes } = decodeStrokes(location.hash);
choose(model);
if (strokes.length) surface.replace(strokes);
document.documentElement.dataset.ready = "true";
