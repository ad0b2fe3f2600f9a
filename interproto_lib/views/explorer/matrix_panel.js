// One matrix on a canvas: blocks in colours, child and adult marks along its sides, the cell looked at, the cell chosen.

import { element, formatNumber } from "./frame.js";

const BAND = 10; // CSS pixels beside the matrix for the marks of child and adult identities
const TICKS = 6; // beyond them, for marked identities
const MARGIN = BAND + TICKS + 2;
const CHILD = "#E69F00";
const ADULT = "#0072B2";
const LIGHT_ADULT = "#3494D4"; // the same blue, lighter: on a dark page
const UNLABELLED = "#9A9A9A";
const MARKED = "#AA3377";
const LIGHT_MARKED = "#DD77AA";
const LARGEST_PLOT = 620;

/** Turn codes of values into pixels: code 0 is for missing values, 1 to 255 run from -limit to limit. */
export function paintCodes(codes, height, width, palette) {
  const canvas = element("canvas");
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let k = 0; k < pixels.length; k++) pixels[k] = palette[codes[k]];
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Colours of all codes as pixels, from 256 x 3 bytes. */
export function readPalette(bytes) {
  const palette = new Uint32Array(256);
  const rgba = new Uint8Array(palette.buffer);
  for (let code = 0; code < 256; code++) rgba.set([...bytes.subarray(3 * code, 3 * code + 3), 255], 4 * code);
  return palette;
}

/** Kinds of identities along a side, counted up to each place, so that any stretch is summed at once. */
export class SideMarks {
  /** `kinds` holds 0 (no child identity), 1 (child identity) or 2 (no age) a place; `marked` the places of marked ones. */
  constructor(kinds, marked) {
    this.n = kinds.length;
    this.children = countUpTo(kinds, 1);
    this.unlabelled = countUpTo(kinds, 2);
    this.marked = marked;
  }

  /** Shares of child and of unlabelled identities from one place to another. */
  shares(from, to) {
    const first = Math.max(0, Math.min(this.n - 1, Math.floor(from)));
    const stop = Math.max(first + 1, Math.min(this.n, Math.ceil(to)));
    const among = (counts) => (counts[stop] - counts[first]) / (stop - first);
    return [among(this.children), among(this.unlabelled)];
  }
}

function countUpTo(kinds, kind) {
  const counts = new Uint32Array(kinds.length + 1);
  for (let k = 0; k < kinds.length; k++) counts[k + 1] = counts[k] + (kinds[k] === kind ? 1 : 0);
  return counts;
}

/** A canvas with its title and colour bar. */
export class MatrixPanel {
  constructor(title, label) {
    this.canvas = element("canvas", { class: "ip-matrix", role: "application", "aria-label": label, tabindex: "-1" });
    this.bar = element("div", { class: "ip-colourbar" });
    this.box = element("figure", { class: "ip-matrix-panel" }, element("figcaption", { class: "ip-title" }, title));
    this.box.append(this.canvas, this.bar);
    this.plot = { width: 0, height: 0 };
  }

  /** Fit the canvas to the width there is; `ratio` is height to width of the plot. Returns whether anything changed. */
  resize(ratio) {
    const scale = window.devicePixelRatio || 1;
    const width = Math.max(80, Math.min(LARGEST_PLOT, Math.floor(this.box.clientWidth) - MARGIN - 1));
    const plot = { width, height: Math.round(width * ratio), scale };
    if (Object.keys(plot).every((key) => plot[key] === this.plot[key])) return false;
    this.plot = plot;
    this.canvas.style.width = `${plot.width + MARGIN + 1}px`;
    this.canvas.style.height = `${plot.height + MARGIN + 1}px`;
    this.canvas.width = Math.round((plot.width + MARGIN + 1) * scale);
    this.canvas.height = Math.round((plot.height + MARGIN + 1) * scale);
    return true;
  }

  /** The place under a pointer, as fractions of rows and columns; outside the plot it is that of the nearest edge. */
  placeAt(event, view) {
    const box = this.canvas.getBoundingClientRect();
    const zoom = box.width / (this.plot.width + MARGIN + 1);
    const share = (offset, size) => Math.max(0, Math.min(0.999999, (offset / zoom - MARGIN) / size));
    const down = share(event.clientY - box.top, this.plot.height);
    const right = share(event.clientX - box.left, this.plot.width);
    return { row: placeOf(view.rows, down), column: placeOf(view.columns, right), down, right };
  }

  showColourBar(paletteBytes, limit) {
    const stops = [];
    for (let code = 1; code <= 255; code += 2) stops.push(`rgb(${[...paletteBytes.subarray(3 * code, 3 * code + 3)]})`);
    const gradient = element("div", { class: "ip-gradient", style: `background: linear-gradient(to right, ${stops})` });
    const digits = limit >= 0.1 ? 2 : 3;
    const labels = [-limit, 0, limit].map((value) => element("span", {}, value === 0 ? "0" : formatNumber(value, digits)));
    this.bar.replaceChildren(gradient, element("div", { class: "ip-gradient-labels" }, ...labels));
    this.bar.style.width = `${this.plot.width}px`;
    this.bar.setAttribute("role", "img");
    this.bar.setAttribute("aria-label", `Colours from ${formatNumber(-limit, digits)}, blue, over 0, white, to ${formatNumber(limit, digits)}, red; grey is missing.`);
  }

