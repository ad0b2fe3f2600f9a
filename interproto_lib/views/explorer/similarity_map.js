// Similarity matrices side by side, linked: the same part of each, the same order, the same colours.
//
// The page holds no matrix. It asks the model for pictures of what is shown ("tiles") and for the words of one cell
// ("describe"), and draws what comes back. In a notebook the kernel answers; in a page without one any object does that
// has get, set, save_changes, on and send.

import { element, formatNumber, makeFigureButtons, makeRoot, onThemeChange, readArray, readTheme, watchKernel } from "./frame.js";
import { MatrixPanel, SideMarks, paintCodes, readPalette } from "./matrix_panel.js";
import { MatrixView } from "./matrix_view.js";

const STYLE = `
.ip-matrix-panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 6px 14px; }
.ip-matrix-panel { margin: 0; min-width: 0; }
.ip-matrix { display: block; touch-action: none; cursor: crosshair; border-radius: 2px; }
.ip-matrix-panel .ip-title { margin-left: 18px; }
.ip-colourbar { margin: 5px 0 0 18px; }
.ip-gradient { height: 9px; border: 1px solid var(--jp-border-color1, GrayText); }
.ip-gradient-labels { display: flex; justify-content: space-between; font-variant-numeric: tabular-nums; font-size: 12px; }
.ip-gradient-labels span { flex: 1; } .ip-gradient-labels span:nth-child(2) { text-align: center; }
.ip-gradient-labels span:last-child { text-align: right; }
.ip-cell-line { display: grid; grid-template-columns: auto 1fr; gap: 0 10px; min-height: 4.4em; margin-top: 6px; }
.ip-cell-line { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; align-content: start; }
.ip-cell-line > :nth-child(odd) { font-weight: 600; }
.ip-key::before { content: ""; display: inline-block; width: 12px; margin-right: 4px; vertical-align: middle; }
.ip-key-child::before { height: 10px; background: #E69F00; }
.ip-key-adult::before { height: 5px; background: #0072B2; }
.ip-key-none::before { height: 5px; background: #9A9A9A; }
.ip-key-marked::before { width: 0; border: 5px solid transparent; border-top: 7px solid #AA3377; border-bottom: 0; }
.ip-dark .ip-key-adult::before { background: #3494D4; }
.ip-dark .ip-key-marked::before { border-top-color: #DD77AA; }
.ip-unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
`;
const KEYS = "Arrow keys move the cell, with Shift the view; plus, minus and 0 zoom; Enter chooses the cell, Escape lets go.";
const MOST_PIXELS = 480; // asked for along a side: finer blocks would cost time and show nothing more
const OVERVIEW_PIXELS = 256; // of the whole matrix, drawn where the picture of the view has not come yet
const ZOOM_STEP = 1.25;
const SETTLED_MS = 200; // without a movement, then the kernel is told which part is shown
const GIVEN_UP_MS = 8000; // after which a question without an answer no longer holds up the next
const CLICK_PIXELS = 4; // a pointer that moved less has clicked

/** Asks the model for one thing at a time; while it waits, only the newest wish is kept. */
class Asker {
  constructor(model) {
    this.model = model;
    this.number = 0;
    this.waiting = null;
    this.next = null;
  }

  ask(message) {
    if (this.waiting && performance.now() - this.askedAt < GIVEN_UP_MS) {
      this.next = message;
      return;
    }
    this.waiting = { ...message, number: ++this.number };
    this.askedAt = performance.now();
    this.model.send(this.waiting);
  }

  /** Take an answer; returns what was asked, or null where the answer is to something older. */
  answered(message) {
    if (!this.waiting || message.number !== this.waiting.number) return null;
    const asked = this.waiting;
    this.waiting = null;
    if (this.next) {
      const next = this.next;
      this.next = null;
      this.ask(next);
    }
    return asked;
  }

  /** Forget what was asked: its answer is of no use any more. */
  forget() {
    this.waiting = this.next = null;
  }
}

