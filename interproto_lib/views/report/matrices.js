// What the kernel answers about similarity matrices, from the values that the page holds.

const STEPS = 32767;
const MISSING = -32768;

/** The upper triangle of a symmetric matrix, or all cells of another, as floats; NaN is missing. */
function readValues(bytes, nRows, nColumns) {
  const steps = new Int16Array(bytes.buffer);
  const number = (step) => (step === MISSING ? NaN : step / STEPS);
  if (steps.length === nRows * nColumns && nRows > 1) return Float32Array.from(steps, number);
  const values = new Float32Array(nRows * nColumns);
  let k = 0;
  for (let i = 0; i < nRows; i++) {
    for (let j = i; j < nColumns; j++) values[i * nColumns + j] = values[j * nColumns + i] = number(steps[k++]);
  }
  return values;
}

/** The smallest power of two in which a span of places needs no more blocks than there are pixels. */
function blockSize([from, to], pixels) {
  let block = 1;
  while (Math.ceil(to / block) - Math.floor(from / block) > Math.max(1, pixels)) block *= 2;
  return block;
}

/** The limit of a colour range that holds all but the half percent of largest values, in steps of 0.05. */
function colourLimit(matrices, isOwn) {
  const sizes = matrices.flatMap((values) => Array.from(values.filter((value, k) => !Number.isNaN(value) && !isOwn(k)), Math.abs));
  const sorted = Float32Array.from(sizes).sort();
  if (!sorted.length) return 0.05;
  return Math.max(0.05, Math.ceil(sorted[Math.ceil(0.995 * (sorted.length - 1))] / 0.05 - 1e-6) * 0.05);
}

/** The matrices of a report, of which two runs and their difference are shown. */
class PageMatrices {
  constructor(known) {
    this.known = known;
    this.read = new Map();
    this.kinds = new Uint8Array(known.kinds.buffer);
    this.choice = {
      first: 0,
      second: Math.min(1, known.runs.length - 1),
      cohort: Object.keys(known.cohorts)[0],
      quantity: Object.keys(known.quantities)[0],
      order: "child_share",
    };
  }

  positions(name) {
    return Array.from(new Uint16Array(this.known[name].buffer));
  }

  /** Values of one run for the cohort chosen; prototypes are those of its identities. */
  valuesOf(run) {
    const { quantity, cohort } = this.choice;
    const stored = quantity === "prototypes" ? "all" : cohort;
    const [rows, columns] = [this.positions(`rows ${stored}`), this.positions(`columns ${stored}`)];
    const key = `${quantity} ${stored} ${run}`;
    if (!this.read.has(key)) this.read.set(key, readValues(this.known[key], rows.length, columns.length));
    const all = this.read.get(key);
    if (stored === cohort) return all;
    const places = (side) => side.map((identity) => (side === this.rows ? rows : columns).indexOf(identity));
    const [wantedRows, wantedColumns] = [places(this.rows), places(this.columns)];
    return Float32Array.from(wantedRows.flatMap((i) => wantedColumns.map((j) => all[i * columns.length + j])));
  }

  /** Take up what is chosen: values, and who stands where. */
  take() {
    const { cohort, first, second } = this.choice;
    this.rows = this.positions(`rows ${cohort}`);
    this.columns = this.positions(`columns ${cohort}`);
    const runs = first === second ? [first] : [first, second];
    this.matrices = runs.map((run) => this.valuesOf(run));
    this.titles = runs.map((run) => this.known.runs[run]);
    const width = this.columns.length;
    this.limit = colourLimit(this.matrices, (k) => this.rows[Math.floor(k / width)] === this.columns[k % width]);
    if (runs.length === 2) {
      const [one, other] = this.matrices;
      this.matrices.push(one.map((value, k) => other[k] - value));
      this.titles.push(`${this.titles[1]} − ${this.titles[0]}`);
    }
    this.order();
  }

  /** Let rows and columns stand in the order chosen; `identity` is the one that similarity is measured to. */
  order(identity = null) {
    const byRank = (side, rank) => side.map((_, k) => k).sort((a, b) => rank(a) - rank(b) || a - b);
    if (this.choice.order === "similarity" && identity !== null) {
      const [row, column] = [this.rows.indexOf(identity), this.columns.indexOf(identity)];
      const width = this.columns.length;
      const low = (value) => (Number.isNaN(value) ? Infinity : -value);
      this.rowOrder = column < 0 ? this.rows.map((_, k) => k) : byRank(this.rows, (k) => (k === row ? -Infinity : low(this.matrices[0][k * width + column])));
      this.columnOrder = row < 0 ? this.columns.map((_, k) => k) : byRank(this.columns, (k) => (k === column ? -Infinity : low(this.matrices[0][row * width + k])));
      return;
    }
    const name = this.choice.order === "similarity" ? "child_share" : this.choice.order;
    const rank = new Map(this.positions(`order ${name}`).map((who, place) => [who, place]));
    this.rowOrder = byRank(this.rows, (k) => rank.get(this.rows[k]));
    this.columnOrder = byRank(this.columns, (k) => rank.get(this.columns[k]));
  }

  /** Tell the model of other matrices, or of the same in another order. */
  show(model, areOthers) {
    const bytes = (side, order) => new DataView(Uint8Array.from(order, (k) => this.kinds[side[k]]).buffer);
    const [rowWords, columnWords] = this.known.words[this.choice.cohort];
    model.set({
      titles: this.titles,
      limits: this.titles.map(() => this.limit),
      n_rows: this.rows.length,
      n_columns: this.columns.length,
      row_words: rowWords,
      column_words: columnWords,
      row_kinds: bytes(this.rows, this.rowOrder),
      column_kinds: bytes(this.columns, this.columnOrder),
      cell: [],
    });
    if (areOthers) model.set({ view: {}, matrices_revision: model.get("matrices_revision") + 1 });
    model.set("revision", model.get("revision") + 1);
  }

