// Prototypes in the plane: one panel a run, linked by hovering, choosing and selecting.

import { element, formatNumber, makeChoice, makeFigureButtons, makeRoot, onThemeChange, readArray, readTheme, watchKernel } from "./frame.js";
import { drawingOrder } from "./marker_picture.js";
import { rowsInPolygon } from "./point_search.js";
import { ScatterPanel } from "./scatter.js";

const [CHILD, ADULT, UNLABELLED] = [[230, 159, 0], [0, 114, 178], [154, 154, 154]];
const LIGHT_ADULT = [52, 148, 212]; // the same blue, lighter: on a dark page
const KIND_COLOURS = [ADULT, CHILD, UNLABELLED]; // in the order of `kinds`: 0 other, 1 child, 2 without an age
const KIND_WORDS = ["other identity", "child identity", "no age"];
const MISSING = 65535; // of a quantised coordinate
const QUANTISED = 65000;
// Nine stops of matplotlib's viridis, from dark to light.
const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]];
const COLOURINGS = {
  kind: { label: "child identities" },
  age_years: { label: "mean age", unit: "years", digits: 1 },
  n_images: { label: "number of images", unit: "images", digits: 0, logarithmic: true },
  confusion: { label: "confusion (highest cosine to another)", unit: "", digits: 2 },
};

/**
 * The table of identities as typed arrays; `confusion` and `confusedWith` hold one row of n after another, one a run. What
 * no picture needs is read when it is first asked for.
 */
function readIdentities(model) {
  const table = {
    kinds: readArray(model, "kinds", Uint8Array),
    age_years: readArray(model, "age_years", Float32Array),
    n_images: readArray(model, "n_images", Float32Array),
    confusion: readArray(model, "confusion", Float32Array),
    confusedWith: readArray(model, "confused_with", Int32Array),
  };
  let [names, rows] = [null, null];
  Object.defineProperty(table, "names", { get: () => (names ??= model.get("names").split("\n")) });
  Object.defineProperty(table, "rowOf", { get: () => (rows ??= new Map(table.names.map((name, row) => [name, row]))) });
  return table;
}

/** Coordinates of one run in the unit square, from the `all` quantised ones of all projections. */
function readPoints(all, start, n) {
  const [x, y] = [new Float32Array(n), new Float32Array(n)];
  for (let i = 0; i < n; i++) {
    const missing = all[start + 2 * i] === MISSING;
    x[i] = missing ? NaN : all[start + 2 * i] / QUANTISED;
    y[i] = missing ? NaN : all[start + 2 * i + 1] / QUANTISED;
  }
  return { x, y };
}

/** 255 colours from low to high, without the end that the page's background swallows; entry 0 is for missing values. */
function makeRamp(dark) {
  const ramp = [UNLABELLED];
  for (let k = 0; k < 255; k++) {
    const share = dark ? 0.22 + (0.78 * k) / 254 : (0.9 * k) / 254;
    const place = share * (VIRIDIS.length - 1);
    const low = Math.min(VIRIDIS.length - 2, Math.floor(place));
    ramp.push(VIRIDIS[low].map((part, c) => Math.round(part + (place - low) * (VIRIDIS[low + 1][c] - part))));
  }
  return ramp;
}

/** The range that colours span: all values but the outermost hundredth at each end. */
function colourRange(values) {
  const known = values.filter((value) => !Number.isNaN(value)).sort();
  if (!known.length) return null;
  const at = (share) => known[Math.round(share * (known.length - 1))];
  return [at(0.01), at(0.99)];
}

function colourIndices(values, range, logarithmic) {
  const scaled = logarithmic ? (value) => Math.log(Math.max(value, 1)) : (value) => value;
  const [low, high] = range.map(scaled);
  const indices = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i])) continue; // 0 is the colour of missing values
    const share = high > low ? (scaled(values[i]) - low) / (high - low) : 0.5;
    indices[i] = 1 + Math.round(254 * Math.max(0, Math.min(1, share)));
  }
  return indices;
}

