// Markers as pixels: 85,742 of them are blended into an image by hand in a few milliseconds without a GPU, where paths
// of the canvas would take a second.
//
// Every marker lies on whole pixels of the magnified plane. Moving by whole pixels therefore shifts the picture that is
// there, and only the border that comes into sight is drawn: the same pixels as drawing everything again.

const SHAPES = ["circle", "triangle", "square"];
const OPAQUE = 255 << 24;
const MOST_CELLS = 128; // the plane is cut into so many rows and columns of squares
const SHARE_OF_SIDE = 0.94; // what the unit square takes of a panel at zoom 1

/** Pixels of a panel `side` pixels wide to a unit of the plane. */
export function scaleOf(side, zoom) {
  return side * SHARE_OF_SIDE * zoom;
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

/** The picture of a panel's points on a square canvas. */
export class MarkerPicture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false }); // an opaque canvas costs the compositor half as much
    this.drawn = null; // how the picture on the canvas was drawn
    this.sprites = new Map();
  }

  /** Points (n) in the unit square; NaN where one has no place. */
  setPoints(x, y) {
    Object.assign(this, { x, y, arranged: null });
  }

  /** Per point a shape (0 circle, 1 triangle, 2 square) and a colour (index into the palette of [r, g, b]). */
  setMarkers({ shapes, colours, palette, theme }) {
    const faded = palette.map((colour) => colour.map((part, k) => Math.round(0.3 * part + 0.7 * theme.background[k])));
    Object.assign(this, { shapes, colours, arranged: null });
    this.palette = Int32Array.from(palette, packed);
    this.faded = Int32Array.from(faded, packed);
    this.paper = packed(theme.background);
    this.ink = packed(theme.text);
  }

  /** Which points are drawn when, as `drawingOrder` gives it. */
  setOrder({ order, nFaded }) {
    Object.assign(this, { order, nFaded, arranged: null });
  }

  /** Draw the points in a view of the plane; `ratio` is pixels of the canvas to one of the page. False if not filled yet. */
  draw({ x, y, zoom }, ratio) {
    if (!this.x || !this.palette || !this.order) return false;
    this.arranged ??= this.#arrange();
    const side = this.canvas.width;
    const scale = scaleOf(side, zoom);
    const now = { side, scale, ratio, arranged: this.arranged, left: Math.round(side / 2 - x * scale), top: Math.round(side / 2 + y * scale) };
    const kept = this.drawn;
    const [right, down] = kept ? [now.left - kept.left, now.top - kept.top] : [0, 0];
    const alike = kept && ["side", "scale", "ratio", "arranged"].every((name) => kept[name] === now[name]);
    if (alike && Math.abs(right) + Math.abs(down) < side / 2) this.#shift(now, right, down);
    else this.#drawAll(now, zoom);
    this.context.putImageData(this.image, -this.pad, -this.pad);
    this.drawn = now;
    return true;
  }

  /**
   * Points that have a place, with their colours, in the order of drawing: one kind of marker after the other, and of one
   * kind square by square of the plane, because pixels far apart in memory take many times as long to reach.
   */
  #arrange() {
    const kinds = []; // of markers, in the order of drawing
    const n = this.order.length;
    const cells = Math.min(MOST_CELLS, Math.ceil(Math.sqrt(n)));
    const starts = new Int32Array(6 * cells * cells + 1); // where each square begins; there are three shapes, marked or not
    const keys = new Int32Array(n);
    for (let k = 0; k < n; k++) {
      const i = this.order[k];
      const shape = this.shapes[i];
      const marked = this.nFaded > 0 && k >= this.nFaded;
      const last = kinds[kinds.length - 1];
      if (last?.shape !== shape || last.marked !== marked) kinds.push({ shape, marked });
      const cell = cellOf(1 - this.y[i], cells) * cells + cellOf(this.x[i], cells);
      keys[k] = Number.isNaN(this.x[i]) ? -1 : (kinds.length - 1) * cells * cells + cell;
      if (keys[k] >= 0) starts[keys[k] + 1] += 1;
    }
    for (let key = 1; key < starts.length; key++) starts[key] += starts[key - 1];
    const [xs, ys, colours] = [new Float32Array(n), new Float32Array(n), new Int32Array(n)];
    const next = starts.slice();
    for (let k = 0; k < n; k++) {
      if (keys[k] < 0) continue;
      const i = this.order[k];
      const place = next[keys[k]]++;
      xs[place] = this.x[i];
      ys[place] = this.y[i];
      colours[place] = (k < this.nFaded ? this.faded : this.palette)[this.colours[i]];
    }
    return { xs, ys, colours, kinds, cells, starts };
  }

  #drawAll(now, zoom) {
    const { side, ratio } = now;
    const n = this.x.length;
    const base = Math.max(1.1, Math.min(4, 60 / Math.sqrt(n)));
    const radius = Math.round(10 * ratio * Math.min(6, base * (1 + 0.3 * Math.log2(Math.max(1, zoom))))) / 10;
    const opacity = n > 5000 && zoom < 8 ? 0.7 : 0.92;
    this.markers = this.arranged.kinds.map(({ shape, marked }) => ({
      rim: marked ? this.#sprite(SHAPES[shape], radius + (SHAPES[shape] === "triangle" ? 2.2 : 1.7) * ratio, 1) : null,
      body: marked ? this.#sprite(SHAPES[shape], radius + 0.6 * ratio, 1) : this.#sprite(SHAPES[shape], radius, opacity),
    }));
    this.reach = Math.max(0, ...this.markers.map(({ rim, body }) => (rim ?? body).reach));
    this.pad = 2 * this.reach; // room for markers that stand half outside
    const stride = side + 2 * this.pad;
    if (this.image?.width !== stride) this.image = new ImageData(stride, stride);
    const pixels = new Int32Array(this.image.data.buffer);
    this.#stamp(pixels, stride, stride, now.scale, this.pad + now.left, this.pad + now.top);
  }

  /** Move the picture, and draw the border that came into sight. */
  #shift(now, right, down) {
    const [{ side }, { pad }] = [now, this];
    const stride = this.image.width;
    const pixels = new Int32Array(this.image.data.buffer);
    const by = down * stride + right; // rows run on into each other only where the border is drawn anew
    if (by > 0) pixels.copyWithin(by, 0, pixels.length - by);
    else if (by < 0) pixels.copyWithin(0, -by);
    if (right) this.#drawPart(pixels, now, right > 0 ? pad : pad + side + right, pad, Math.abs(right), side);
    if (down) this.#drawPart(pixels, now, pad, down > 0 ? pad : pad + side + down, side, Math.abs(down));
  }

  /** Draw a rectangle of the image, corner first, on a sheet of its own, because markers reach beyond it. */
  #drawPart(pixels, now, column, row, width, height) {
    const { pad } = this;
    const [wide, high] = [width + 2 * pad, height + 2 * pad];
    if (!(this.sheet?.length >= wide * high)) this.sheet = new Int32Array(wide * high);
    const sheet = this.sheet.subarray(0, wide * high);
    this.#stamp(sheet, wide, high, now.scale, 2 * pad + now.left - column, 2 * pad + now.top - row);
    for (let k = 0; k < height; k++) {
      const from = (pad + k) * wide + pad;
      pixels.set(sheet.subarray(from, from + width), (row + k) * this.image.width + column);
    }
  }

  /** Stamp all markers onto paper of stride x height pixels; (left, top) is where the plane's origin lies on it. */
  #stamp(pixels, stride, height, scale, left, top) {
    pixels.fill(OPAQUE | this.paper);
    const { cells, starts } = this.arranged;
    const sheet = { ...this.arranged, pixels, stride, height, scale, left, top, reach: this.reach };
    const column = (pixel) => cellOf((pixel - left) / scale, cells);
    const row = (pixel) => cellOf(1 - (top - pixel) / scale, cells);
    const [first, last] = [column(-1), column(stride + 1)];
    const [highest, lowest] = [row(-1), row(height + 1)];
    this.markers.forEach(({ rim, body }, kind) => {
      const bodies = { offsets: offsetsIn(body, stride), covers: body.covers, ink: -1 };
      const rims = rim && { offsets: offsetsIn(rim, stride), covers: rim.covers, ink: this.ink };
      for (let r = highest; r <= lowest; r++) {
        const cell = (kind * cells + r) * cells;
        const [from, to] = [starts[cell + first], starts[cell + last + 1]];
        if (!rim) stampRun(sheet, bodies, from, to);
        for (let k = from; rim && k < to; k++) {
          stampRun(sheet, rims, k, k + 1);
          stampRun(sheet, bodies, k, k + 1);
        }
      }
    });
  }

  #sprite(shape, radius, opacity) {
    const name = `${shape} ${radius} ${opacity}`;
    if (this.sprites.size > 500) this.sprites.clear();
    if (!this.sprites.has(name)) this.sprites.set(name, makeSprite(shape, radius, opacity));
    return this.sprites.get(name);
  }
}

