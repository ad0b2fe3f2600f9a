// Errors of verification at any threshold, counted by bisection in scores that are sorted within each group of pairs.

/** How many of a rising array lie below a value. */
export function countBelow(sorted, value) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Counts and rates of groups of pairs at a threshold; a pair matches when its score >= threshold. */
export function countErrors(groups, threshold) {
  const total = { nGenuine: 0, nImpostor: 0, nFalseMatches: 0, nFalseNonMatches: 0 };
  for (const { impostor, genuine } of groups) {
    total.nGenuine += genuine.length;
    total.nImpostor += impostor.length;
    total.nFalseMatches += impostor.length - countBelow(impostor, threshold);
    total.nFalseNonMatches += countBelow(genuine, threshold);
  }
  const share = (part, whole) => (whole ? part / whole : NaN);
  const { nGenuine, nImpostor, nFalseMatches, nFalseNonMatches } = total;
  const nPairs = nGenuine + nImpostor;
  return {
    ...total,
    accuracy: share(nPairs - nFalseMatches - nFalseNonMatches, nPairs),
    fmr: share(nFalseMatches, nImpostor),
    fnmr: share(nFalseNonMatches, nGenuine),
  };
}

/** The threshold at which as many of rising scores match: the score of the last of them, or just above the highest. */
export function thresholdOfMatches(sorted, nMatches) {
  if (!sorted.length) return null;
  const n = Math.min(nMatches, sorted.length);
  return n ? sorted[sorted.length - n] : sorted[sorted.length - 1] + 1e-6;
}

/** Share of scores in each bin, for areas of one. */
export function density(parts, edges) {
  const counts = new Float64Array(edges.length - 1);
  let n = 0;
  for (const sorted of parts) {
    n += sorted.length;
    let before = 0;
    for (let k = 0; k < counts.length; k++) {
      const below = k + 1 === counts.length ? sorted.length : countBelow(sorted, edges[k + 1]);
      counts[k] += below - before;
      before = below;
    }
  }
  return Array.from(counts, (count) => (n ? count / n : 0));
}
