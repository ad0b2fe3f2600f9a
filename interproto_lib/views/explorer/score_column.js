// One run under a threshold: the distributions of its scores, the threshold's inputs, and the rates by age.

import { element, formatNumber, formatPercent } from "./frame.js";
import { countErrors, density } from "./pair_counting.js";

export const COHORT_WORDS = { all: "all ages", "child-child": "child – child", "child-adult": "child – adult", "adult-adult": "adult – adult", other: "other ages" };
const COHORT_SIGNS = { "child-child": "cc", "child-adult": "ca", "adult-adult": "aa" };
const N_BINS = 60;
const RESOLVED_FROM_ERRORS = 10; // as in the ROC figure: with fewer, a rate is mostly chance
const CHART = { height: 200, left: 14, right: 14, top: 26, bottom: 34 };

/** Distribution, threshold and rates of one run. */
export class RunColumn {
  constructor(view, run, place) {
    Object.assign(this, { view, place });
    this.chart = svg("svg", { class: "ip-chart", height: CHART.height, role: "img" });
    this.slider = element("input", { type: "range", step: "any", "aria-label": `Threshold of ${run}`, oninput: () => this.#move(this.slider.value) });
    this.number = element("input", { type: "number", step: 0.01, style: "width:7em", "aria-label": `Threshold of ${run} as a number`, onchange: () => this.#move(this.number.value) });
    this.reset = element("button", { type: "button", onclick: () => view.moveThreshold(place, view.chosenThreshold(place)) });
    this.slider.addEventListener("keydown", (event) => this.#key(event));
    this.body = element("tbody");
    const headings = ["pairs", "one person", "two people", "accuracy", "FMR", "FNMR"].map((word, k) => element("th", { scope: "col", class: k ? "" : "ip-words" }, word));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...headings)), this.body);
    this.box = element("div", {}, element("p", { class: "ip-title" }, run), this.chart,
      element("div", { style: `padding:0 ${CHART.right - 8}px 0 ${CHART.left - 8}px` }, this.slider),
      element("div", { class: "ip-bar ip-line" }, element("label", {}, "Threshold", this.number), this.reset),
      element("div", { class: "ip-wide ip-line" }, table));
    this.chart.addEventListener("pointerdown", (event) => this.#drag(event));
    this.resizing = new ResizeObserver(() => this.draw());
    this.resizing.observe(this.box);
    this.id = Math.random().toString(36).slice(2); // patterns of one page must have names of their own
  }

  close() {
    this.resizing.disconnect();
  }

  #move(text) {
    if (text !== "") this.view.moveThreshold(this.place, Number(text));
  }

  /** Arrows move by a hundredth, with Shift by a thousandth; the browser's own step of `any` is arbitrary. */
  #key(event) {
    const direction = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    event.stopPropagation();
    const moved = this.view.threshold(this.place) + direction * (event.shiftKey ? 0.001 : 0.01);
    this.view.moveThreshold(this.place, Math.round(1000 * moved) / 1000);
  }

  #drag(event) {
    const follow = ({ clientX }) => {
      const box = this.chart.getBoundingClientRect();
      const share = (clientX - box.left - CHART.left) / (box.width - CHART.left - CHART.right);
      const value = this.view.low + Math.max(0, Math.min(1, share)) * (this.view.high - this.view.low);
      this.view.moveThreshold(this.place, Math.round(1000 * value) / 1000);
    };
    this.chart.setPointerCapture(event.pointerId);
    this.chart.onpointermove = follow;
    this.chart.onpointerup = () => (this.chart.onpointermove = this.chart.onpointerup = null);
    follow(event);
  }

  draw() {
    const { view, place } = this;
    const width = this.box.clientWidth;
    if (!view.groups || !width) return;
    const threshold = view.threshold(place);
    if (this.groups !== view.groups) this.#makeTable();
    if (this.groups !== view.groups || this.cohort !== view.cohort || this.width !== width) this.#drawChart(width);
    Object.assign(this, { groups: view.groups, cohort: view.cohort });
    this.#drawInputs(threshold);
    this.#drawTable(threshold);
    this.#drawThreshold(threshold);
  }

