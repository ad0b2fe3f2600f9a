// One panel of points that can be moved, zoomed and selected from. Points lie in the unit square, y upwards.

import { element } from "./frame.js";
import { MarkerPicture, scaleOf } from "./marker_picture.js";
import { PointGrid, rowsInPolygon } from "./point_search.js";
import { PanelOverlay } from "./panel_overlay.js";

const LARGEST_ZOOM = 400;
const HOVER_RADIUS = 14; // pixels of the page
const KEYBOARD_STEP = 0.08; // of the panel's width
const SIDE_IN_MOTION = 800; // pixels of a panel while it is zoomed: a sharp screen has four times as many as a person then sees

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
    this.picture = new MarkerPicture(this.canvas);
    this.above = new PanelOverlay(`${label}. Arrows move, plus and minus zoom, 0 shows all, Enter takes the identity at the cross, Space sets two corners of a selection, Escape ends it.`);
    this.overlay = this.above.svg;
    this.box = element("div", { style: "position:relative;aspect-ratio:1;width:100%;border:1px solid var(--jp-border-color2, GrayText)" }, this.canvas, this.overlay);
    this.#listen();
    this.resizing = new ResizeObserver(() => this.#resize());
    this.resizing.observe(this.box);
  }

  /** Points (n) in the unit square; NaN where an identity has no place. */
  setPoints(x, y) {
    Object.assign(this, { x, y, sorted: null });
    this.picture.setPoints(x, y);
    this.redraw();
  }

  /** Per point a shape (0 circle, 1 triangle, 2 square) and a colour (index into the palette of [r, g, b]). */
  setMarkers(markers) {
    this.picture.setMarkers(markers);
    this.above.setTheme(markers.theme);
    this.redraw();
  }

  /** Which points are drawn when, as `drawingOrder` gives it. */
  setOrder(order) {
    this.nFaded = order.nFaded;
    this.picture.setOrder(order);
    this.redraw();
  }

  /** The points as they are searched; sorted when first asked for. */
  get grid() {
    return (this.sorted ??= new PointGrid(this.x, this.y));
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

  /** Fit the pixels to the screen; while it is zoomed, and all points are drawn in every frame, to fewer of them. */
  #resize() {
    this.width = this.box.clientWidth;
    if (!this.width) return;
    const sharp = devicePixelRatio || 1;
    this.ratio = this.zooming ? Math.min(sharp, Math.max(1, SIDE_IN_MOTION / this.width)) : sharp;
    const side = Math.round(this.width * this.ratio);
    if (side === this.canvas.width) return;
    [this.canvas.width, this.canvas.height] = [side, side];
    this.redraw();
  }

  #draw() {
    if (!this.ratio) return; // not laid out yet
    const start = performance.now();
    if (!this.picture.draw(this.view, this.ratio)) return;
    this.frames += 1;
    this.lastDrawMs = performance.now() - start;
    this.box.dispatchEvent(new CustomEvent("interproto:drawn", { bubbles: true }));
  }

  #drawOverlay() {
    const place = (row) => (row >= 0 && this.x && !Number.isNaN(this.x[row]) ? this.#toPage(this.x[row], this.y[row]) : null);
    const corners = this.path ?? (this.corner ? rectangle(this.corner, [this.view.x, this.view.y]) : []);
    this.above.draw({
      chosen: place(this.chosen),
      hovered: place(this.hovered),
      corners: corners.map(([x, y]) => this.#toPage(x, y)),
      middle: this.width / 2,
    });
  }

  #scale() {
    return scaleOf(this.width, this.view.zoom);
  }

  /** Pixels of the page, from the panel's corner. */
  #toPage(x, y) {
    const [scale, middle] = [this.#scale(), this.width / 2];
    return [middle + (x - this.view.x) * scale, middle - (y - this.view.y) * scale];
  }

  /** Place in the plane of a pointer's event. */
  #place(event) {
    const box = this.overlay.getBoundingClientRect();
    const scale = scaleOf(box.width, this.view.zoom);
    return [
      this.view.x + (event.clientX - box.left - box.width / 2) / scale,
      this.view.y - (event.clientY - box.top - box.height / 2) / scale,
    ];
  }

  #nearest([x, y]) {
    return this.grid.nearest(x, y, HOVER_RADIUS / this.#scale());
  }

  #setOwnView(view) {
    const inside = (value) => Math.max(0, Math.min(1, value));
    const zoom = Math.max(0.5, Math.min(LARGEST_ZOOM, view.zoom));
    if (zoom !== this.view.zoom && !this.zooming) {
      this.zooming = true;
      this.#resize();
    }
    this.view = { x: inside(view.x), y: inside(view.y), zoom };
    this.redraw();
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.#rest(), 250);
  }

  /** The hand rests: draw sharply, and tell where the view is. */
  #rest() {
    this.zooming = false;
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

function rectangle([x0, y0], [x1, y1]) {
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}