class SimilarityMapView {
  constructor(model, el) {
    this.model = model;
    Object.assign(this, makeRoot(el, "Similarity map"));
    this.root.prepend(element("style", {}, STYLE));
    this.root.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take keys for its own shortcuts
    this.tileAsker = new Asker(model);
    this.overviewAsker = new Asker(model);
    this.cellAsker = new Asker(model);
    this.stops = [];
    this.buildControls();
    this.readMatrices();
    this.listenToModel();
    this.listenToPage();
  }

  // --- what the page holds ---------------------------------------------------------------------------------------

  buildControls() {
    const button = (text, label, onclick) => element("button", { type: "button", "aria-label": label, title: label, onclick }, text);
    this.said = element("span", { class: "ip-quiet", role: "status" });
    const bar = element(
      "div",
      { class: "ip-bar" },
      element(
        "span",
        { class: "ip-field", role: "group", "aria-label": "Zoom" },
        button("−", "Zoom out", () => this.zoom(ZOOM_STEP ** 2)),
        button("+", "Zoom in", () => this.zoom(ZOOM_STEP ** -2)),
        button("Whole matrix", "Show the whole matrix", () => this.move(() => this.view.showWhole())),
      ),
      this.said,
    );
    this.panelBox = element("div", { class: "ip-matrix-panels" });
    this.legend = element("div", { class: "ip-bar ip-quiet", style: "margin: 6px 0 0" });
    this.cellLine = element("div", { class: "ip-cell-line" });
    this.spoken = element("div", { class: "ip-unseen", "aria-live": "polite" });
    this.root.append(bar);
    if (this.model.get("has_figure")) {
      const { buttons, code } = makeFigureButtons(this.model, this.notice);
      bar.append(buttons);
      this.root.append(code);
    }
    this.root.append(this.panelBox, this.legend, this.cellLine, this.spoken);
  }

  /** Read everything about the matrices: after this the old pictures are those of other matrices. */
  readMatrices() {
    const { model } = this;
    const titles = model.get("titles");
    this.view = new MatrixView(model.get("n_rows"), model.get("n_columns"));
    this.view.show(model.get("view"));
    this.paletteBytes = readArray(model, "palette", Uint8Array);
    this.palette = readPalette(this.paletteBytes);
    this.tile = this.overview = null;
    this.cursor = null;
    this.panels = titles.map((title) => new MatrixPanel(title, `Similarity map: ${title}. ${KEYS}`));
    if (this.panels.length) this.panels[0].canvas.tabIndex = 0;
    this.panelBox.replaceChildren(...this.panels.map((panel) => panel.box));
    this.panels.forEach((panel) => this.listenToPanel(panel));
    this.readMarks();
    this.showCell(null);
    this.resize();
  }

  readMarks() {
    const marks = (side) => new SideMarks(readArray(this.model, `${side}_kinds`, Uint8Array), readArray(this.model, `${side}_marks`, Uint32Array));
    this.rowMarks = marks("row");
    this.columnMarks = marks("column");
    const kinds = [this.rowMarks, this.columnMarks].filter((side) => side.n);
    const key = (name, text) => element("span", { class: `ip-key ip-key-${name}` }, text);
    this.legend.replaceChildren(element("span", {}, `Rows: ${this.model.get("row_words")}. Columns: ${this.model.get("column_words")}.`));
    if (kinds.some((side) => side.children[side.n])) this.legend.append(key("child", "child identity"));
    if (kinds.some((side) => side.children[side.n] + side.unlabelled[side.n] < side.n)) this.legend.append(key("adult", "no child identity"));
    if (kinds.some((side) => side.unlabelled[side.n])) this.legend.append(key("none", "no age"));
    const nMarked = this.rowMarks.marked.length;
    if (nMarked || this.columnMarks.marked.length) this.legend.append(key("marked", `selected (${nMarked} rows, ${this.columnMarks.marked.length} columns)`));
    this.chosen = this.readChosen();
  }

