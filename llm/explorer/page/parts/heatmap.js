// A map of numbers on a canvas: rows by columns, a cursor that the pointer or the arrow keys move, one line that says
// what is under it. The canvas draws cells as pixels and scales them, so a map of 256 x 256 costs nothing.

import { make } from '../core/dom.js';
import { css, named } from '../core/colours.js';
import { watchScheme } from '../core/scheme.js';

const LABELLED = 12; // pixels a cell needs to carry the name of its token
const TALLEST = 760; // pixels of all rows: 128 of them are flat, but still in sight

/**
 * @param label what the map is, for screen readers
 * @param hover called with (row, column) or (null, null)
 * @param pick called with (row, column) on a click or Enter
 * @returns {node, show(data), point(row, column), end()}; data: {rows, columns, colour(row, column) -> [r, g, b] or null
 *   (nothing there), describe(row, column), rowLabels, columnLabels (lists of text or null), firstRow,
 *   firstColumn, unit (what the numbers at the sides begin with and count by), widest (pixels a cell)}
 */
export function heatmap({ label, hover, pick }) {
  const canvas = make('canvas', { tabindex: 0, role: 'application', 'aria-roledescription': 'map', 'aria-label': label });
  const says = make('p', { class: 'map-says mono', 'aria-live': 'polite' }, '\u00a0');
  const frame = make('div', { class: 'map-frame' }, canvas);
  const node = make('div', { class: 'map' }, frame, says);
  let data = null;
  let place = { left: 0, top: 0, cell: 1, high: 1 };
  let cursor = null;

  function paint() {
    if (!data || !frame.clientWidth) return;
    const sides = data.rowLabels && data.columnLabels;
    const room = frame.clientWidth;
    const wide = Math.min(data.widest ?? 26, (room - 92) / data.columns);
    const labels = Boolean(sides) && wide >= LABELLED;
    const left = labels ? 88 : 30;
    const longest = labels ? Math.min(11, Math.max(...data.columnLabels.map((text) => text.length))) : 0;
    const top = labels ? 16 + longest * 6.2 : 18;
    const cell = Math.min(data.widest ?? 26, (room - left - 2) / data.columns);
    const high = Math.min(cell, TALLEST / data.rows);
    place = { left, top, cell, high };
    const width = Math.ceil(left + cell * data.columns) + 2;
    const height = Math.ceil(top + high * data.rows) + 2;
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext('2d');
    pen.scale(scale, scale);
    paintCells(pen, data, place);
    paintLabels(pen, data, place, labels);
    if (cursor) paintCursor(pen, data, place, cursor);
  }

  function move(row, column, quiet) {
    const before = cursor;
    cursor = row === null ? null : { row, column };
    if (before?.row === cursor?.row && before?.column === cursor?.column) return;
    paint();
    says.textContent = cursor ? data.describe(row, column) : '\u00a0';
    if (!quiet) hover?.(row, column);
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - place.left) / place.cell);
    const row = Math.floor((event.clientY - box.top - place.top) / place.high);
    return data && row >= 0 && column >= 0 && row < data.rows && column < data.columns ? { row, column } : null;
  }

  canvas.addEventListener('pointermove', (event) => {
    const at = under(event);
    if (at) move(at.row, at.column);
  });
  canvas.addEventListener('pointerdown', (event) => {
    const at = under(event);
    if (at) {
      move(at.row, at.column);
      pick?.(at.row, at.column);
    }
  });
  canvas.addEventListener('pointerleave', () => { if (document.activeElement !== canvas) move(null, null); });
  canvas.addEventListener('blur', () => move(null, null));
  canvas.addEventListener('keydown', (event) => {
    if (!data) return;
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const at = cursor ?? { row: data.rows - 1, column: -1 };
    if (by) {
      event.preventDefault();
      move(Math.max(0, Math.min(data.rows - 1, at.row + by[0])), Math.max(0, Math.min(data.columns - 1, at.column + by[1])));
    } else if ((event.key === 'Enter' || event.key === ' ') && cursor) {
      event.preventDefault();
      pick?.(cursor.row, cursor.column);
    }
  });

  const sized = new ResizeObserver(paint);
  sized.observe(frame);
  const unwatch = watchScheme(paint);
  return {
    node,
    show(next) {
      data = next;
      if (cursor && (cursor.row >= data.rows || cursor.column >= data.columns)) cursor = null;
      if (cursor) says.textContent = data.describe(cursor.row, cursor.column);
      paint();
    },
    point(row, column) {
      if (data) move(row, column, true);
    },
    end() {
      sized.disconnect();
      unwatch();
    },
  };
}

