// The hardest pairs of a run as tables that can be sorted and chosen from.

import { element, formatNumber } from "./frame.js";
import { countErrors } from "./pair_counting.js";
import { COHORT_WORDS, cohortSign } from "./score_column.js";

export const ERROR_WORDS = { false_match: "False matches", false_non_match: "False non-matches" };
const PAIR_WORDS = { false_match: "of two people", false_non_match: "of one person" };
const N_LISTED = 50;

/** The hardest pairs of one kind of error, as a table that can be sorted. */
export class PairList {
  constructor(view, kind) {
    Object.assign(this, { view, kind });
    this.columns = { cosine: "cosine", left: "left", left_age: "age", right: "right", right_age: "age", cohort: "ages" };
    this.title = element("p", { class: "ip-title", style: "margin-top:6px" });
    this.body = element("tbody");
    this.headings = Object.entries(this.columns).map(([column, word]) => {
      const button = element("button", { type: "button", onclick: () => this.#sortBy(column) }, word);
      return element("th", { scope: "col", class: ["left", "right", "cohort"].includes(column) ? "ip-words" : "", "data-column": column }, button);
    });
    const table = element("table", { "aria-label": ERROR_WORDS[kind] }, element("thead", {}, element("tr", {}, ...this.headings)), this.body);
    this.box = element("div", {}, this.title, element("div", { class: "ip-list" }, table));
  }

  #sortBy(column) {
    const [before, direction] = this.view.sort[this.kind];
    this.view.sort[this.kind] = [column, before === column ? -direction : 1];
    this.draw();
  }

  #table(run) {
    return this.view.model.get("hardest")[this.view.testSet][this.view.runs.indexOf(run)][this.kind];
  }

  /** Words for a pair, null where it is not in this list. */
  find(row, run) {
    const table = this.#table(run);
    const k = table.row.indexOf(row);
    if (k < 0) return null;
    const side = (name) => `${table[name][k]} (${formatNumber(table[`${name}_age`][k], 1)} years)`;
    return `${side("left")} and ${side("right")}, ${PAIR_WORDS[this.kind]}: cosine ${formatNumber(table.cosine[k], 3)} in ${run}.`;
  }

  draw(always = false) {
    const { view, kind } = this;
    const run = view.model.get("table_run");
    const place = view.runs.indexOf(run);
    const threshold = view.threshold(place);
    const table = this.#table(run);
    const code = view.model.get("cohorts").indexOf(view.cohort);
    const isWrong = (k) => (kind === "false_match" ? table.cosine[k] >= threshold : table.cosine[k] < threshold);
    const rows = [...table.row.keys()].filter((k) => (code < 0 || table.cohort[k] === code) && isWrong(k)).slice(0, N_LISTED);
    const counts = countErrors(view.shownGroups(place), threshold);
    const n = kind === "false_match" ? counts.nFalseMatches : counts.nFalseNonMatches;
    this.title.textContent = `${ERROR_WORDS[kind]}: ${n > rows.length ? `the ${rows.length} hardest of ${n.toLocaleString("en")}` : n}`;
    const [column, direction] = view.sort[kind];
    const key = [view.testSet, run, view.cohort, rows.length, column, direction].join();
    if (key === this.drawn && !always) return;
    this.drawn = key;
    for (const heading of this.headings) {
      const sorted = heading.dataset.column === column;
      heading.setAttribute("aria-sort", sorted ? (direction > 0 ? "ascending" : "descending") : "none");
      heading.firstChild.textContent = this.columns[heading.dataset.column] + (sorted ? (direction > 0 ? " ▲" : " ▼") : "");
    }
    rows.sort((a, b) => direction * compare(table[column][a], table[column][b]) || a - b);
    this.body.replaceChildren(...rows.map((k) => this.#makeRow(table, k)));
    if (!rows.length) this.body.append(element("tr", {}, element("td", { colspan: 6, class: "ip-words ip-quiet" }, "None at this threshold.")));
  }

  #makeRow(table, k) {
    const pair = this.view.model.get("pair");
    const choose = () => this.view.choosePair(table.row[k], table.left[k], table.right[k]);
    const words = element("td", { class: "ip-words" });
    const cohort = this.view.model.get("cohorts")[table.cohort[k]];
    words.innerHTML = cohortSign(cohort);
    words.append(COHORT_WORDS[cohort]);
    const chosen = pair.row === table.row[k] && pair.test_set === this.view.testSet;
    const onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      choose();
      this.body.querySelector("[aria-selected=true]")?.focus();
    };
    return element("tr", { tabindex: 0, "aria-selected": chosen, onclick: choose, onkeydown },
      element("td", {}, formatNumber(table.cosine[k], 3)),
      element("td", { class: "ip-words" }, table.left[k]), element("td", {}, formatNumber(table.left_age[k], 1)),
      element("td", { class: "ip-words" }, table.right[k]), element("td", {}, formatNumber(table.right_age[k], 1)), words);
  }
}

/** Missing values last; numbers by size, names by their numbers and letters. */
function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}