  readChosen() {
    const [row, column] = this.model.get("cell") ?? [];
    return row === undefined ? null : { row, column };
  }

  // --- drawing ---------------------------------------------------------------------------------------------------

  resize() {
    const ratio = Math.max(0.5, Math.min(1.6, this.view.nRows / this.view.nColumns));
    const changed = this.panels.map((panel) => panel.resize(ratio)).some(Boolean);
    if (!changed) return;
    this.panels.forEach((panel, k) => panel.showColourBar(this.paletteBytes, this.model.get("limits")[k]));
    this.redraw();
    this.askForTiles();
  }

  /** Draw with the next frame, however often it is asked for before. */
  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    const { view, rowMarks, columnMarks, cursor, chosen } = this;
    const scene = { view, rowMarks, columnMarks, cursor, chosen, dark: this.dark };
    this.panels.forEach((panel, k) => {
      const pictures = [this.overview, this.tile].filter(Boolean).map((tile) => ({ ...tile, image: tile.images[k] }));
      panel.draw(pictures, scene);
    });
    this.root.dispatchEvent(new CustomEvent("interproto:drawn", { bubbles: true }));
  }

  // --- asking and answering --------------------------------------------------------------------------------------

  askForTiles() {
    const { width, height, scale } = this.panels[0]?.plot ?? {};
    if (!width) return;
    const pixels = (size) => Math.min(MOST_PIXELS, Math.round(size * scale));
    this.root.dataset.waiting = "true";
    this.tileAsker.ask({ type: "tiles", revision: this.model.get("revision"), ...this.view.spans(), size: [pixels(height), pixels(width)] });
  }

  askForOverview() {
    const whole = { rows: [0, this.view.nRows], columns: [0, this.view.nColumns] };
    this.overviewAsker.ask({ type: "tiles", revision: this.model.get("revision"), ...whole, size: [OVERVIEW_PIXELS, OVERVIEW_PIXELS] });
  }

  onMessage(message, buffers) {
    if (message.type === "tiles") this.takeTiles(message, buffers);
    if (message.type === "description" && this.cellAsker.answered(message)) this.showCell(message);
    if (message.type === "problem" && message.number) this.giveUp(message);
  }

  /** There is no answer to come; the notice says why. */
  giveUp(message) {
    const askers = message.about === "tiles" ? [this.tileAsker, this.overviewAsker] : [this.cellAsker];
    for (const asker of askers) asker.answered(message);
    if (!this.tileAsker.waiting) this.root.dataset.waiting = "false";
  }

  takeTiles(message, buffers) {
    const wanted = message.revision === this.model.get("revision");
    if (this.overviewAsker.answered(message)) {
      if (wanted) this.overview = this.paint(message, buffers);
      this.redraw();
      return;
    }
    const milliseconds = performance.now() - this.tileAsker.askedAt;
    if (!this.tileAsker.answered(message) || !wanted) return;
    this.tile = this.paint(message, buffers);
    this.describeTile();
    this.redraw();
    if (!this.overview && !this.overviewAsker.waiting) this.askForOverview();
    if (!this.tileAsker.waiting) this.root.dataset.waiting = "false";
    this.root.dispatchEvent(new CustomEvent("interproto:tiles", { bubbles: true, detail: { milliseconds } }));
  }

  paint({ rows, columns, shape, blocks, pooling }, buffers) {
    const images = buffers.map((view) => paintCodes(new Uint8Array(view.buffer, view.byteOffset, view.byteLength), ...shape, this.palette));
    return { images, rows, columns, blocks, pooling };
  }

  /** Say what a coloured square stands for. */
  describeTile() {
    const [high, wide] = this.tile.blocks;
    const single = high === 1 && wide === 1;
    const word = this.tile.pooling === "max" ? "highest" : "mean";
    let text = single ? "Each square is one pair." : `Each square is the ${word} of ${high} × ${wide} pairs.`;
    const progress = this.model.get("progress");
    if (this.model.get("pooling") === "max" && this.tile.pooling === "mean" && !single) {
      text += progress >= 0 ? ` Maxima are being computed (${Math.floor(100 * progress)} %); means until then.` : " Maxima are not computed.";
    }
    if (this.said.textContent !== text) this.said.textContent = text;
  }

  // --- the cell looked at ----------------------------------------------------------------------------------------

  /** Look at a cell of the matrix; `aloud` for people who cannot see where it is. */
  pointAt(row, column, aloud = false) {
    const within = (place, n) => Math.max(0, Math.min(n - 1, Math.floor(place)));
    const cursor = { row: within(row, this.view.nRows), column: within(column, this.view.nColumns) };
    if (this.cursor && cursor.row === this.cursor.row && cursor.column === this.cursor.column) return;
    this.cursor = cursor;
    this.aloud = aloud;
    this.redraw();
    this.cellAsker.ask({ type: "describe", revision: this.model.get("revision"), ...cursor });
  }

  /** Show the words of a cell as they came from the kernel, or how to look at one. */
  showCell(description) {
    const rows = [];
    const line = (name, text) => rows.push(element("span", {}, name), element("span", {}, text));
    if (description) {
      const values = this.model.get("titles").map((title, k) => `${title} ${formatNumber(description.values[k], 3)}`);
      line("Row", description.row_text);
      line("Column", description.column_text);
      line("Similarity", values.join("   ·   "));
      if (this.aloud) this.spoken.textContent = `${description.row_text}; ${description.column_text}; ${values.join("; ")}`;
    } else {
      line("Cell", "Point at a cell to see whose it is; click to choose it. The wheel zooms once the map was clicked, or with Ctrl.");
    }
    this.cellLine.replaceChildren(...rows);
  }

  choose(cell) {
    this.chosen = cell;
    this.model.set("cell", cell ? [cell.row, cell.column] : []);
    this.model.save_changes();
    this.redraw();
  }

  // --- moving ----------------------------------------------------------------------------------------------------

  /** Change the view, draw it with what is there, ask for what is missing, and tell the kernel once it has settled. */
  move(change) {
    change();
    this.redraw();
    this.askForTiles();
    clearTimeout(this.settling);
    this.root.dataset.moving = "true";
    this.settling = setTimeout(() => this.keepView(), SETTLED_MS);
  }

  keepView() {
    this.root.dataset.moving = "false";
    this.model.set("view", this.view.spans());
    this.model.save_changes();
  }

  zoom(factor, row, column) {
    if (row === undefined && this.cursorIsSeen()) [row, column] = [this.cursor.row + 0.5, this.cursor.column + 0.5];
    this.move(() => this.view.zoom(factor, row, column));
  }

  cursorIsSeen() {
    const within = (place, [from, to]) => place >= from && place < to;
    return this.cursor && within(this.cursor.row, this.view.rows) && within(this.cursor.column, this.view.columns);
  }

  // --- what people do --------------------------------------------------------------------------------------------

  listenToPanel(panel) {
    const { canvas } = panel;
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      drag = { x: event.clientX, y: event.clientY, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        this.dragBy(panel, drag, event);
        return;
      }
      const { row, column } = panel.placeAt(event, this.view);
      this.pointAt(row, column);
    });
    canvas.addEventListener("pointerup", (event) => {
      const place = panel.placeAt(event, this.view);
      if (drag && !drag.moved) {
        this.pointAt(place.row, place.column);
        this.choose({ ...this.cursor });
      }
      drag = null;
    });
    canvas.addEventListener("pointercancel", () => (drag = null));
    canvas.addEventListener("dblclick", (event) => {
      const { row, column } = panel.placeAt(event, this.view);
      this.zoom(ZOOM_STEP ** -4, row, column);
    });
    canvas.addEventListener("wheel", (event) => this.onWheel(panel, event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("blur", () => (this.aloud = false));
  }

  dragBy(panel, drag, event) {
    const [right, down] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.moved && Math.hypot(right, down) < CLICK_PIXELS) return;
    Object.assign(drag, { x: event.clientX, y: event.clientY, moved: true });
    this.move(() => this.view.pan(-down / panel.plot.height, -right / panel.plot.width));
  }

  /** The wheel scrolls the page unless the map was clicked before or Ctrl is held. */
  onWheel(panel, event) {
    const focused = this.panels.some(({ canvas }) => canvas === document.activeElement);
    if (!focused && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const { row, column } = panel.placeAt(event, this.view);
    const steps = Math.max(-3, Math.min(3, event.deltaY / (event.deltaMode ? 3 : 100)));
    this.move(() => this.view.zoom(ZOOM_STEP ** steps, row, column));
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const actions = {
      "+": () => this.zoom(1 / ZOOM_STEP),
      "=": () => this.zoom(1 / ZOOM_STEP),
      "-": () => this.zoom(ZOOM_STEP),
      0: () => this.move(() => this.view.showWhole()),
      Enter: () => this.cursor && this.choose({ ...this.cursor }),
      Escape: () => this.choose(null),
    };
    const arrow = arrows[event.key];
    if (arrow && event.shiftKey) this.move(() => this.view.pan(arrow[0] / 4, arrow[1] / 4));
    else if (arrow) this.step(...arrow);
    else if (actions[event.key]) actions[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Look at the next block in a direction; the view follows. */
  step(down, right) {
    const [high, wide] = this.tile?.blocks ?? [1, 1];
    const start = this.cursor ?? { row: Math.floor(this.view.rows[0]) - down * high, column: Math.floor(this.view.columns[0]) - right * wide };
    this.pointAt(start.row + down * high, start.column + right * wide, true);
    this.move(() => this.view.reveal(this.cursor.row, this.cursor.column));
  }

  // --- what the model and the page do ----------------------------------------------------------------------------

  listenToModel() {
    const { model } = this;
    model.on("msg:custom", (message, buffers) => this.onMessage(message, buffers));
    model.on("change:matrices_revision", () => this.readMatrices());
    model.on("change:revision", () => this.refetch());
    model.on("change:view", () => this.takeView());
    for (const name of ["cell", "row_marks", "column_marks", "row_kinds", "column_kinds"]) {
      model.on(`change:${name}`, () => {
        this.readMarks();
        this.redraw();
      });
    }
    model.on("change:progress", () => this.tile && this.describeTile());
    model.on("change:limits", () => {
      this.panels.forEach((panel, k) => panel.showColourBar(this.paletteBytes, model.get("limits")[k]));
    });
    this.stops.push(watchKernel(model, this.root, this.notice));
  }

  /** The pictures are of an order, a pooling or a colour range that is gone; they stay until the new ones come. */
  refetch() {
    this.overview = null;
    for (const asker of [this.tileAsker, this.overviewAsker, this.cellAsker]) asker.forget();
    this.askForTiles();
    if (this.cursor) this.cellAsker.ask({ type: "describe", revision: this.model.get("revision"), ...this.cursor });
  }

  takeView() {
    const wanted = this.model.get("view");
    if (JSON.stringify(wanted) === JSON.stringify(this.view.spans())) return;
    this.view.show(wanted);
    this.redraw();
    this.askForTiles();
  }

  listenToPage() {
    const recolour = () => {
      this.dark = readTheme(this.root).dark;
      this.root.classList.toggle("ip-dark", this.dark);
      this.redraw();
    };
    recolour();
    const observer = new ResizeObserver(() => this.resize());
    observer.observe(this.panelBox);
    this.stops.push(() => observer.disconnect(), onThemeChange(recolour));
  }

  remove() {
    clearTimeout(this.settling);
    cancelAnimationFrame(this.frame);
    this.stops.forEach((stop) => stop());
  }
}

function render({ model, el }) {
  const view = new SimilarityMapView(model, el);
  return () => view.remove();
}

export default { render };