class ProjectionView {
  constructor(model, el) {
    this.model = model;
    Object.assign(this, makeRoot(el, "Prototypes in the plane"));
    this.identities = readIdentities(model);
    this.n = this.identities.kinds.length;
    this.panels = model.get("runs").map((run, place) => this.#makePanel(run, place));
    this.hover = element("div", { class: "ip-line" });
    this.summary = element("span", { role: "status" });
    this.legend = element("div", { class: "ip-bar" });
    const { buttons, code } = makeFigureButtons(model, this.notice);
    this.root.append(this.#makeControls(buttons), code, this.legend);
    this.root.append(element("div", { class: "ip-panels" }, ...this.panels.map(({ figure }) => figure)));
    this.root.append(this.hover, this.#makeSelectionBar(), this.#makeNumberFields(), this.#makeHelp());
    this.stops = [onThemeChange(() => this.colour()), watchKernel(model, this.root, this.notice)];
    this.#follow();
    this.place();
    this.colour();
    this.mark();
    this.#restoreViews();
    this.choose(model.get("chosen"));
  }

  close() {
    this.stops.forEach((stop) => stop());
    this.panels.forEach(({ panel }) => panel.close());
  }

  #makePanel(run, place) {
    const panel = new ScatterPanel(`Prototypes of ${run}`, {
      hover: (row) => this.showHovered(row, place),
      choose: (row) => this.set("chosen", row),
      select: (rows, event) => this.select(rows, event?.shiftKey ? "add" : null),
      view: (view) => this.#keepView(place, view),
    });
    const title = element("p", { class: "ip-title" }, run);
    return { panel, figure: element("div", {}, title, panel.box) };
  }

  #makeControls(buttons) {
    const { model } = this;
    const bar = element("div", { class: "ip-bar" });
    const projections = model.get("projections").map((name) => [name, name]);
    const colourings = Object.entries(COLOURINGS).map(([key, { label }]) => [key, label]);
    const choices = {
      projection: makeChoice("Projection", projections, model.get("projection"), (value) => this.set("projection", value)),
      colouring: makeChoice("Colour by", colourings, model.get("colouring"), (value) => this.set("colouring", value)),
      tool: makeChoice("Drag to", [["move", "move"], ["lasso", "draw a lasso"], ["rectangle", "draw a rectangle"]], model.get("tool"), (value) => this.set("tool", value)),
    };
    for (const [name, { field, select }] of Object.entries(choices)) {
      bar.append(field);
      model.on(`change:${name}`, () => (select.value = model.get(name)));
    }
    this.byConfusion = choices.colouring.select.querySelector("[value=confusion]");
    this.goTo = element("input", { type: "text", size: 10, "aria-label": "Go to identity", placeholder: "identity", onchange: () => this.#goToName() });
    bar.append(element("label", {}, "Go to", this.goTo), buttons);
    return bar;
  }

  #makeSelectionBar() {
    this.mode = makeChoice("New selection", [["replace", "replaces"], ["add", "adds"], ["remove", "takes away"]], "replace", () => {});
    this.clear = element("button", { type: "button", onclick: () => this.set("selected", []) }, "Clear");
    return element("div", { class: "ip-bar ip-line" }, this.summary, this.mode.field, this.clear);
  }

  #makeNumberFields() {
    const panel = makeChoice("in panel", this.model.get("runs").map((run, place) => [place, run]), 0, () => {});
    const fields = [["left", 0], ["right", 100], ["bottom", 0], ["top", 100]].map(([name, value]) => {
      const input = element("input", { type: "number", min: 0, max: 100, step: "any", value, style: "width:5.5em" });
      return { input, field: element("label", {}, name, input) };
    });
    const apply = () => {
      const outwards = [-1, 1, -1, 1].map((way) => (way * 0.25) / QUANTISED); // a point on an edge is in
      const [left, right, bottom, top] = fields.map(({ input }, side) => Number(input.value) / 100 + outwards[side]);
      const { x, y } = this.panels[Number(panel.select.value)].panel;
      this.select(rowsInPolygon(x, y, [[left, bottom], [right, bottom], [right, top], [left, top]]));
    };
    const bar = element("div", { class: "ip-bar" }, ...fields.map(({ field }) => field), panel.field,
      element("button", { type: "button", onclick: apply }, "Select"));
    return element("details", {}, element("summary", {}, "Select a rectangle by numbers (percent of the plane)"), bar);
  }

  #makeHelp() {
    return element("details", { class: "ip-quiet" }, element("summary", {}, "How to use it, and how not to read it"),
      "Drag to move, turn the wheel to zoom, click to choose; with Shift held, dragging draws a lasso that adds to the " +
      "selection. With the keyboard in a panel: arrows move, + and − zoom, 0 shows all, Enter chooses the identity at the " +
      "cross, Space sets the two corners of a rectangle. Only who is whose neighbour means anything: distances between " +
      "clusters, their sizes and their places do not, and the two panels cannot be compared by place.");
  }

