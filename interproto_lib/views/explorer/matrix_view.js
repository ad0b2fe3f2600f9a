// Which part of a matrix is shown: spans of places along its rows and columns, and how they move.

const FEWEST = 6; // places that a side shows at the highest zoom

/** The part of an n x m matrix that is shown; `rows` and `columns` are [from, to] in places, which may be fractions. */
export class MatrixView {
  constructor(nRows, nColumns) {
    this.nRows = nRows;
    this.nColumns = nColumns;
    this.showWhole();
  }

  showWhole() {
    this.rows = [0, this.nRows];
    this.columns = [0, this.nColumns];
  }

  /** Take spans from elsewhere; what is no view of this matrix shows the whole. */
  show(spans) {
    const valid = (span) => Array.isArray(span) && span.length === 2 && span.every(Number.isFinite) && span[0] < span[1];
    if (!spans || !valid(spans.rows) || !valid(spans.columns)) return this.showWhole();
    this.rows = keepWithin([...spans.rows], this.nRows);
    this.columns = keepWithin([...spans.columns], this.nColumns);
  }

  /** The spans as plain numbers, to be kept or compared. */
  spans() {
    return { rows: [...this.rows], columns: [...this.columns] };
  }

  /** Show `factor` times as many places a side; the given place keeps where it is on the screen. */
  zoom(factor, row = middle(this.rows), column = middle(this.columns)) {
    this.rows = zoomSpan(this.rows, factor, row, this.nRows);
    this.columns = zoomSpan(this.columns, factor, column, this.nColumns);
  }

  /** Move by shares of what is shown: 1 is a whole height or width. */
  pan(down, right) {
    this.rows = moveSpan(this.rows, down * length(this.rows), this.nRows);
    this.columns = moveSpan(this.columns, right * length(this.columns), this.nColumns);
  }

  /** Move as little as needed for a cell to be seen. */
  reveal(row, column) {
    this.rows = revealPlace(this.rows, row, this.nRows);
    this.columns = revealPlace(this.columns, column, this.nColumns);
  }

  isWhole() {
    return length(this.rows) >= this.nRows && length(this.columns) >= this.nColumns;
  }
}

const length = ([from, to]) => to - from;
const middle = ([from, to]) => (from + to) / 2;

function keepWithin([from, to], n) {
  const size = Math.min(n, Math.max(Math.min(FEWEST, n), to - from));
  const start = Math.max(0, Math.min(n - size, from));
  return [start, start + size];
}

function zoomSpan(span, factor, place, n) {
  const size = Math.min(n, Math.max(Math.min(FEWEST, n), length(span) * factor));
  const share = (place - span[0]) / length(span);
  return keepWithin([place - share * size, place + (1 - share) * size], n);
}

const moveSpan = ([from, to], by, n) => keepWithin([from + by, to + by], n);

function revealPlace(span, place, n) {
  if (place < span[0]) return moveSpan(span, place - span[0], n);
  if (place + 1 > span[1]) return moveSpan(span, place + 1 - span[1], n);
  return span;
}
