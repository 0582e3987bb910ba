// From a canvas to an image as MNIST has them: `patchwork/data/drawing.py` in JavaScript, operation by operation.
// Its docstrings say what is done and why. Points are [x, y], x to the right and y down.

export const SPEC_VERSION = "1";
const SIDE = 28, BOX = 20, PEN = 2.2, FINE = 8, CURVE_STEPS = 4, SMALL = 0.04, CENTER = 15;
const MIN_SOURCE = 10, MIN_CONTRAST = 24, BLACK_GROUND = 0.3, FAINT = 16, MAX_FAINT = 0.15, PAPER = 0.95;

// --- strokes ---------------------------------------------------------------------------------------------------------

/** Return {image: Uint8Array(784), problem: null | "empty" | "small"} of the strokes [[[x, y], …], …] of one cell. */
export function strokesToImage(strokes, cellSize) {
  const paths = strokes.filter((stroke) => stroke.length).map(smooth);
  const blank = new Uint8Array(SIDE * SIDE);
  if (!paths.length) return { image: blank, problem: "empty" };
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of paths.flat()) {
    left = Math.min(left, x), right = Math.max(right, x);
    top = Math.min(top, y), bottom = Math.max(bottom, y);
  }
  const width = right - left, height = bottom - top, longer = Math.max(width, height);
  if (longer < SMALL * cellSize) return { image: blank, problem: "small" };
  const scale = (BOX - PEN) / longer;
  const offsetX = PEN / 2 + (BOX - PEN - width * scale) / 2;
  const offsetY = PEN / 2 + (BOX - PEN - height * scale) / 2;
  const scaled = paths.map((path) => path.map(([x, y]) => [(x - left) * scale + offsetX, (y - top) * scale + offsetY]));
  return { image: centerByMass(stretch(paint(scaled))), problem: null };
}

function smooth(points) {
  if (points.length < 3) return points;
  const middle = ([x0, y0], [x1, y1]) => [(x0 + x1) / 2, (y0 + y1) / 2];
  const curve = [points[0], middle(points[0], points[1])];
  for (let i = 1; i < points.length - 1; i++) {
    const start = middle(points[i - 1], points[i]), control = points[i], end = middle(points[i], points[i + 1]);
    for (let step = 1; step <= CURVE_STEPS; step++) {
      const t = step / CURVE_STEPS, u = 1 - t;
      curve.push([0, 1].map((axis) => u * u * start[axis] + 2 * u * t * control[axis] + t * t * end[axis]));
    }
  }
  curve.push(points[points.length - 1]);
  return curve;
}

function paint(paths) {
  const fine = BOX * FINE, painted = new Uint8Array(fine * fine), radius = PEN / 2;
  const first = (position) => Math.min(Math.max(Math.ceil(position * FINE - 0.5), 0), fine);
  for (const path of paths) {
    for (let i = 0; i < Math.max(path.length - 1, 1); i++) {
      const [x0, y0] = path[i], [x1, y1] = path[Math.min(i + 1, path.length - 1)];
      const left = first(Math.min(x0, x1) - radius), right = first(Math.max(x0, x1) + radius);
      const top = first(Math.min(y0, y1) - radius), bottom = first(Math.max(y0, y1) + radius);
      const dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
      for (let row = top; row < bottom; row++) {
        const y = (row + 0.5) / FINE;
        for (let col = left; col < right; col++) {
          const x = (col + 0.5) / FINE;
          const along = length > 0 ? Math.min(Math.max(((x - x0) * dx + (y - y0) * dy) / length, 0), 1) : 0;
          const awayX = x - x0 - along * dx, awayY = y - y0 - along * dy;
          if (awayX * awayX + awayY * awayY <= radius * radius) painted[row * fine + col] = 1;
        }
      }
    }
  }
  const coverage = new Float64Array(BOX * BOX);
  for (let row = 0; row < fine; row++) {
    for (let col = 0; col < fine; col++) {
      coverage[Math.floor(row / FINE) * BOX + Math.floor(col / FINE)] += painted[row * fine + col] / (FINE * FINE);
    }
  }
  return coverage;
}

/** Return the strokes of each cell of a canvas of width × height, in reading order; none is cut. */
export function splitStrokes(strokes, width, height, rows, cols) {
  const cells = Array.from({ length: rows * cols }, () => []);
  const clamp = (value, count) => Math.min(Math.max(Math.floor(value), 0), count - 1);
  for (const stroke of strokes.filter((points) => points.length)) {
    const pieces = stroke.length > 1 ? stroke.slice(1).map((end, i) => [stroke[i], end]) : [[stroke[0], stroke[0]]];
    const lengths = pieces.map(([[x0, y0], [x1, y1]]) => Math.hypot(x1 - x0, y1 - y0));
    const moves = lengths.some((length) => length > 0);
    const share = new Float64Array(rows * cols);
    pieces.forEach(([[x0, y0], [x1, y1]], i) => {
      const col = clamp((((x0 + x1) / 2) * cols) / width, cols), row = clamp((((y0 + y1) / 2) * rows) / height, rows);
      share[row * cols + col] += moves ? lengths[i] : 1;
    });
    cells[share.indexOf(Math.max(...share))].push(stroke);
  }
  return cells;
}

// --- bitmaps ---------------------------------------------------------------------------------------------------------