/** The row or column of squares that a coordinate lies in, the outermost for what lies outside. */
function cellOf(coordinate, cells) {
  return Math.max(0, Math.min(cells - 1, Math.floor(coordinate * cells)));
}

/** A marker as pixels: their places relative to the centre, and how far each is covered (0 to 256). */
function makeSprite(shape, radius, opacity) {
  const most = Math.ceil(radius * 1.4) + 1;
  const [across, down, covers] = [[], [], []];
  for (let dy = -most; dy <= most; dy++) {
    for (let dx = -most; dx <= most; dx++) {
      let inside = 0;
      for (let s = 0; s < 25; s++) inside += isInside(shape, dx + ((s % 5) - 2) / 5, dy + (Math.floor(s / 5) - 2) / 5, radius);
      const cover = Math.round((256 * opacity * inside) / 25);
      if (!cover) continue;
      across.push(dx);
      down.push(dy);
      covers.push(cover);
    }
  }
  const reach = Math.max(...[...across, ...down].map(Math.abs));
  return { across, down, covers: Int32Array.from(covers), reach };
}

function offsetsIn({ across, down }, stride) {
  return Int32Array.from(across, (dx, k) => down[k] * stride + dx);
}

function isInside(shape, x, y, radius) {
  if (shape === "circle") return x * x + y * y <= radius * radius;
  if (shape === "square") return Math.abs(x) <= 0.85 * radius && Math.abs(y) <= 0.85 * radius;
  const height = 1.3 * radius; // a triangle that stands on its side, a little larger than the circle
  return y <= 0.75 * height && y >= -height + 1.75 * Math.abs(x);
}

