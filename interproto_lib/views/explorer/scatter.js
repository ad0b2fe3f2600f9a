// One panel of points that can be moved, zoomed and selected from. Points lie in the unit square, y upwards.
//
// Markers are blended into the pixels of an image by hand: this draws 85,742 of them in a few milliseconds without a
// GPU, where paths of the canvas would take a second. What follows the pointer is drawn on a second canvas above.

import { element } from "./frame.js";

const LARGEST_ZOOM = 400;
const HOVER_RADIUS = 14; // pixels of the page
const KEYBOARD_STEP = 0.08; // of the panel's width
const SIDE_IN_MOTION = 800; // pixels of a panel while it moves: a sharp screen has four times as many as a person then sees
const SHAPES = ["circle", "triangle", "square"];

/** Points sorted into square cells, so that the nearest one is found among a few. */
export class PointGrid {
  constructor(x, y) {
    this.x = x;
    this.y = y;
    this.side = Math.max(4, Math.min(512, Math.ceil(Math.sqrt(x.length / 3))));
    const cells = new Int32Array(x.length);
    this.starts = new Int32Array(this.side * this.side + 1);
    for (let i = 0; i < x.length; i++) {
      cells[i] = Number.isNaN(x[i]) ? -1 : this.#cell(y[i]) * this.side + this.#cell(x[i]);
      if (cells[i] >= 0) this.starts[cells[i] + 1] += 1;
    }
    for (let c = 0; c < this.side * this.side; c++) this.starts[c + 1] += this.starts[c];
    this.rows = new Int32Array(this.starts[this.side * this.side]);
    const next = this.starts.slice();
    for (let i = 0; i < x.length; i++) if (cells[i] >= 0) this.rows[next[cells[i]]++] = i;
  }

  #cell(coordinate) {
    return Math.max(0, Math.min(this.side - 1, Math.floor(coordinate * this.side)));
  }

  /** Row of the point nearest to a place, -1 where none is within the radius; all in units of the plane. */
  nearest(x, y, radius) {
    let best = -1;
    let smallest = radius * radius;
    for (let row = this.#cell(y - radius); row <= this.#cell(y + radius); row++) {
      for (let column = this.#cell(x - radius); column <= this.#cell(x + radius); column++) {
        const cell = row * this.side + column;
        for (let k = this.starts[cell]; k < this.starts[cell + 1]; k++) {
          const i = this.rows[k];
          const distance = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
          if (distance <= smallest) [best, smallest] = [i, distance];
        }
      }
    }
    return best;
  }
}

/** Rows of the points inside a polygon of [x, y] corners (even-odd rule). */
export function rowsInPolygon(x, y, corners) {
  const [xs, ys] = [corners.map((c) => c[0]), corners.map((c) => c[1])];
  const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const found = [];
  for (let i = 0; i < x.length; i++) {
    if (!(x[i] >= left && x[i] <= right && y[i] >= bottom && y[i] <= top)) continue;
    let inside = false;
    for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
      if (ys[a] > y[i] !== ys[b] > y[i] && x[i] < ((xs[b] - xs[a]) * (y[i] - ys[a])) / (ys[b] - ys[a]) + xs[a]) inside = !inside;
    }
    if (inside) found.push(i);
  }
  return found;
}

/**
 * Rows in the order of drawing: circles first, then squares and triangles (children), the selected above all. Where some
 * are selected, the first `nFaded` are not, and fade.
 */
export function drawingOrder(shapes, selected) {
  const places = new Int32Array(7); // where each group begins: three shapes, then three selected shapes
  const rank = [0, 2, 1];
  for (let i = 0; i < shapes.length; i++) places[1 + rank[shapes[i]] + 3 * selected[i]] += 1;
  for (let group = 0; group < 6; group++) places[group + 1] += places[group];
  const nFaded = places[3] < shapes.length ? places[3] : 0;
  const order = new Int32Array(shapes.length);
  for (let i = 0; i < shapes.length; i++) order[places[rank[shapes[i]] + 3 * selected[i]]++] = i;
  return { order, nFaded };
}