/** Return {image, problem} of a picture of one digit: gray levels (height × width), light on dark or dark on light. */
export function bitmapToImage(gray, width, height) {
  if (isMnistLike(gray, width, height)) return { image: Uint8Array.from(gray), problem: null };
  const blank = new Uint8Array(SIDE * SIDE);
  const ink = separate(median(border(gray, width, height)) > 127 ? gray.map((value) => 255 - value) : gray);
  let [left, top, right, bottom] = [Infinity, Infinity, -1, -1];
  for (let row = 0; row < height; row++) {
    for (let col = 0; col < width; col++) {
      if (!ink[row * width + col]) continue;
      left = Math.min(left, col), right = Math.max(right, col);
      top = Math.min(top, row), bottom = Math.max(bottom, row);
    }
  }
  if (right < 0) return { image: blank, problem: "empty" };
  const boxWidth = right - left + 1, boxHeight = bottom - top + 1, longer = Math.max(boxWidth, boxHeight);
  if (longer < MIN_SOURCE && Math.max(width, height) > SIDE) return { image: blank, problem: "small" };
  const pixel = longer / BOX;
  const weights = (side) => areaWeights(side, Math.trunc((longer - side) / 2 / pixel) * pixel, pixel);
  const vertical = weights(boxHeight), horizontal = weights(boxWidth);
  const narrow = new Float64Array(BOX * boxWidth), box = new Float64Array(BOX * BOX);
  for (let row = 0; row < BOX; row++) {
    for (let y = 0; y < boxHeight; y++) {
      const weight = vertical[row * boxHeight + y];
      if (!weight) continue;
      for (let x = 0; x < boxWidth; x++) narrow[row * boxWidth + x] += weight * ink[(top + y) * width + left + x];
    }
    for (let col = 0; col < BOX; col++) {
      for (let x = 0; x < boxWidth; x++) {
        box[row * BOX + col] += narrow[row * boxWidth + x] * horizontal[col * boxWidth + x];
      }
    }
  }
  return { image: centerByMass(stretch(box)), problem: null };
}

function border(gray, width, height) {
  const values = [];
  for (let col = 0; col < width; col++) values.push(gray[col], gray[(height - 1) * width + col]);
  for (let row = 0; row < height; row++) values.push(gray[row * width], gray[row * width + width - 1]);
  return values;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function separate(light) {
  const counts = new Float64Array(256);
  for (const value of light) counts[value]++;
  const total = light.length, sum = (from, to, weigh) => {
    let result = 0;
    for (let level = from; level < to; level++) result += counts[level] * (weigh ? level : 1);
    return result;
  };
  const low = counts.findIndex((count) => count > 0), high = counts.findLastIndex((count) => count > 0);
  if (high - low < MIN_CONTRAST) return light.map(() => 0);
  if (counts[0] >= BLACK_GROUND * total) {
    const isFaint = sum(1, FAINT) > MAX_FAINT * (total - counts[0]);
    return isFaint ? light.map((value) => (value < FAINT ? 0 : value)) : light;
  }
  const threshold = otsu(counts), darker = sum(0, threshold);
  let [ground, below] = [0, counts[0]];
  while (below < PAPER * darker) below += counts[++ground];
  const white = sum(threshold, 256, true) / sum(threshold, 256);
  return light.map((value) => {
    if (2 * value < ground + threshold) return 0;
    return Math.floor(Math.min(Math.max((value - ground) / (white - ground), 0), 1) * 255 + 0.5);
  });
}

function otsu(counts) {
  const total = counts.reduce((a, b) => a + b, 0), sum = counts.reduce((all, count, level) => all + count * level, 0);
  let [below, belowSum, best, bestLevel] = [0, 0, -1, 0];
  for (let level = 0; level < 255; level++) {
    below += counts[level], belowSum += counts[level] * level;
    const above = total - below, gap = belowSum / below - (sum - belowSum) / above;
    const between = below && above ? below * above * gap * gap : 0;
    if (between > best) [best, bestLevel] = [between, level];
  }
  return bestLevel + 1;
}

function areaWeights(side, margin, pixel) {
  const weights = new Float64Array(BOX * side);
  for (let cell = 0; cell < BOX; cell++) {
    for (let source = 0; source < side; source++) {
      const start = margin + source;
      const overlap = Math.min((cell + 1) * pixel, start + 1) - Math.max(cell * pixel, start);
      weights[cell * side + source] = Math.max(overlap, 0) / pixel;
    }
  }
  return weights;
}

// --- both ------------------------------------------------------------------------------------------------------------

function stretch(values) {
  const factor = 255 / values.reduce((a, b) => Math.max(a, b), 0);
  return Uint8Array.from(values, (value) => Math.floor(value * factor + 0.5));
}

function centerOfMass(values, side) {
  let [mass, x, y] = [0, 0, 0];
  values.forEach((value, index) => {
    mass += value;
    x += value * ((index % side) + 0.5);
    y += value * (Math.floor(index / side) + 0.5);
  });
  return [x / mass, y / mass];
}

function centerByMass(box) {
  const [x, y] = centerOfMass(box, BOX), left = Math.trunc(CENTER - x), top = Math.trunc(CENTER - y);
  const image = new Uint8Array(SIDE * SIDE);
  for (let row = 0; row < Math.min(BOX, SIDE - top); row++) {
    for (let col = 0; col < Math.min(BOX, SIDE - left); col++) {
      image[(top + row) * SIDE + left + col] = box[row * BOX + col];
    }
  }
  return image;
}

/** Return whether gray levels are in MNIST's form already. */
export function isMnistLike(gray, width, height) {
  if (width !== SIDE || height !== SIDE) return false;
  let [left, top, right, bottom] = [Infinity, Infinity, -1, -1];
  gray.forEach((value, index) => {
    if (!value) return;
    const col = index % SIDE, row = Math.floor(index / SIDE);
    left = Math.min(left, col), right = Math.max(right, col);
    top = Math.min(top, row), bottom = Math.max(bottom, row);
  });
  if (Math.max(right - left, bottom - top) + 1 !== BOX) return false;
  return centerOfMass(gray, SIDE).every((center) => center > SIDE / 2 && center <= CENTER);
}