  answer(model, message, reply) {
    if (message.type === "tiles") this.sendTiles(model, message, reply);
    if (message.type === "describe") this.sendDescription(message, reply);
  }

  sendTiles(model, { number, revision, rows, columns, size }, reply) {
    const [high, wide] = [blockSize(rows, size[0]), blockSize(columns, size[1])];
    const whole = ([from, to], block) => [Math.floor(from / block) * block, Math.ceil(to / block) * block];
    const [rowSpan, columnSpan] = [whole(rows, high), whole(columns, wide)];
    const shape = [(rowSpan[1] - rowSpan[0]) / high, (columnSpan[1] - columnSpan[0]) / wide];
    const pooling = model.get("pooling");
    const codes = this.matrices.map((values) => this.paintBlocks(values, rowSpan[0], columnSpan[0], shape, [high, wide], pooling));
    reply(
      { type: "tiles", number, revision, rows: rowSpan, columns: columnSpan, shape, blocks: [high, wide], pooling },
      codes.map((code) => new DataView(code.buffer)),
    );
  }

  /** Codes of blocks: 0 is missing, 1 to 255 run from -limit to limit. */
  paintBlocks(values, top, left, [height, width], [high, wide], pooling) {
    const codes = new Uint8Array(height * width);
    const single = high === 1 && wide === 1;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        let [sum, count, most] = [0, 0, -Infinity];
        for (let i = top + y * high; i < Math.min(top + (y + 1) * high, this.rows.length); i++) {
          const row = this.rowOrder[i];
          for (let j = left + x * wide; j < Math.min(left + (x + 1) * wide, this.columns.length); j++) {
            const column = this.columnOrder[j];
            const value = values[row * this.columns.length + column];
            if (Number.isNaN(value) || (!single && this.rows[row] === this.columns[column])) continue;
            sum += value;
            count += 1;
            if (value > most) most = value;
          }
        }
        if (!count) continue;
        const shown = pooling === "max" ? most : sum / count;
        codes[y * width + x] = Math.round(Math.max(-1, Math.min(1, shown / this.limit)) * 127) + 128;
      }
    }
    return codes;
  }

  sendDescription({ number, row, column }, reply) {
    const [i, j] = [this.rowOrder[row], this.columnOrder[column]];
    const values = this.matrices.map((matrix) => matrix[i * this.columns.length + j]);
    const text = (identity) => `${this.known.names[identity]} (${this.known.notes[identity]})`;
    reply({
      type: "description",
      number,
      row_text: text(this.rows[i]),
      column_text: text(this.columns[j]),
      values: values.map((value) => (Number.isNaN(value) ? null : value)),
    });
  }

  /** Choose the cell of an identity with itself, or its row, and show what lies around. */
  goTo(model, name) {
    const identity = this.known.names.indexOf(name.trim());
    const row = this.rowOrder.findIndex((k) => this.rows[k] === identity);
    const column = this.columnOrder.findIndex((k) => this.columns[k] === identity);
    if (identity < 0 || (row < 0 && column < 0)) return false;
    const place = [Math.max(row, 0), Math.max(column, 0)];
    const span = (at, n) => [Math.max(0, Math.min(n - 40, at - 20)), Math.max(0, Math.min(n - 40, at - 20)) + Math.min(40, n)];
    model.set({ view: { rows: span(place[0], this.rows.length), columns: span(place[1], this.columns.length) }, cell: place });
    return true;
  }

  /** The inputs above the matrices; in a notebook the kernel makes them. */
  makeControls(model) {
    const bar = document.createElement("div");
    bar.className = "controls";
    const pick = (label, options, key) => {
      const select = document.createElement("select");
      select.append(...options.map(([value, text]) => new Option(text, value)));
      select.value = key === "pooling" ? model.get("pooling") : this.choice[key];
      select.addEventListener("change", () => this.choose(model, key, select.value));
      bar.append(labelled(label, select));
    };
    const runs = this.known.runs.map((name, k) => [k, name]);
    pick("Run", runs, "first");
    pick("against", runs, "second");
    pick("Pairs", Object.entries(this.known.cohorts), "cohort");
    pick("Values of", Object.entries(this.known.quantities), "quantity");
    pick("Order", Object.entries(this.known.orders), "order");
    pick("Large squares show", [["mean", "mean"], ["max", "highest"]], "pooling");
    const field = Object.assign(document.createElement("input"), { type: "text", size: 10, placeholder: "identity" });
    field.addEventListener("change", () => {
      field.setCustomValidity(field.value && !this.goTo(model, field.value) ? `${field.value} is not in this matrix.` : "");
      field.reportValidity();
    });
    bar.append(labelled("Go to", field));
    return bar;
  }

  choose(model, key, value) {
    if (key === "pooling") {
      model.set("pooling", value);
      model.set("revision", model.get("revision") + 1);
      return;
    }
    const cell = model.get("cell");
    const looked = cell.length ? this.rows[this.rowOrder[cell[0]]] : this.rows[this.rowOrder[0]];
    this.choice[key] = key === "first" || key === "second" ? Number(value) : value;
    if (key === "order") this.order(looked);
    else this.take();
    this.show(model, key !== "order");
  }
}

function labelled(text, input) {
  const label = document.createElement("label");
  label.append(`${text} `, input);
  return label;
}

kernels.matrices = (known) => {
  const matrices = new PageMatrices(known);
  return {
    begin: (model) => {
      matrices.take();
      matrices.show(model, true);
    },
    controls: (model) => matrices.makeControls(model),
    answer: (model, message, reply) => matrices.answer(model, message, reply),
  };
};
