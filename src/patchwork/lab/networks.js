// The networks of `patchwork/models`, forward only and one image at a time, with every activation at hand.
//
// Points have the names of `models/interventions.py`, such as encoder.0.attn.heads. `edit(name, values, columns)` is
// called at each of them and returns the values that go on, by default the same ones; so that a head can be silenced or a
// patch hidden, and everything after it follows. Attention layers also report what they compute: scores, weights, values.

import { add, convolve, gelu, layerNorm, linear, poolAndRectify, softmax } from "./kernels.js";

/** What one forward pass has computed: points by name, and the attention of each layer. */
class Trace {
  constructor(edit) {
    this.edit = edit ?? ((name, values) => values);
    this.points = new Map();
    this.attention = new Map();
  }
  /** Keep the values at a point, and return those that go on. */
  at(name, values, columns) {
    const edited = this.edit(name, values, columns);
    this.points.set(name, edited);
    return edited;
  }
}

/** A network from a bundle: {spec, tensors}, see `export/bundle.py`. */
export class Network {
  constructor({ spec, tensors }) {
    this.spec = spec;
    this.tensors = tensors;
    this.dim = spec.embed_dim;
    this.heads = spec.num_heads;
  }

  layer(name) {
    return { weight: this.tensors[`${name}.weight`], bias: this.tensors[`${name}.bias`] };
  }

  norm(name, x) {
    return this.tensors[`${name}.weight`] ? layerNorm(x, this.layer(name)) : x;
  }

  /** Return the embeddings (patches × dim) of pixels from 0 to 255 (height × width × channels). */
  embed(pixels) {
    const { mean, std, image_size: [height, width], stem, patch } = this.spec;
    let map = { data: Float32Array.from(pixels, (value) => value / (255 * std) - mean / std), height, width };
    stem.forEach(({ stride, pool, channels, kernel }, index) => {
      map = convolve(map, this.layer(`stem.${index}`), { stride, padding: Math.floor(kernel / 2) });
      map = poolAndRectify(map, pool, channels);
    });
    return convolve(map, this.layer("proj"), { stride: patch, padding: 0 }).data;
  }

  /** One transformer block; `context` are the rows that cross-attention reads. */
  block(name, x, trace, { context, causal = false, rope = false } = {}) {
    x = trace.at(`${name}.input`, x, this.dim);
    x = this.residual(x, `${name}.attn_norm`, (y) => this.attend(`${name}.attn`, y, y, trace, { causal, rope }));
    if (context) {
      const read = trace.at(`${name}.context`, context, this.dim);
      x = this.residual(x, `${name}.cross_norm`, (y) => this.attend(`${name}.cross_attn`, y, read, trace));
    }
    x = this.residual(x, `${name}.mlp_norm`, (y) => {
      const hidden = gelu(linear(y, this.layer(`${name}.mlp.0`)));
      return trace.at(`${name}.mlp`, linear(hidden, this.layer(`${name}.mlp.3`)), this.dim);
    });
    return trace.at(name, x, this.dim);
  }

  residual(x, norm, sublayer) {
    return this.spec.norm_first ? add(x, sublayer(this.norm(norm, x))) : this.norm(norm, add(x, sublayer(x)));
  }

  /** Multi-head attention from rows of x to rows of context. */
  attend(name, x, context, trace, { causal = false, rope = false } = {}) {
    const { dim, heads } = this, size = dim / heads, queries = x.length / dim, keys = context.length / dim;
    let query = linear(x, this.layer(`${name}.query`));
    const both = linear(context, this.layer(`${name}.key_value`));
    let key = new Float32Array(keys * dim);
    const value = new Float32Array(keys * dim);
    for (let row = 0; row < keys; row++) {
      key.set(both.subarray(row * 2 * dim, row * 2 * dim + dim), row * dim);
      value.set(both.subarray(row * 2 * dim + dim, (row + 1) * 2 * dim), row * dim);
    }
    if (rope) [query, key] = [this.rotate(query), this.rotate(key)];
    const scores = new Float32Array(heads * queries * keys).fill(-Infinity);
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < queries; row++) {
        for (let col = 0; col < (causal ? row + 1 : keys); col++) {
          let sum = 0;
          for (let i = head * size; i < (head + 1) * size; i++) sum += query[row * dim + i] * key[col * dim + i];
          scores[(head * queries + row) * keys + col] = sum / Math.sqrt(size);
        }
      }
    }
    const weights = softmax(scores, keys);
    let mixed = new Float32Array(queries * dim);
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < queries; row++) {
        for (let col = 0; col < keys; col++) {
          const weight = weights[(head * queries + row) * keys + col];
          for (let i = head * size; i < (head + 1) * size; i++) mixed[row * dim + i] += weight * value[col * dim + i];
        }
      }
    }
    trace.attention.set(name, { queries, keys, heads, scores, weights, value });
    mixed = trace.at(`${name}.heads`, mixed, dim);
    return trace.at(name, linear(mixed, this.layer(`${name}.proj`)), dim);
  }

  /** Rotate rows of queries or keys by their place: pairs half a head apart, by angles of the row, then of the column. */
  rotate(x) {
    const { dim, heads, tensors: { "rope.cos": cos, "rope.sin": sin } } = this, size = dim / heads;
    return x.map((value, index) => {
      const i = index % size, at = Math.floor(index / dim) * size + i;
      const other = x[index - i + ((i + size / 2) % size)];
      return value * cos.data[at] + other * sin.data[at];
    });
  }
}

