// A table of pairs of identities: sort by any column, choose a row, export as CSV. No kernel is needed for any of it.

import { element, formatNumber, makeRoot, watchKernel } from "./frame.js";

const STYLE = `
.ip-pairs-scroll { max-height: 17.5em; overflow: auto; border: 1px solid var(--jp-border-color2, GrayText); }
.ip-view table.ip-pairs { border-collapse: collapse; width: 100%; margin: 0; font-size: 12.5px;
  font-variant-numeric: tabular-nums; }
.ip-pairs th { position: sticky; top: 0; background: var(--jp-layout-color2, ButtonFace); padding: 0;
  text-align: right; font-weight: 600; z-index: 1; }
.ip-view .ip-pairs th button { border: 0; background: none; width: 100%; text-align: right; font-weight: 600;
  padding: 3px 8px; }
.ip-view .ip-pairs td { padding: 2px 8px; text-align: right; background: none; overflow-wrap: anywhere; }
.ip-view .ip-pairs .ip-text, .ip-view .ip-pairs .ip-text button { text-align: left; }
.ip-pairs tbody tr { cursor: pointer; border-top: 1px solid var(--jp-border-color3, GrayText); background: none; }
.ip-pairs tbody tr:hover { background: var(--jp-layout-color2, ButtonFace); }
.ip-pairs tbody tr[aria-selected=true] { background: var(--jp-layout-color3, Highlight); font-weight: 600; }
`;

const DIGITS = { value: 3, age: 1, count: 0 };

function render({ model, el }) {
  const { root, notice } = makeRoot(el, "Most confused pairs");
  const caption = element("span", { class: "ip-title" });
  const said = element("span", { class: "ip-quiet", role: "status" });
  const exportButton = element("button", { type: "button", onclick: () => exportTable(model, said) }, "Export as CSV");
  const head = element("thead");
  const body = element("tbody");
  const table = element("table", { class: "ip-pairs" }, head, body);
  const bar = element("div", { class: "ip-bar" }, caption, element("span", { class: "ip-field ip-push" }, said, exportButton));
  root.append(element("style", {}, STYLE), bar, element("div", { class: "ip-pairs-scroll" }, table));

  const choose = (row) => {
    model.set("chosen", row);
    model.save_changes();
  };
  const draw = () => {
    caption.textContent = model.get("caption");
    head.replaceChildren(makeHead(model));
    body.replaceChildren(...sortedRows(model).map((row, place) => makeRow(model, row, place, choose)));
  };
  const mark = () => {
    for (const line of body.rows) line.setAttribute("aria-selected", Number(line.dataset.row) === model.get("chosen"));
  };
  body.addEventListener("keydown", (event) => moveByKey(event, body, choose));
  for (const trait of ["rows", "columns", "sort", "caption"]) model.on(`change:${trait}`, draw);
  model.on("change:chosen", mark);
  draw();
  return watchKernel(model, root, notice);
}

/** The headings; a click sorts by the column, a second one the other way round. */
function makeHead(model) {
  const [sorted, highestFirst] = model.get("sort");
  const line = element("tr");
  for (const [name, heading, kind] of model.get("columns")) {
    const here = name === sorted;
    const sign = here ? (highestFirst ? " ▼" : " ▲") : "";
    const sort = () => {
      model.set("sort", [name, here ? !highestFirst : kind !== "text"]);
      model.save_changes();
    };
    const button = element("button", { type: "button", onclick: sort }, heading + sign);
    const order = here ? (highestFirst ? "descending" : "ascending") : "none";
    line.append(element("th", { scope: "col", "aria-sort": order, class: kind === "text" ? "ip-text" : "" }, button));
  }
  return line;
}

/** Numbers of the rows as they are shown; what is not known stands last either way. */
function sortedRows(model) {
  const [name, highestFirst] = model.get("sort");
  const rows = model.get("rows");
  const column = model.get("columns").findIndex(([each]) => each === name);
  const numbers = [...rows.keys()];
  if (column < 0) return numbers;
  const sign = highestFirst ? -1 : 1;
  return numbers.sort((a, b) => {
    const [x, y] = [rows[a][column], rows[b][column]];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return sign * order || a - b;
  });
}

function makeRow(model, row, place, choose) {
  const chosen = model.get("chosen") === row;
  const attributes = { "data-row": row, tabindex: place === 0 ? 0 : -1, "aria-selected": chosen, onclick: () => choose(row) };
  const line = element("tr", attributes);
  for (const [column, [, , kind]] of model.get("columns").entries()) {
    const value = model.get("rows")[row][column];
    const text = kind === "text" ? value : formatNumber(value, DIGITS[kind]);
    line.append(element("td", { class: kind === "text" ? "ip-text" : "" }, text));
  }
  return line;
}

/** Arrows go from row to row, Enter and space choose. */
function moveByKey(event, body, choose) {
  const line = event.target.closest("tr");
  if (!line) return;
  const lines = [...body.rows];
  const place = lines.indexOf(line);
  const targets = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: lines.length - 1 };
  if (event.key === "Enter" || event.key === " ") choose(Number(line.dataset.row));
  else if (event.key in targets) lines[targets[event.key]]?.focus();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

/** Give the table, in the order shown and with all digits, to the browser as a file. */
function exportTable(model, said) {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = [model.get("columns").map(([name]) => quoted(name))];
  for (const row of sortedRows(model)) {
    lines.push(model.get("rows")[row].map((value) => (value === null ? "" : quoted(String(value)))));
  }
  const text = lines.map((cells) => cells.join(",")).join("\n") + "\n";
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: address, download: model.get("file_name") }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  said.textContent = `Saved as ${model.get("file_name")}.`;
}

export default { render };
