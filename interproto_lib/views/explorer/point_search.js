// Which of many points is nearest to a place, and which lie inside a polygon.

const BANDS = 256;

/** Points sorted into square cells, so that the nearest one is found among a few. */
export class PointGrid {
  constructor(x, y) {
    this.x = x;
    this.y = y;
    this.side = Math.max(4, Math.min(512, Math.ceil(Math.sqrt(x.length / 3))));
    const cells = new Int32Array(x.length);
    this.starts = new Int32Array(this.side * this.side + 1);
    for (let i = 0; i < x.length; i++) {
      cells[i] = Number.isNaN(x[i]) ? -1 : this.#cell(y[i]) * this.side + this.#cell(x[i]);
      if (cells[i] >= 0) this.starts[cells[i] + 1] += 1;
    }
    for (let c = 0; c < this.side * this.side; c++) this.starts[c + 1] += this.starts[c];
    this.rows = new Int32Array(this.starts[this.side * this.side]);
    const next = this.starts.slice();
    for (let i = 0; i < x.length; i++) if (cells[i] >= 0) this.rows[next[cells[i]]++] = i;
  }

  #cell(coordinate) {
    return Math.max(0, Math.min(this.side - 1, Math.floor(coordinate * this.side)));
  }

  /** Row of the point nearest to a place, -1 where none is within the radius; all in units of the plane. */
  nearest(x, y, radius) {
    let best = -1;
    let smallest = radius * radius;
    for (let row = this.#cell(y - radius); row <= this.#cell(y + radius); row++) {
      for (let column = this.#cell(x - radius); column <= this.#cell(x + radius); column++) {
        const cell = row * this.side + column;
        for (let k = this.starts[cell]; k < this.starts[cell + 1]; k++) {
          const i = this.rows[k];
          const distance = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
          if (distance <= smallest) [best, smallest] = [i, distance];
        }
      }
    }
    return best;
  }
}

/** Rows of the points inside a polygon of [x, y] corners (even-odd rule); a line drawn by hand has hundreds of them. */
export function rowsInPolygon(x, y, corners) {
  const [xs, ys] = [corners.map((c) => c[0]), corners.map((c) => c[1])];
  const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const bandOf = (height) => Math.min(BANDS - 1, Math.floor(((height - bottom) / (top - bottom)) * BANDS));
  const bands = Array.from({ length: BANDS }, () => []); // edges, by the heights that they cross
  for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
    for (let band = bandOf(Math.min(ys[a], ys[b])); band <= bandOf(Math.max(ys[a], ys[b])); band++) bands[band].push([xs[a], ys[a], xs[b], ys[b]]);
  }
  const found = [];
  for (let i = 0; i < x.length; i++) {
    if (!(x[i] >= left && x[i] <= right && y[i] >= bottom && y[i] < top)) continue;
    let inside = false;
    for (const [xa, ya, xb, yb] of bands[bandOf(y[i])]) {
      if (ya > y[i] !== yb > y[i] && x[i] < ((xb - xa) * (y[i] - ya)) / (yb - ya) + xa) inside = !inside;
    }
    if (inside) found.push(i);
  }
  return found;
}