/** Reader of grids: `models/encoder_decoder.py`. */
export class EncoderDecoder extends Network {
  /** Return the memory (patches × dim) that the decoder reads, and its trace. */
  encode(pixels, edit) {
    const trace = new Trace(edit), positions = this.tensors["pos_embed.weight"];
    let x = trace.at("patch_embed", this.embed(pixels), this.dim);
    if (positions) x = add(x, positions.data);
    for (let index = 0; index < this.spec.encoder_depth; index++) {
      x = this.block(`encoder.${index}`, x, trace, { rope: !positions });
    }
    return { memory: this.norm("encoder_norm", x), trace };
  }

  /** Return the logits (tokens × vocabulary) of the token after each of `tokens`, and the trace. */
  decode(memory, tokens, edit) {
    const trace = new Trace(edit), { dim } = this;
    const embedding = this.tensors["token_embed.weight"].data, positions = this.tensors["token_pos_embed.weight"].data;
    let x = new Float32Array(tokens.length * dim);
    tokens.forEach((token, row) => {
      for (let i = 0; i < dim; i++) x[row * dim + i] = embedding[token * dim + i] + positions[row * dim + i];
    });
    for (let index = 0; index < this.spec.decoder_depth; index++) {
      x = this.block(`decoder.${index}`, x, trace, { context: memory, causal: true });
    }
    return { logits: linear(this.norm("decoder_norm", x), this.layer("head")), trace };
  }

  /** Read the head from the stream after each block of the decoder: probabilities by layer, (tokens × vocabulary). */
  lens(trace) {
    const vocabulary = this.spec.num_classes + 2;
    return Array.from({ length: this.spec.decoder_depth }, (_, index) => {
      const stream = trace.points.get(`decoder.${index}`);
      return softmax(linear(this.norm("decoder_norm", stream), this.layer("head")), vocabulary);
    });
  }

  /**
   * Decode greedily. `forced` replaces predicted tokens by place, as {1: 7}.
   * Returns tokens, the probabilities (length × vocabulary) that led to them, and the traces of both halves.
   */
  read(pixels, { edit, forced = {} } = {}) {
    const { num_classes: bos, rows, cols } = this.spec, eos = bos + 1, vocabulary = bos + 2, length = rows * cols;
    const { memory, trace: encoder } = this.encode(pixels, edit), tokens = [bos];
    let decoded;
    for (let step = 0; step < length; step++) {
      decoded = this.decode(memory, tokens, edit);
      const last = decoded.logits.subarray(step * vocabulary);
      const likeliest = last.reduce((best, logit, token) => (logit > last[best] ? token : best), 0);
      tokens.push(tokens[step] === eos ? eos : (forced[step] ?? likeliest));
    }
    const probabilities = softmax(decoded.logits, vocabulary);
    return { tokens: tokens.slice(1), probabilities, memory, encoder, decoder: decoded.trace };
  }
}

/** Classifier of single images: `models/vit.py`. */
export class ViT extends Network {
  /** Return the logits of the classes, and the trace. */
  classify(pixels, edit) {
    const trace = new Trace(edit), { dim, tensors } = this;
    const positions = tensors["pos_embed.weight"], token = tensors.cls_token;
    const patches = trace.at("patch_embed", this.embed(pixels), dim);
    let x = token ? Float32Array.of(...token.data, ...patches) : patches;
    if (positions) x = add(x, positions.data);
    for (let index = 0; index < this.spec.depth; index++) x = this.block(`blocks.${index}`, x, trace, { rope: !positions });
    x = this.norm("norm", x);
    let features = x.subarray(0, dim);
    if (!token) {
      features = new Float32Array(dim);
      x.forEach((value, index) => (features[index % dim] += (value * dim) / x.length));
    }
    return { logits: linear(features, this.layer("head")), trace };
  }
}

const NETWORKS = { EncoderDecoder, ViT };

/** Return the network of a bundle. */
export function build(bundle) {
  return new NETWORKS[bundle.spec.model](bundle);
}
