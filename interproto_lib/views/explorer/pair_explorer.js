// Pairs under a threshold that moves: distributions, rates by age, and the hardest pairs, one column a run.
//
// All scores are in the page, sorted within each cohort and class, so an error is counted by bisection.

import { element, makeChoice, makeFigureButtons, makeRoot, readArray, watchKernel } from "./frame.js";
import { countBelow, thresholdOfMatches } from "./pair_counting.js";
import { COHORT_WORDS, RunColumn } from "./score_column.js";
import { ERROR_WORDS, PairList } from "./pair_list.js";

const PAIRS_STYLE = `
.ip-view input[type=range] { width: 100%; margin: 0; accent-color: var(--jp-brand-color1, auto); }
.ip-chart { display: block; width: 100%; touch-action: none; cursor: ew-resize; }
.ip-chart text { fill: currentColor; font-size: 11px; }
.ip-impostor { fill: #9a9a9a; fill-opacity: 0.55; }
.ip-genuine { fill: none; stroke: currentColor; stroke-width: 1.8; }
.ip-threshold { stroke: currentColor; stroke-width: 1.6; stroke-dasharray: 6 3; }
.ip-chosen { stroke: currentColor; stroke-width: 1.3; stroke-dasharray: 1.5 3; }
.ip-axis { stroke: currentColor; stroke-opacity: 0.55; }
.ip-view table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.ip-view :is(th, td) { padding: 2px 7px; text-align: right; border-bottom: 1px solid var(--jp-border-color2, color-mix(in srgb, currentColor 20%, transparent)); white-space: nowrap; }
.ip-view :is(th, td).ip-words { text-align: left; }
.ip-view th { font-weight: 600; }
.ip-view th button { border: 0; background: none; font-weight: 600; padding: 0 2px; min-height: 0; }
.ip-view tr[aria-selected=true], .ip-view tr.ip-shown { background: var(--jp-layout-color2, color-mix(in srgb, currentColor 12%, transparent)); }
.ip-list { max-height: 300px; overflow: auto; border: 1px solid var(--jp-border-color2, GrayText); }
.ip-list thead th { position: sticky; top: 0; background: var(--jp-layout-color1, Canvas); z-index: 1; }
.ip-list tbody tr { cursor: pointer; }
.ip-list tbody tr:hover { background: var(--jp-layout-color2, color-mix(in srgb, currentColor 8%, transparent)); }
.ip-wide { overflow-x: auto; }
.ip-broad > * { flex-basis: 430px; }
.ip-faces { display: flex; gap: 12px; margin: 6px 0; }
.ip-faces img { width: 112px; image-rendering: auto; border: 1px solid var(--jp-border-color2, GrayText); }
.ip-sign { display: inline-block; vertical-align: -2px; margin-right: 5px; }
`;

class PairsView {
  constructor(model, el) {
    this.model = model;
    Object.assign(this, makeRoot(el, "Pairs under a threshold"));
    this.root.prepend(element("style", {}, PAIRS_STYLE));
    this.scores = readArray(model, "scores", Float32Array);
    this.runs = model.get("runs");
    this.sort = { false_match: ["cosine", -1], false_non_match: ["cosine", 1] };
    const { buttons, code } = makeFigureButtons(model, this.notice);
    this.columns = this.runs.map((run, place) => new RunColumn(this, run, place));
    this.details = element("div", { class: "ip-line", role: "status" });
    this.faces = element("div", { class: "ip-faces" });
    this.lists = Object.keys(ERROR_WORDS).map((kind) => new PairList(this, kind));
    this.root.append(this.#makeControls(buttons), code, makeLegend());
    this.root.append(element("div", { class: "ip-panels ip-broad" }, ...this.columns.map(({ box }) => box)));
    this.root.append(this.#makeTableBar(), element("div", { class: "ip-panels ip-broad" }, ...this.lists.map(({ box }) => box)));
    this.root.append(this.details, this.faces);
    this.stops = [watchKernel(model, this.root, this.notice)];
    this.#follow();
    this.load();
  }

  close() {
    this.stops.forEach((stop) => stop());
    this.columns.forEach((column) => column.close());
    cancelAnimationFrame(this.waiting);
  }

  #makeControls(buttons) {
    const { model } = this;
    const cohorts = ["all", ...model.get("cohorts")].map((cohort) => [cohort, COHORT_WORDS[cohort]]);
    const together = [["no", "each by itself"], ["threshold", "to the same cosine"], ["fmr", "to the same false match rate"]];
    const choices = {
      test_set: makeChoice("Test set", model.get("test_sets").map((name) => [name, name]), model.get("test_set"), (value) => this.set("test_set", value)),
      cohort: makeChoice("Show", cohorts, model.get("cohort"), (value) => this.set("cohort", value)),
      together: makeChoice("Thresholds move", together, model.get("together"), (value) => this.set("together", value)),
    };
    const bar = element("div", { class: "ip-bar" });
    for (const [name, { field, select }] of Object.entries(choices)) {
      if (name === "together" && this.runs.length < 2) continue;
      bar.append(field);
      model.on(`change:${name}`, () => (select.value = model.get(name)));
    }
    bar.append(buttons);
    return bar;
  }

  #makeTableBar() {
    const { field, select } = makeChoice("Hardest pairs of", this.runs.map((run) => [run, run]), this.model.get("table_run"), (value) => this.set("table_run", value));
    this.model.on("change:table_run", () => (select.value = this.model.get("table_run")));
    return element("div", { class: "ip-bar ip-line" }, field, element("span", { class: "ip-quiet" }, "A heading sorts; Enter or a click chooses a pair."));
  }