  #drawInputs(threshold) {
    const { view, slider, number, reset } = this;
    Object.assign(slider, { min: view.low, max: view.high, value: threshold });
    slider.setAttribute("aria-valuetext", formatNumber(threshold, 3));
    if (document.activeElement !== number || Math.abs(Number(number.value) - threshold) > 5e-5) number.value = Number(threshold.toFixed(4));
    const chosen = view.chosenThreshold(this.place);
    reset.disabled = chosen === null || chosen === threshold;
    reset.textContent = chosen === null ? "The evaluation chose none" : `Back to the evaluation's ${formatNumber(chosen, 3)}`;
  }

  /** One row a cohort that has pairs; made once a test set, afterwards only the rates are written anew. */
  #makeTable() {
    const { view } = this;
    const cohorts = [["all", view.groups[this.place]], ...view.model.get("cohorts").map((name, k) => [name, [view.groups[this.place][k]]])];
    this.rows = cohorts.filter(([, groups]) => groups.some(({ impostor, genuine }) => impostor.length + genuine.length)).map(([name, groups]) => {
      const words = element("th", { class: "ip-words", scope: "row" });
      words.innerHTML = cohortSign(name);
      words.append(COHORT_WORDS[name]);
      const { nGenuine, nImpostor } = countErrors(groups, 0);
      const numbers = [nGenuine, nImpostor].map((count) => element("td", {}, count.toLocaleString("en")));
      const [accuracy, fmr, fnmr] = ["accuracy", "fmr", "fnmr"].map((rate) => element("td", { "data-rate": rate }));
      return { name, groups, accuracy, fmr, fnmr, row: element("tr", { "data-cohort": name }, words, ...numbers, accuracy, fmr, fnmr) };
    });
    this.body.replaceChildren(...this.rows.map(({ row }) => row));
  }

  #drawTable(threshold) {
    for (const { name, groups, row, accuracy, fmr, fnmr } of this.rows) {
      const of = countErrors(groups, threshold);
      row.className = name === this.view.cohort ? "ip-shown" : "";
      accuracy.textContent = formatPercent(of.accuracy);
      writeRate(fmr, of.fmr, of.nFalseMatches, of.nImpostor);
      writeRate(fnmr, of.fnmr, of.nFalseNonMatches, of.nGenuine);
    }
  }

  #x(score) {
    const { low, high } = this.view;
    return CHART.left + ((score - low) / (high - low)) * (this.width - CHART.left - CHART.right);
  }

  #drawChart(width) {
    this.width = width;
    const { view, chart } = this;
    const edges = Array.from({ length: N_BINS + 1 }, (_, k) => view.low + (k / N_BINS) * (view.high - view.low));
    const groups = view.shownGroups(this.place);
    const [impostor, genuine] = ["impostor", "genuine"].map((kind) => density(groups.map((group) => group[kind]), edges));
    const top = Math.max(...impostor, ...genuine, 1e-9);
    const floor = CHART.height - CHART.bottom;
    const y = (value) => floor - (value / top) * (floor - CHART.top);
    const steps = (values) => values.map((value, k) => `L${this.#x(edges[k]).toFixed(1)} ${y(value).toFixed(1)}L${this.#x(edges[k + 1]).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const area = (values) => `M${this.#x(edges[0])} ${floor}${steps(values)}L${this.#x(view.high)} ${floor}Z`;
    chart.setAttribute("viewBox", `0 0 ${width} ${CHART.height}`);
    this.wrongMatches = svg("rect", { y: 0, height: CHART.height });
    this.wrongRest = svg("rect", { y: 0, height: CHART.height });
    this.line = svg("line", { class: "ip-threshold", y1: CHART.top - 8, y2: floor });
    this.lineText = svg("text", { y: 12 });
    chart.replaceChildren(
      makeHatches(this.id, this.wrongMatches, this.wrongRest),
      svg("path", { class: "ip-impostor", d: area(impostor) }),
      svg("path", { d: area(impostor), fill: `url(#match${this.id})`, "clip-path": `url(#right${this.id})` }),
      svg("path", { d: area(genuine), fill: `url(#miss${this.id})`, "clip-path": `url(#left${this.id})` }),
      svg("path", { class: "ip-genuine", d: `M${this.#x(edges[0])} ${floor}${steps(genuine)}L${this.#x(view.high)} ${floor}` }),
      ...this.#makeAxis(floor), ...this.#makeChosenMark(floor), this.line, this.lineText);
  }

  #makeAxis(floor) {
    const { low, high } = this.view;
    const step = [0.05, 0.1, 0.2, 0.5].find((size) => (high - low) / size <= Math.max(3, this.width / 60)) ?? 1;
    const parts = [svg("line", { class: "ip-axis", x1: CHART.left, x2: this.width - CHART.right, y1: floor, y2: floor })];
    for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high + 1e-9; tick++) {
      const x = this.#x(tick * step);
      parts.push(svg("line", { class: "ip-axis", x1: x, x2: x, y1: floor, y2: floor + 4 }));
      parts.push(svg("text", { x, y: floor + 16, "text-anchor": "middle" }, formatNumber(tick * step, step < 0.1 ? 2 : 1)));
    }
    parts.push(svg("text", { x: this.width / 2, y: CHART.height - 3, "text-anchor": "middle" }, "cosine"));
    return parts;
  }

  #makeChosenMark(floor) {
    const chosen = this.view.chosenThreshold(this.place);
    if (chosen === null) return [];
    const x = this.#x(chosen);
    return [svg("line", { class: "ip-chosen", x1: x, x2: x, y1: CHART.top - 8, y2: floor }), svg("path", { d: `M${x - 4} ${floor + 1}h8l-4 -7z`, fill: "currentColor" })];
  }

  #drawThreshold(threshold) {
    const [start, end] = [CHART.left, this.width - CHART.right];
    const x = Math.max(start, Math.min(end, this.#x(threshold)));
    for (const name of ["x1", "x2"]) this.line.setAttribute(name, x);
    setAll(this.wrongMatches, { x, width: Math.max(0, end - x) });
    setAll(this.wrongRest, { x: start, width: Math.max(0, x - start) });
    setAll(this.lineText, { x: x + (x > this.width - 90 ? -5 : 5), "text-anchor": x > this.width - 90 ? "end" : "start" });
    this.lineText.textContent = `threshold ${formatNumber(threshold, 3)}`;
    const { fmr, fnmr, accuracy } = countErrors(this.view.shownGroups(this.place), threshold);
    const words = COHORT_WORDS[this.view.cohort];
    this.chart.setAttribute("aria-label", `Scores of ${this.view.runs[this.place]}, ${words}: at threshold ${formatNumber(threshold, 3)} accuracy ${formatPercent(accuracy)}, false match rate ${formatPercent(fmr)}, false non-match rate ${formatPercent(fnmr)}.`);
  }
}