  /**
   * Draw everything anew.
   *
   * `pictures` are drawn one over the other, each { image, rows, columns }; `scene` has view, rowMarks, columnMarks,
   * cursor and chosen (both {row, column} or null), and dark.
   */
  draw(pictures, scene) {
    const context = this.canvas.getContext("2d");
    const { width, height, scale } = this.plot;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width + MARGIN + 1, height + MARGIN + 1);
    this.drawSide(context, scene.columnMarks, scene.view.columns, width, scene.dark);
    context.transform(0, 1, 1, 0, 0, 0); // mirrored: the rows' side is drawn as that of the columns
    this.drawSide(context, scene.rowMarks, scene.view.rows, height, scene.dark);
    context.setTransform(scale, 0, 0, scale, MARGIN * scale, MARGIN * scale);
    context.save();
    context.beginPath();
    context.rect(0, 0, width, height);
    context.clip();
    context.imageSmoothingEnabled = false;
    for (const picture of pictures) this.drawPicture(context, picture, scene.view);
    if (scene.cursor) this.drawCursor(context, scene.cursor, scene.view);
    if (scene.chosen) this.drawChosen(context, scene.chosen, scene.view);
    context.restore();
    context.strokeStyle = scene.dark ? "#8C8C8C" : "#595959";
    context.lineWidth = 1;
    context.strokeRect(-0.5, -0.5, width + 1, height + 1);
  }

  drawPicture(context, picture, view) {
    const left = this.x(picture.columns[0], view);
    const top = this.y(picture.rows[0], view);
    context.drawImage(picture.image, left, top, this.x(picture.columns[1], view) - left, this.y(picture.rows[1], view) - top);
  }

  /** Child (full width) and adult (half width) identities along a side of some length, and marked ones beyond. */
  drawSide(context, marks, span, size, dark) {
    if (marks.n) {
      const places = (span[1] - span[0]) / size;
      let start = 0;
      let shown = null;
      for (let pixel = 0; pixel <= size; pixel++) {
        const shares = pixel < size ? marks.shares(span[0] + pixel * places, span[0] + (pixel + 1) * places) : [NaN, NaN];
        if (shown && shares[0] === shown[0] && shares[1] === shown[1]) continue;
        if (shown) this.drawBand(context, start, pixel, shown, dark);
        [start, shown] = [pixel, shares];
      }
    }
    context.fillStyle = dark ? LIGHT_MARKED : MARKED;
    let last = -Infinity;
    for (const place of marks.marked) {
      const at = (((place + 0.5 - span[0]) / (span[1] - span[0])) * size) | 0;
      if (at < 0 || at >= size || at === last) continue;
      last = at;
      context.beginPath();
      context.moveTo(MARGIN + at - 3, 0);
      context.lineTo(MARGIN + at + 4, 0);
      context.lineTo(MARGIN + at + 0.5, TICKS);
      context.fill();
    }
  }

  drawBand(context, from, to, [children, unlabelled], dark) {
    const parts = [
      [CHILD, BAND * children],
      [UNLABELLED, (BAND / 2) * unlabelled],
      [dark ? LIGHT_ADULT : ADULT, (BAND / 2) * (1 - children - unlabelled)],
    ];
    let bottom = MARGIN - 1;
    for (const [colour, thickness] of parts) {
      context.fillStyle = colour;
      context.fillRect(MARGIN + from, bottom - thickness, to - from, thickness);
      bottom -= thickness;
    }
  }

  drawCursor(context, { row, column }, view) {
    const [left, right] = [this.x(column, view), this.x(column + 1, view)];
    const [top, bottom] = [this.y(row, view), this.y(row + 1, view)];
    context.fillStyle = "rgba(0, 0, 0, 0.45)";
    const [x, y] = [(left + right) / 2, (top + bottom) / 2];
    const { width, height } = this.plot;
    for (const [from, to] of [[0, left - 3], [right + 3, width]]) if (to > from) context.fillRect(from, y - 0.5, to - from, 1);
    for (const [from, to] of [[0, top - 3], [bottom + 3, height]]) if (to > from) context.fillRect(x - 0.5, from, 1, to - from);
    const [w, h] = [Math.max(4, right - left), Math.max(4, bottom - top)];
    outline(context, () => context.rect(x - w / 2, y - h / 2, w, h));
  }

  drawChosen(context, { row, column }, view) {
    const [x, y] = [this.x(column + 0.5, view), this.y(row + 0.5, view)];
    const radius = Math.max(7, 0.75 * (this.x(1, view) - this.x(0, view)));
    outline(context, () => context.arc(x, y, radius, 0, 2 * Math.PI));
  }

  x(column, view) {
    return ((column - view.columns[0]) / (view.columns[1] - view.columns[0])) * this.plot.width;
  }

  y(row, view) {
    return ((row - view.rows[0]) / (view.rows[1] - view.rows[0])) * this.plot.height;
  }
}

const placeOf = ([from, to], share) => from + share * (to - from);

/** A dark line on a light one: seen on every colour of the matrix. */
function outline(context, path) {
  for (const [colour, width] of [["#FFFFFF", 4], ["#1A1A1A", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    path();
    context.stroke();
  }
}
