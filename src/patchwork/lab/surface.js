// A canvas to draw strokes on, with a mouse, a finger or a pen. Strokes are kept as points in units of UNIT to a cell.

export const UNIT = 280; // one cell's side
const BRUSH = 22, REACH = 20; // width of a stroke on screen, and how near an eraser must come, in the same units

export class Surface {
  /** `onChange` is called after each change, also while a stroke is being drawn. */
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.strokes = [];
    this.undone = []; // what undo brings back: whole lists of strokes
    this.erasing = false;
    this.pointer = null; // that draws; another finger changes nothing
    this.resize(1, 1);
    const listen = (type, handler) => canvas.addEventListener(type, handler);
    listen("pointerdown", (event) => this.start(event));
    listen("pointermove", (event) => this.move(event));
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) listen(type, (event) => this.end(event));
    new ResizeObserver(() => this.paint()).observe(canvas);
  }

  resize(rows, cols) {
    [this.rows, this.cols] = [rows, cols];
    this.canvas.style.aspectRatio = `${cols} / ${rows}`;
    this.paint();
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = (this.cols * UNIT) / box.width, round = (value) => Math.round(value * 10) / 10;
    return [round((event.clientX - box.left) * scale), round((event.clientY - box.top) * scale)];
  }

  start(event) {
    if (this.pointer !== null || !event.isPrimary || event.button > 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.pointer = event.pointerId;
    try {
      this.canvas.setPointerCapture(event.pointerId);
    } catch {
      // a pointer that is gone already draws a dot
    }
    this.remember();
    if (this.erasing) this.eraseAt(this.point(event));
    else this.strokes.push([this.point(event)]);
    this.changed();
  }

  move(event) {
    if (event.pointerId !== this.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) {
      if (this.erasing) this.eraseAt(this.point(each));
      else this.strokes[this.strokes.length - 1]?.push(this.point(each));
    }
    this.changed();
  }

  /** A stroke that the system cancels is kept as far as it went. */
  end(event) {
    if (event.pointerId !== this.pointer) return;
    this.pointer = null;
    this.changed();
  }

  eraseAt([x, y]) {
    const near = (stroke) => stroke.some(([left, top]) => Math.hypot(left - x, top - y) < REACH);
    this.strokes = this.strokes.filter((stroke) => !near(stroke));
  }

  remember() {
    this.undone.push(this.strokes.map((stroke) => [...stroke]));
    if (this.undone.length > 200) this.undone.shift();
  }

  undo() {
    if (this.pointer !== null || !this.undone.length) return;
    this.strokes = this.undone.pop();
    this.changed();
  }

  replace(strokes) {
    this.remember();
    this.strokes = strokes;
    this.changed();
  }

  changed() {
    this.paint();
    this.onChange();
  }

  paint() {
    const { canvas } = this, box = canvas.getBoundingClientRect(), density = window.devicePixelRatio || 1;
    canvas.width = Math.max(Math.round(box.width * density), 1);
    canvas.height = Math.max(Math.round(box.height * density), 1);
    const pen = canvas.getContext("2d"), scale = canvas.width / (this.cols * UNIT);
    pen.scale(scale, scale);
    Object.assign(pen, { lineWidth: BRUSH, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
    for (const stroke of this.strokes) {
      pen.beginPath();
      pen.moveTo(...stroke[0]);
      for (const point of stroke) pen.lineTo(...point);
      pen.stroke();
    }
  }
}