/** Write a rate into its cell, in grey where it is made of too few errors; the cell's title has the counts. */
function writeRate(cell, rate, errors, whole) {
  cell.textContent = formatPercent(rate);
  cell.className = errors < RESOLVED_FROM_ERRORS ? "ip-quiet" : "";
  cell.title = `${errors.toLocaleString("en")} of ${whole.toLocaleString("en")}`;
}

/** Hatches of the two kinds of error, leaning to either side, and the rectangles that they are cut to. */
function makeHatches(id, right, left) {
  const hatch = (name, angle) => svg("pattern", { id: name + id, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${angle})` },
    svg("line", { x1: 0, x2: 0, y1: 0, y2: 6, stroke: "#D55E00", "stroke-width": 3 }));
  return svg("defs", {}, hatch("match", 45), hatch("miss", -45), svg("clipPath", { id: `right${id}` }, right), svg("clipPath", { id: `left${id}` }, left));
}

/** Triangles for children and circles for adults, as in the figures. */
export function cohortSign(cohort) {
  const draw = { c: (x) => `<path d="M${x + 5} 1.5 ${x + 10} 11H${x}z" fill="#E69F00"/>`, a: (x) => `<circle cx="${x + 5}" cy="7" r="4.3" fill="#0072B2"/>` };
  const signs = [...(COHORT_SIGNS[cohort] ?? "")];
  return `<svg class="ip-sign" width="23" height="13" aria-hidden="true">${signs.map((sign, k) => draw[sign](12 * k)).join("")}</svg>`;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAll(made, attributes);
  made.append(...children);
  return made;
}

function setAll(target, attributes) {
  for (const [name, value] of Object.entries(attributes)) target.setAttribute(name, value);
}