/** A marker as pixels: their places relative to the centre, and how far each is covered (0 to 256). */
function makeSprite(shape, radius, opacity, stride) {
  const reach = Math.ceil(radius * 1.4) + 1;
  const [offsets, covers] = [[], []];
  for (let dy = -reach; dy <= reach; dy++) {
    for (let dx = -reach; dx <= reach; dx++) {
      let inside = 0;
      for (let s = 0; s < 25; s++) inside += isInside(shape, dx + ((s % 5) - 2) / 5, dy + (Math.floor(s / 5) - 2) / 5, radius);
      const cover = Math.round((256 * opacity * inside) / 25);
      if (cover > 0) {
        offsets.push(dy * stride + dx);
        covers.push(cover);
      }
    }
  }
  return { offsets: Int32Array.from(offsets), covers: Int32Array.from(covers), reach };
}

function isInside(shape, x, y, radius) {
  if (shape === "circle") return x * x + y * y <= radius * radius;
  if (shape === "square") return Math.abs(x) <= 0.85 * radius && Math.abs(y) <= 0.85 * radius;
  const height = 1.3 * radius; // a triangle that stands on its side, a little larger than the circle
  return y <= 0.75 * height && y >= -height + 1.75 * Math.abs(x);
}

/** A panel of points; `on` holds the callbacks hover(row), choose(row), select(rows, event) and view(view). */
export class ScatterPanel {
  constructor(label, on) {
    this.on = on;
    this.tool = "move";
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.hovered = -1;
    this.chosen = -1;
    this.frames = 0;
    this.lastDrawMs = 0;
    this.canvas = element("canvas", { style: "position:absolute;inset:0;width:100%;height:100%" });
    this.overlay = element("canvas", {
      tabindex: 0,
      role: "application",
      "aria-label": `${label}. Arrows move, plus and minus zoom, 0 shows all, Enter takes the identity at the cross, Space sets two corners of a selection, Escape ends it.`,
      style: "position:absolute;inset:0;width:100%;height:100%;touch-action:none;cursor:crosshair",
    });
    this.box = element("div", { style: "position:relative;aspect-ratio:1;width:100%;border:1px solid var(--jp-border-color2, GrayText)" }, this.canvas, this.overlay);
    this.#listen();
    this.resizing = new ResizeObserver(() => this.#resize());
    this.resizing.observe(this.box);
  }

  /** Points (n) in the unit square; NaN where an identity has no place. */
  setPoints(x, y) {
    Object.assign(this, { x, y, grid: new PointGrid(x, y) });
    this.redraw();
  }

  /** Per point a shape (0 circle, 1 triangle, 2 square) and a colour (index into the palette of [r, g, b]). */
  setMarkers({ shapes, colours, palette, theme }) {
    Object.assign(this, { shapes, colours, theme });
    const faded = palette.map((colour) => colour.map((part, k) => Math.round(0.3 * part + 0.7 * theme.background[k])));
    const pack = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r;
    this.palette = Int32Array.from(palette, pack);
    this.faded = Int32Array.from(faded, pack);
    this.paper = pack(theme.background);
    this.ink = pack(theme.text);
    this.redraw();
  }

  /** Which points are drawn when, as `drawingOrder` gives it. */
  setOrder({ order, nFaded }) {
    Object.assign(this, { order, nFaded });
    this.redraw();
  }

  setView(view) {
    this.view = { ...view };
    this.redraw();
  }

  /** Ring one point (under the pointer here or in another panel), -1 for none. */
  setHovered(row) {
    this.hovered = row;
    this.#drawOverlay();
  }

  setChosen(row) {
    this.chosen = row;
    this.#drawOverlay();
  }

  /** Bring a point to the middle. */
  centreOn(row) {
    if (Number.isNaN(this.x[row])) return;
    this.#setOwnView({ x: this.x[row], y: this.y[row], zoom: Math.max(this.view.zoom, 4) });
  }

  redraw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.#draw();
      this.#drawOverlay();
    });
  }

  close() {
    this.resizing.disconnect();
    cancelAnimationFrame(this.waiting);
    clearTimeout(this.resting);
  }

  /** Fit the pixels to the screen; while the points move, to fewer of them. */
  #resize() {
    const width = this.box.clientWidth;
    if (!width) return;
    const sharp = devicePixelRatio || 1;
    this.ratio = this.moving ? Math.min(sharp, Math.max(1, SIDE_IN_MOTION / width)) : sharp;
    const side = Math.round(width * this.ratio);
    if (side === this.canvas.width) return;
    for (const canvas of [this.canvas, this.overlay]) [canvas.width, canvas.height] = [side, side];
    this.redraw();
  }

  #radius() {
    const base = Math.max(1.1, Math.min(4, 60 / Math.sqrt(this.x.length)));
    return Math.min(6, base * (1 + 0.3 * Math.log2(Math.max(1, this.view.zoom)))) * this.ratio;
  }

  #draw() {
    const side = this.canvas.width;
    if (!this.x || !this.palette || !this.order || !this.ratio) return; // not filled or not laid out yet
    const start = performance.now();
    const radius = this.#radius();
    const pad = Math.ceil(radius * 2.2) + 3; // room for markers that stand half outside
    const stride = side + 2 * pad;
    if (this.image?.width !== stride) this.image = new ImageData(stride, stride);
    const pixels = new Int32Array(this.image.data.buffer);
    pixels.fill(this.paper);
    const scale = side * 0.94 * this.view.zoom;
    const [left, top] = [pad + side / 2 - this.view.x * scale, pad + side / 2 + this.view.y * scale];
    const opacity = this.x.length > 5000 && this.view.zoom < 8 ? 0.7 : 0.92;
    const plain = SHAPES.map((shape) => makeSprite(shape, radius, opacity, stride));
    const marked = SHAPES.map((shape) => makeSprite(shape, radius + 0.6 * this.ratio, 1, stride));
    const rims = SHAPES.map((shape) => makeSprite(shape, radius + (shape === "triangle" ? 2.2 : 1.7) * this.ratio, 1, stride));
    const reach = marked[1].reach + Math.ceil(2.2 * this.ratio * 1.4);
    const limit = stride - reach - 1;
    for (let k = 0; k < this.order.length; k++) {
      const i = this.order[k];
      const px = (left + this.x[i] * scale + 0.5) | 0; // 0, hence outside, where the point has no place
      const py = (top - this.y[i] * scale + 0.5) | 0;
      if (px <= reach || py <= reach || px >= limit || py >= limit) continue;
      const place = py * stride + px;
      const shape = this.shapes[i];
      if (k < this.nFaded) blend(pixels, place, plain[shape], this.faded[this.colours[i]]);
      else if (this.nFaded) {
        blend(pixels, place, rims[shape], this.ink);
        blend(pixels, place, marked[shape], this.palette[this.colours[i]]);
      } else blend(pixels, place, plain[shape], this.palette[this.colours[i]]);
    }
    this.canvas.getContext("2d").putImageData(this.image, -pad, -pad);
    this.frames += 1;
    this.lastDrawMs = performance.now() - start;
  }

  #drawOverlay() {
    const context = this.overlay.getContext("2d");
    const side = this.overlay.width;
    context.clearRect(0, 0, side, side);
    if (!this.x || !this.theme) return;
    const ink = `rgb(${this.theme.text})`;
    for (const [row, radius] of [[this.chosen, 9], [this.hovered, 7]]) {
      if (row < 0 || Number.isNaN(this.x[row])) continue;
      const [px, py] = this.#toPixels(this.x[row], this.y[row]);
      for (const [colour, width] of [[`rgb(${this.theme.background})`, 5], [ink, 2]]) {
        context.beginPath();
        context.arc(px, py, radius * this.ratio, 0, 7);
        Object.assign(context, { strokeStyle: colour, lineWidth: width * this.ratio });
        context.stroke();
      }
    }
    this.#drawPath(context, ink);
    if (this.overlay.matches(":focus-visible")) this.#drawCross(context, ink, side / 2);
  }

  #drawPath(context, ink) {
    const corners = this.path ?? (this.corner ? rectangle(this.corner, [this.view.x, this.view.y]) : null);
    if (!corners) return;
    context.beginPath();
    for (const [x, y] of corners) context.lineTo(...this.#toPixels(x, y));
    context.closePath();
    Object.assign(context, { strokeStyle: ink, lineWidth: 1.5 * this.ratio, fillStyle: "rgba(128,128,128,0.18)" });
    context.setLineDash([5 * this.ratio, 3 * this.ratio]);
    context.fill();
    context.stroke();
    context.setLineDash([]);
  }

  #drawCross(context, ink, middle) {
    Object.assign(context, { strokeStyle: ink, lineWidth: 1.5 * this.ratio });
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(middle + 4 * dx * this.ratio, middle + 4 * dy * this.ratio);
      context.lineTo(middle + 14 * dx * this.ratio, middle + 14 * dy * this.ratio);
    }
    context.stroke();
  }

  #scale() {
    return this.canvas.width * 0.94 * this.view.zoom;
  }

  #toPixels(x, y) {
    const [scale, middle] = [this.#scale(), this.canvas.width / 2];
    return [middle + (x - this.view.x) * scale, middle - (y - this.view.y) * scale];
  }

  /** Place in the plane of a pointer's event. */
  #place(event) {
    const box = this.overlay.getBoundingClientRect();
    const scale = box.width * 0.94 * this.view.zoom;
    return [
      this.view.x + (event.clientX - box.left - box.width / 2) / scale,
      this.view.y - (event.clientY - box.top - box.height / 2) / scale,
    ];
  }

  #nearest([x, y]) {
    return this.grid.nearest(x, y, (HOVER_RADIUS * this.ratio) / this.#scale());
  }

  #setOwnView(view) {
    const inside = (value) => Math.max(0, Math.min(1, value));
    this.view = { x: inside(view.x), y: inside(view.y), zoom: Math.max(0.5, Math.min(LARGEST_ZOOM, view.zoom)) };
    this.redraw();
    this.moving = true;
    this.#resize();
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.#rest(), 250);
  }

  /** The hand rests: draw sharply, and tell where the view is. */
  #rest() {
    this.moving = false;
    this.#resize();
    this.on.view(this.view);
  }

  /** Zoom so that a place of the plane stays where it is. */
  #zoomAt([x, y], factor) {
    const zoom = Math.max(0.5, Math.min(LARGEST_ZOOM, this.view.zoom * factor));
    const kept = this.view.zoom / zoom;
    this.#setOwnView({ x: x - (x - this.view.x) * kept, y: y - (y - this.view.y) * kept, zoom });
  }

  #listen() {
    this.overlay.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoomAt(this.#place(event), Math.exp(-0.0018 * Math.max(-240, Math.min(240, event.deltaY))));
    }, { passive: false });
    this.overlay.addEventListener("pointerdown", (event) => this.#press(event));
    this.overlay.addEventListener("pointermove", (event) => this.#move(event));
    this.overlay.addEventListener("pointerup", (event) => this.#release(event));
    this.overlay.addEventListener("pointercancel", () => this.#drop());
    this.overlay.addEventListener("pointerleave", () => this.drag ?? this.on.hover(-1));
    this.overlay.addEventListener("keydown", (event) => this.#key(event));
    for (const name of ["focus", "blur"]) this.overlay.addEventListener(name, () => this.#drawOverlay());
  }

  #press(event) {
    if (!this.x || event.button !== 0) return;
    this.overlay.setPointerCapture(event.pointerId);
    const tool = event.shiftKey && this.tool === "move" ? "lasso" : this.tool;
    this.drag = { tool, from: this.#place(event), pageX: event.clientX, pageY: event.clientY, moved: false };
  }

  #move(event) {
    if (!this.x) return;
    if (!this.drag) return void this.on.hover(this.#nearest(this.#place(event)));
    const { tool, from, pageX, pageY } = this.drag;
    if (Math.hypot(event.clientX - pageX, event.clientY - pageY) > 3) this.drag.moved = true;
    if (!this.drag.moved) return;
    const here = this.#place(event);
    if (tool === "move") this.#setOwnView({ ...this.view, x: this.view.x + from[0] - here[0], y: this.view.y + from[1] - here[1] });
    else {
      if (tool === "lasso") (this.path ??= [from]).push(here);
      else this.path = rectangle(from, here);
      this.#drawOverlay();
    }
  }

  #release(event) {
    if (!this.drag) return;
    const { moved } = this.drag;
    const path = this.path;
    this.#drop();
    if (path) this.on.select(rowsInPolygon(this.x, this.y, path), event);
    else if (!moved) this.on.choose(this.#nearest(this.#place(event)));
  }

  #drop() {
    this.drag = this.path = null;
    this.#drawOverlay();
  }

  #key(event) {
    if (!this.x || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = (KEYBOARD_STEP * (event.shiftKey ? 3 : 1)) / this.view.zoom;
    const { x, y, zoom } = this.view;
    const acts = {
      ArrowLeft: () => this.#setOwnView({ x: x - step, y, zoom }),
      ArrowRight: () => this.#setOwnView({ x: x + step, y, zoom }),
      ArrowUp: () => this.#setOwnView({ x, y: y + step, zoom }),
      ArrowDown: () => this.#setOwnView({ x, y: y - step, zoom }),
      "+": () => this.#zoomAt([x, y], 1.4),
      "=": () => this.#zoomAt([x, y], 1.4),
      "-": () => this.#zoomAt([x, y], 1 / 1.4),
      0: () => this.#setOwnView({ x: 0.5, y: 0.5, zoom: 1 }),
      Enter: () => this.on.choose(this.grid.nearest(x, y, 0.3 / zoom)),
      " ": () => this.#setCorner(event),
      Escape: () => this.#escape(),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has shortcuts on most keys
    acts[event.key]();
    if (event.key.startsWith("Arrow")) this.on.hover(this.grid.nearest(this.view.x, this.view.y, 0.05 / this.view.zoom));
  }

  #setCorner(event) {
    if (!this.corner) this.corner = [this.view.x, this.view.y];
    else {
      const corners = rectangle(this.corner, [this.view.x, this.view.y]);
      this.corner = null;
      this.on.select(rowsInPolygon(this.x, this.y, corners), event);
    }
    this.#drawOverlay();
  }

  #escape() {
    this.corner = null;
    this.on.choose(-1);
    this.#drawOverlay();
  }
}

/** Blend a marker of one colour into the pixels, red and blue in one product. */
function blend(pixels, place, sprite, colour) {
  const { offsets, covers } = sprite;
  const [redBlue, green] = [colour & 0xff00ff, colour & 0x00ff00];
  for (let k = 0; k < offsets.length; k++) {
    const at = place + offsets[k];
    const cover = covers[k];
    if (cover === 256) {
      pixels[at] = colour;
      continue;
    }
    const below = pixels[at];
    const rest = 256 - cover;
    const rb = ((Math.imul(redBlue, cover) + Math.imul(below & 0xff00ff, rest)) >>> 8) & 0xff00ff;
    const g = ((Math.imul(green, cover) + Math.imul(below & 0x00ff00, rest)) >>> 8) & 0x00ff00;
    pixels[at] = 0xff000000 | rb | g;
  }
}

function rectangle([x0, y0], [x1, y1]) {
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}