  #follow() {
    this.model.on("change:test_set", () => this.load());
    for (const name of ["cohort", "table_run", "thresholds"]) this.model.on(`change:${name}`, () => this.update());
    this.model.on("change:pair", () => this.showPair());
    this.model.on("msg:custom", (message, buffers) => this.#showFaces(message, buffers));
  }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  get testSet() {
    return this.model.get("test_set");
  }

  get cohort() {
    return this.model.get("cohort");
  }

  /** Take the scores of the test set shown. */
  load() {
    const groups = this.model.get("groups")[this.testSet];
    this.groups = groups.map((cohorts) => cohorts.map(([impostorAt, nImpostor, genuineAt, nGenuine]) => ({
      impostor: this.scores.subarray(impostorAt, impostorAt + nImpostor),
      genuine: this.scores.subarray(genuineAt, genuineAt + nGenuine),
    })));
    const filled = this.groups.flat(2).flatMap(({ impostor, genuine }) => [impostor, genuine]).filter((part) => part.length);
    this.low = Math.floor(Math.min(...filled.map((part) => part[0])) * 20 - 1e-6) / 20;
    this.high = Math.ceil(Math.max(...filled.map((part) => part[part.length - 1])) * 20 + 1e-6) / 20;
    this.impostors = this.groups.map((cohorts) => Float32Array.from(cohorts.flatMap(({ impostor }) => [...impostor])).sort());
    this.update();
    this.showPair();
  }

  /** The groups that the choice of ages shows. */
  shownGroups(run) {
    return this.cohort === "all" ? this.groups[run] : [this.groups[run][this.model.get("cohorts").indexOf(this.cohort)]];
  }

  threshold(run) {
    return this.model.get("thresholds")[this.testSet][run];
  }

  chosenThreshold(run) {
    return this.model.get("chosen_thresholds")[this.testSet][run];
  }

  /** Move the threshold of one run, and those of the others as the choice says. */
  moveThreshold(run, value) {
    if (!Number.isFinite(value)) return;
    const together = this.model.get("together");
    const nMatches = this.impostors[run].length - countBelow(this.impostors[run], value);
    const share = nMatches / Math.max(1, this.impostors[run].length);
    const moved = this.runs.map((_, other) => {
      if (other === run || together === "threshold") return value;
      if (together === "no") return this.threshold(other);
      return thresholdOfMatches(this.impostors[other], Math.round(share * this.impostors[other].length)) ?? value;
    });
    this.model.set("thresholds", { ...this.model.get("thresholds"), [this.testSet]: moved });
    clearTimeout(this.saving); // the kernel is told when the hand rests
    this.saving = setTimeout(() => this.model.save_changes(), 120);
    this.update();
  }

  /** Draw anew at the next frame, however often it is asked before. */
  update() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      const start = performance.now();
      this.columns.forEach((column) => column.draw());
      this.lists.forEach((list) => list.draw());
      this.lastUpdateMs = performance.now() - start;
    });
  }

  choosePair(row, left, right) {
    const run = this.model.get("table_run");
    this.set("pair", { test_set: this.testSet, run, row, left, right });
  }

  showPair() {
    const { test_set: testSet, row, run } = this.model.get("pair");
    const found = testSet === this.testSet ? this.lists.map((list) => list.find(row, run)).find((words) => words) : null;
    this.details.textContent = found ?? "";
    this.faces.replaceChildren();
    this.lists.forEach((list) => list.draw(true));
    if (!found || !this.model.get("live")) return;
    if (this.model.get("show_faces")) this.model.send({ type: "faces", test_set: testSet, row });
    else this.details.append(element("span", { class: "ip-quiet" }, " Pictures are drawn only with show_faces=True."));
  }

  #showFaces(message, buffers) {
    const { test_set: testSet, row, left, right } = this.model.get("pair");
    if (message.type !== "faces" || message.test_set !== testSet || message.row !== row) return;
    this.faces.replaceChildren(...buffers.map((buffer, side) => {
      const image = element("img", { alt: `Picture of ${side ? right : left}` });
      image.src = URL.createObjectURL(new Blob([buffer], { type: "image/png" }));
      image.onload = () => URL.revokeObjectURL(image.src);
      return image;
    }));
  }
}

function makeLegend() {
  const parts = [
    ['<rect y="3" width="22" height="9" class="ip-impostor"/>', "pairs of two people"],
    ['<path d="M0 11V4h22" class="ip-genuine"/>', "pairs of one person"],
    ['<path d="M2 12 9 3M9 12 16 3M16 12 22 4" stroke="#D55E00" stroke-width="2.2"/>', "false matches"],
    ['<path d="M2 3 9 12M9 3 16 12M16 3 22 11" stroke="#D55E00" stroke-width="2.2"/>', "false non-matches"],
    ['<path d="M0 7h22" class="ip-threshold"/>', "threshold"],
    ['<path d="M0 7h14" class="ip-chosen"/><path d="M14 11h8l-4 -7z" fill="currentColor"/>', "chosen by the evaluation"],
  ];
  const note = element("span", { class: "ip-quiet" }, "Grey rates: fewer than 10 errors, mostly chance.");
  return element("div", { class: "ip-bar" }, ...parts.map(([drawing, text]) => {
    const key = element("span", { class: "ip-field" });
    key.innerHTML = `<svg width="22" height="14" aria-hidden="true">${drawing}</svg>`;
    key.append(text);
    return key;
  }), note);
}

function render({ model, el }) {
  const view = new PairsView(model, el);
  el.pairsView = view; // for tests and measurements
  return () => view.close();
}

export default { render };