function paintCells(pen, data, { left, top, cell, high }) {
  const small = document.createElement('canvas');
  small.width = data.columns;
  small.height = data.rows;
  const brush = small.getContext('2d');
  const image = brush.createImageData(data.columns, data.rows);
  const absent = named('page');
  for (let row = 0; row < data.rows; row += 1) {
    for (let column = 0; column < data.columns; column += 1) {
      const [red, green, blue] = data.colour(row, column) ?? absent;
      image.data.set([red, green, blue, 255], (row * data.columns + column) * 4);
    }
  }
  brush.putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, left, top, cell * data.columns, high * data.rows);
  pen.strokeStyle = css(named('grid'));
  pen.lineWidth = 1;
  if (Math.min(cell, high) >= 9) {
    pen.globalAlpha = 0.55;
    pen.beginPath();
    for (let row = 1; row < data.rows; row += 1) {
      pen.moveTo(left, top + row * high);
      pen.lineTo(left + cell * data.columns, top + row * high);
    }
    for (let column = 1; column < data.columns; column += 1) {
      pen.moveTo(left + column * cell, top);
      pen.lineTo(left + column * cell, top + high * data.rows);
    }
    pen.stroke();
    pen.globalAlpha = 1;
  }
  pen.strokeRect(left - 0.5, top - 0.5, cell * data.columns + 1, high * data.rows + 1);
}

function paintLabels(pen, data, { left, top, cell, high }, labels) {
  pen.fillStyle = css(named('quiet'));
  pen.font = `11px ${getComputedStyle(document.documentElement).getPropertyValue('--mono')}`;
  pen.textBaseline = 'middle';
  const short = (text) => (text.length > 11 ? `${text.slice(0, 10)}…` : text);
  if (labels) {
    pen.textAlign = 'right';
    data.rowLabels.forEach((text, row) => pen.fillText(short(text), left - 6, top + (row + 0.5) * high));
    pen.textAlign = 'left';
    data.columnLabels.forEach((text, column) => {
      pen.save();
      pen.translate(left + (column + 0.5) * cell, top - 6);
      pen.rotate(-Math.PI / 2.6);
      pen.fillText(short(text), 0, 0);
      pen.restore();
    });
    return;
  }
  const every = (side) => [1, 2, 4, 8, 16, 32, 64, 128].find((one) => one * side >= 26) ?? 256;
  pen.textAlign = 'right';
  for (let row = 0; row < data.rows; row += every(high)) {
    pen.fillText(String(row * (data.unit ?? 1) + (data.firstRow ?? 0)), left - 5, top + (row + 0.5) * high);
  }
  pen.textAlign = 'left';
  for (let column = 0; column < data.columns; column += every(cell)) {
    if (column && (data.columns - column) * cell < 20) break; // it would be cut at the edge
    pen.fillText(String(column * (data.unit ?? 1) + (data.firstColumn ?? 0)), left + column * cell, top - 8);
  }
}

function paintCursor(pen, data, { left, top, cell, high }, { row, column }) {
  pen.fillStyle = css(named('text'), 0.1);
  pen.fillRect(left, top + row * high, cell * data.columns, high);
  pen.fillRect(left + column * cell, top, cell, high * data.rows);
  pen.strokeStyle = css(named('text'));
  pen.lineWidth = 1.5;
  pen.strokeRect(left + column * cell - 0.5, top + row * high - 0.5, cell + 1, high + 1);
}