/** A colour as a pixel, without its opacity: numbers of 30 bits and fewer are the fast ones. */
function packed([r, g, b]) {
  return (b << 16) | (g << 8) | r;
}

/**
 * Blend one kind of marker into the pixels at the points from..to: below + (colour - below) * cover, red and blue in one
 * product. An `ink` of 0 or more is the colour of all.
 */
function stampRun({ pixels, stride, height, xs, ys, colours, scale, left, top, reach }, { offsets, covers, ink }, from, to) {
  const n = offsets.length;
  const right = stride - reach - 1;
  const bottom = height - reach - 1;
  for (let k = from; k < to; k++) {
    const px = left + ((xs[k] * scale + 0.5) | 0);
    const py = top - ((ys[k] * scale + 0.5) | 0);
    if (((px - reach) | (py - reach) | (right - px) | (bottom - py)) < 0) continue; // outside; four branches mispredict
    const place = py * stride + px;
    const colour = ink < 0 ? colours[k] : ink;
    const redBlue = colour & 0xff00ff;
    const green = colour & 0x00ff00;
    for (let j = 0; j < n; j++) {
      const at = place + offsets[j];
      const cover = covers[j];
      const below = pixels[at];
      const belowRedBlue = below & 0xff00ff;
      const belowGreen = below & 0x00ff00;
      const rb = (belowRedBlue + (Math.imul(redBlue - belowRedBlue, cover) >> 8)) & 0xff00ff;
      const g = (belowGreen + (Math.imul(green - belowGreen, cover) >> 8)) & 0x00ff00;
      pixels[at] = OPAQUE | rb | g;
    }
  }
}
