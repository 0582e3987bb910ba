// The operations of a transformer on arrays of rows: (rows × columns), one row after the other, in single precision.

/** Return x · weightᵀ + bias for rows of x; weight is (outputs × inputs), as torch's. */
export function linear(x, { weight, bias }) {
  const [outputs, inputs] = weight.shape, rows = x.length / inputs, y = new Float32Array(rows * outputs);
  const w = weight.data, b = bias?.data;
  for (let row = 0; row < rows; row++) {
    const from = row * inputs;
    for (let out = 0; out < outputs; out++) {
      const at = out * inputs;
      let sum = b ? b[out] : 0;
      for (let i = 0; i < inputs; i++) sum += x[from + i] * w[at + i];
      y[row * outputs + out] = sum;
    }
  }
  return y;
}

/**
 * Return a convolution of an image (height × width × channels), zero-padded by half a kernel, as {data, height, width}.
 * weight is (kernel × kernel × inputs × outputs). Zeros of the image, which most are, cost nothing.
 */
export function convolve({ data, height, width }, { weight, bias }, { stride, padding }) {
  const [kernel, , inputs, outputs] = weight.shape, w = weight.data, b = bias.data;
  const rows = Math.floor((height + 2 * padding - kernel) / stride) + 1;
  const cols = Math.floor((width + 2 * padding - kernel) / stride) + 1;
  const y = new Float32Array(rows * cols * outputs);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const to = (row * cols + col) * outputs;
      for (let out = 0; out < outputs; out++) y[to + out] = b[out];
      for (let dy = 0; dy < kernel; dy++) {
        const top = row * stride + dy - padding;
        if (top < 0 || top >= height) continue;
        for (let dx = 0; dx < kernel; dx++) {
          const left = col * stride + dx - padding;
          if (left < 0 || left >= width) continue;
          const from = (top * width + left) * inputs, tap = (dy * kernel + dx) * inputs * outputs;
          for (let i = 0; i < inputs; i++) {
            const value = data[from + i];
            if (value === 0) continue;
            const at = tap + i * outputs;
            for (let out = 0; out < outputs; out++) y[to + out] += value * w[at + out];
          }
        }
      }
    }
  }
  return { data: y, height: rows, width: cols };
}

/** Return the maxima of windows of pool × pool, and zero where they are negative. */
export function poolAndRectify({ data, height, width }, pool, channels) {
  const rows = Math.floor(height / pool), cols = Math.floor(width / pool), y = new Float32Array(rows * cols * channels);
  for (let row = 0; row < rows * pool; row++) {
    for (let col = 0; col < cols * pool; col++) {
      const to = (Math.floor(row / pool) * cols + Math.floor(col / pool)) * channels;
      const from = (row * width + col) * channels;
      for (let channel = 0; channel < channels; channel++) {
        if (data[from + channel] > y[to + channel]) y[to + channel] = data[from + channel];
      }
    }
  }
  return { data: y, height: rows, width: cols };
}

/** Return rows normalized to mean 0 and variance 1, scaled and shifted. */
export function layerNorm(x, { weight, bias }) {
  const size = weight.data.length, y = new Float32Array(x.length);
  for (let from = 0; from < x.length; from += size) {
    let mean = 0, variance = 0;
    for (let i = 0; i < size; i++) mean += x[from + i] / size;
    for (let i = 0; i < size; i++) variance += (x[from + i] - mean) ** 2 / size;
    const scale = 1 / Math.sqrt(variance + 1e-5);
    for (let i = 0; i < size; i++) y[from + i] = (x[from + i] - mean) * scale * weight.data[i] + bias.data[i];
  }
  return y;
}

/** Return x · Φ(x), with the exact distribution function of the normal distribution. */
export function gelu(x) {
  return x.map((value) => 0.5 * value * (1 + erf(value / Math.SQRT2)));
}

/** Return the error function: its series near 0, the continued fraction of its complement beyond, both to 1e-12. */
export function erf(x) {
  const size = Math.abs(x);
  if (size > 6) return Math.sign(x);
  if (size < 2.5) {
    let term = x, sum = x;
    for (let n = 1; Math.abs(term) > 1e-13 * Math.abs(sum); n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 40; n > 0; n--) fraction = n / 2 / (size + fraction);
  return Math.sign(x) * (1 - Math.exp(-size * size) / (Math.sqrt(Math.PI) * (size + fraction)));
}

/** Replace each row of `size` numbers by its softmax; -Infinity becomes 0. */
export function softmax(x, size) {
  const y = new Float32Array(x.length);
  for (let from = 0; from < x.length; from += size) {
    let highest = -Infinity, sum = 0;
    for (let i = 0; i < size; i++) highest = Math.max(highest, x[from + i]);
    for (let i = 0; i < size; i++) sum += y[from + i] = Math.exp(x[from + i] - highest);
    for (let i = 0; i < size; i++) y[from + i] /= sum;
  }
  return y;
}

export function add(x, y) {
  return x.map((value, index) => value + y[index]);
}
