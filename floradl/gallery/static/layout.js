// Justified rows: where each tile of a view stands, from the shapes alone. Pure; 100,000 tiles take some ten milliseconds.

/** The narrowest and widest shape that a tile has; what is beyond is cropped in the grid. */
export const SHAPES = { least: 0.5, most: 2.6 };

/**
 * @typedef {{top: number, height: number, first: number, last: number}} Row from its first tile to before its last
 * @typedef {{day: string | null, count: number, top: number, height: number, first: number, firstRow: number, lastRow: number}} Day
 * @typedef {{days: Day[], rows: Row[], x: Float32Array, width: Float32Array, rowOf: Uint32Array, height: number}} Layout
 */

/**
 * Lay out days one below the other.
 * @param {{day: string | null, ratios: number[], fresh?: number}[]} days ratios: 100 times width by height; `fresh`: how many of the
 *   first came lately, and have rows of their own, so that all others stay in theirs
 * @param {{width: number, row: number, gap: number, heading: number, between: number}} sizes in CSS pixels: `row` is the
 *   height that rows should have, `heading` a day's, `between` the space after a day
 * @returns {Layout}
 */
export function justify(days, sizes) {
  const total = days.reduce((sum, day) => sum + day.ratios.length, 0);
  const layout = {
    days: [], rows: [], x: new Float32Array(total), width: new Float32Array(total), rowOf: new Uint32Array(total), height: 0,
  };
  let first = 0;
  for (const { day, ratios, fresh = 0 } of days) {
    const top = layout.height;
    const firstRow = layout.rows.length;
    let end = placeRows(layout, ratios, { first, from: 0, to: fresh }, top + sizes.heading, sizes);
    end = placeRows(layout, ratios, { first, from: fresh, to: ratios.length }, end, sizes) - sizes.gap;
    layout.days.push({
      day, count: ratios.length, top, height: end - top, first, firstRow, lastRow: layout.rows.length,
    });
    layout.height = end + sizes.between;
    first += ratios.length;
  }
  return layout;
}

// Place the tiles `from` to before `to` of a day whose first tile has the number `first`; gives where the next row would begin.
function placeRows(layout, ratios, { first, from, to }, top, sizes) {
  let start = from;
  let sum = 0;
  let y = top;
  for (let at = from; at <= to; at += 1) {
    const shape = at < to ? clamped(ratios[at]) : 0;
    const full = sum > 0 && heightOf(sum, at - start, sizes);
    // A row ends before the tile that would make it lower than wanted, by more than it is now higher.
    const ends = at === to
      || (full && full <= sizes.row * 1.6 && sizes.row - heightOf(sum + shape, at - start + 1, sizes) > full - sizes.row);
    if (ends && at > start) {
      const height = at === to ? Math.min(full, sizes.row * 1.15) : full;
      placeRow(layout, ratios, { start, end: at, first, top: y, height }, sizes);
      y += height + sizes.gap;
      start = at;
      sum = 0;
    }
    sum += shape;
  }
  return y;
}

function placeRow(layout, ratios, row, sizes) {
  let x = 0;
  for (let at = row.start; at < row.end; at += 1) {
    const width = clamped(ratios[at]) * row.height;
    layout.x[row.first + at] = x;
    layout.width[row.first + at] = Math.min(width, sizes.width - x);
    layout.rowOf[row.first + at] = layout.rows.length;
    x += width + sizes.gap;
  }
  layout.rows.push({
    top: row.top, height: row.height, first: row.first + row.start, last: row.first + row.end,
  });
}

const clamped = (ratio) => Math.min(SHAPES.most, Math.max(SHAPES.least, (ratio || 100) / 100));

const heightOf = (sum, tiles, sizes) => (sizes.width - (tiles - 1) * sizes.gap) / sum;

/** The number of the first row that ends below `y`; the number of rows where none does. @param {Layout} layout @param {number} y */
export function rowAt(layout, y) {
  return search(layout.rows.length, (at) => layout.rows[at].top + layout.rows[at].height > y);
}

/** The number of the day of a row. @param {Layout} layout @param {number} row */
export function dayOf(layout, row) {
  return search(layout.days.length, (at) => layout.days[at].lastRow > row);
}

/** The smallest number below `end` for which `holds`, which goes on to hold; else `end`. @param {number} end @param {(at: number) => boolean} holds */
export function search(end, holds) {
  let low = 0;
  let high = end;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The tile in the next row, up (-1) or down (1), that is nearest below or above tile `from`. @param {Layout} layout @param {number} from @param {1 | -1} step */
export function neighbour(layout, from, step) {
  const row = layout.rows[layout.rowOf[from] + step];
  if (!row) return from;
  const centre = layout.x[from] + layout.width[from] / 2;
  let best = row.first;
  for (let at = row.first; at < row.last; at += 1) {
    const distance = (tile) => Math.abs(layout.x[tile] + layout.width[tile] / 2 - centre);
    if (distance(at) < distance(best)) best = at;
  }
  return best;
}