  /** Follow changes of the model, whoever made them. */
  #follow() {
    const { model } = this;
    for (const name of ["projection", "points"]) model.on(`change:${name}`, () => this.place());
    model.on("change:colouring", () => this.colour());
    model.on("change:selected", () => this.mark());
    model.on("change:confusion", () => {
      this.identities = readIdentities(model);
      this.colour();
    });
    model.on("change:tool", () => this.#useTool());
    model.on("change:chosen", () => this.choose(model.get("chosen")));
    this.#useTool();
  }

  #useTool() {
    for (const { panel } of this.panels) panel.tool = this.model.get("tool");
  }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  /** Give the panels the points of the projection chosen. */
  place() {
    const projection = Math.max(0, this.model.get("projections").indexOf(this.model.get("projection")));
    const all = readArray(this.model, "points", Uint16Array);
    this.panels.forEach(({ panel }, run) => {
      const { x, y } = readPoints(all, (projection * this.panels.length + run) * this.n * 2, this.n);
      panel.setPoints(x, y);
    });
  }

  /** Give the panels shapes and colours. */
  colour() {
    const theme = readTheme(this.root);
    this.byConfusion.hidden = this.byConfusion.disabled = !this.identities.confusion.length; // it may come later
    const colouring = this.byConfusion.hidden && this.model.get("colouring") === "confusion" ? "kind" : this.model.get("colouring");
    const shapes = this.identities.kinds;
    const kinds = KIND_COLOURS.map((colour) => (theme.dark && colour === ADULT ? LIGHT_ADULT : colour));
    let [palette, range] = [kinds, null];
    if (colouring !== "kind") {
      palette = makeRamp(theme.dark);
      range = colourRange(this.identities[colouring]) ?? [0, 1];
    }
    let colours = shapes;
    this.panels.forEach(({ panel }, run) => {
      const own = colouring === "confusion"; // all else is the same in every run
      if (range && (own || run === 0)) colours = colourIndices(this.#values(colouring, run), range, COLOURINGS[colouring].logarithmic);
      panel.setMarkers({ shapes, colours, palette, theme });
    });
    this.#drawLegend(colouring, palette, range, kinds);
  }

  /** Mark what is selected in all panels, and say how much it is. */
  mark() {
    const selected = new Uint8Array(this.n);
    for (const row of this.model.get("selected")) selected[row] = 1;
    const order = drawingOrder(this.identities.kinds, selected);
    for (const { panel } of this.panels) panel.setOrder(order);
    this.#tellSelection();
  }

  #values(colouring, run) {
    const values = this.identities[colouring];
    return colouring === "confusion" ? values.subarray(run * this.n, (run + 1) * this.n) : values;
  }

  #drawLegend(colouring, palette, range, kinds) {
    const counts = [0, 0, 0];
    for (const kind of this.identities.kinds) counts[kind] += 1;
    const drawn = range ? kinds.map(() => null) : kinds;
    const parts = [1, 0, 2].filter((kind) => counts[kind]).map((kind) => markerKey(kind, drawn[kind], `${KIND_WORDS[kind]} (${counts[kind].toLocaleString("en")})`));
    if (range) parts.push(rampKey(COLOURINGS[colouring], palette, range));
    this.legend.replaceChildren(...parts);
  }

  #tellSelection() {
    const rows = this.model.get("selected");
    const nChild = rows.filter((row) => this.identities.kinds[row] === 1).length;
    this.clear.disabled = rows.length === 0;
    this.summary.replaceChildren();
    if (!rows.length) return void this.summary.append(element("span", { class: "ip-quiet" }, "Nothing selected."));
    this.summary.append(element("b", {}, `${rows.length.toLocaleString("en")} selected`), ` (${nChild.toLocaleString("en")} child).`);
    if (this.model.get("live")) this.summary.append(" For the next cell: ", element("code", {}, this.model.get("table_call")));
  }

  /** Select rising rows: replace, add or remove, as the choice in the bar says unless told otherwise. */
  select(rows, mode = null) {
    const how = mode ?? this.mode.select.value;
    if (how === "replace") return void this.set("selected", rows);
    const kept = new Set(this.model.get("selected"));
    for (const row of rows) how === "remove" ? kept.delete(row) : kept.add(row);
    this.set("selected", [...kept].sort((a, b) => a - b));
  }

  showHovered(row, place) {
    for (const { panel } of this.panels) if (panel.hovered !== row) panel.setHovered(row);
    const shown = row >= 0 ? row : this.model.get("chosen");
    const text = shown >= 0 ? this.describe(shown) : " ";
    if (this.hover.textContent !== text) this.hover.textContent = text;
  }

  describe(row) {
    const { names, kinds, age_years, n_images, confusion, confusedWith } = this.identities;
    const parts = [names[row], KIND_WORDS[kinds[row]]];
    if (!Number.isNaN(age_years[row])) parts.push(`mean age ${formatNumber(age_years[row], 1)} years`);
    parts.push(`${n_images[row]} images`);
    this.model.get("runs").forEach((run, place) => {
      const at = place * this.n + row;
      if (confusion.length && !Number.isNaN(confusion[at])) parts.push(`${run}: most like ${names[confusedWith[at]]} (${formatNumber(confusion[at], 2)})`);
    });
    return parts.join(" · ");
  }

  choose(row) {
    for (const { panel } of this.panels) panel.setChosen(row);
    this.showHovered(row, 0);
    for (const { panel } of this.panels) panel.setHovered(-1);
    this.goTo.value = row >= 0 ? this.identities.names[row] : "";
  }

  #goToName() {
    const name = this.goTo.value.trim();
    const row = this.identities.rowOf.get(name);
    this.goTo.setCustomValidity(row === undefined && name ? `There is no identity ${name}.` : "");
    this.goTo.reportValidity();
    if (row === undefined) return;
    this.set("chosen", row);
    for (const { panel } of this.panels) panel.centreOn(row);
  }

  #keepView(place, view) {
    const views = [...this.model.get("views")];
    views[place] = [view.x, view.y, view.zoom];
    this.set("views", views);
  }

  #restoreViews() {
    this.model.get("views").forEach((view, place) => {
      if (view?.length === 3) this.panels[place]?.panel.setView({ x: view[0], y: view[1], zoom: view[2] });
    });
  }
}

/** A marker with its meaning; without a colour of its own only the outline, where the colour tells something else. */
function markerKey(kind, colour, text) {
  const shapes = ['<circle cx="7" cy="7" r="4.5"/>', '<path d="M7 1.5 12.5 12h-11z"/>', '<rect x="3" y="3" width="8" height="8"/>'];
  const key = element("span", { class: "ip-field" });
  const paint = colour ? `fill="rgb(${colour})"` : 'fill="none" stroke="currentColor" stroke-width="1.4"';
  key.innerHTML = `<svg width="14" height="14" aria-hidden="true"><g ${paint}>${shapes[kind]}</g></svg>`;
  key.append(text);
  return key;
}

function rampKey({ label, unit, digits, logarithmic }, palette, [low, high]) {
  const colours = [1, 64, 128, 192, 255].map((place) => `rgb(${palette[place]})`).join(",");
  const bar = element("span", { style: `display:inline-block;width:140px;height:12px;background:linear-gradient(90deg,${colours})` });
  const ends = [low, high].map((value) => formatNumber(value, digits));
  return element("span", { class: "ip-field" }, ends[0], bar, `${ends[1]} ${unit}`.trim(), element("span", { class: "ip-quiet" }, `${label}${logarithmic ? ", logarithmic" : ""}`));
}

function render({ model, el }) {
  const view = new ProjectionView(model, el);
  el.projectionView = view; // for tests and measurements
  return () => view.close();
}

export default { render };
