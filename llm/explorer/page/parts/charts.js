// Small line charts: one figure, one axis of numbers, a mark where the reader is.

import { draw, make } from '../core/dom.js';
import { number } from '../core/format.js';

const SIZE = { width: 640, height: 220, left: 52, right: 24, top: 12, bottom: 34 };

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const out = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) out.push(value);
  return out;
}

/** The numbers of an axis with as many decimals as tell them apart. */
function axisText(value, values, share) {
  const step = values.length > 1 ? values[1] - values[0] : Math.abs(value) || 1;
  const scale = share ? 100 : 1;
  const decimals = Math.max(0, Math.min(6, -Math.floor(Math.log10(step * scale) + 1e-9)));
  return `${(value * scale).toFixed(decimals).replace('-', '−')}${share ? ' %' : ''}`;
}

/**
 * @param series list of {name, colour (a custom property), points: list of [x, y]}
 * @param options title, xName, mark (an x), zero (whether the axis starts at 0), format (of the numbers; other than `number`: they are shares)
 */
export function lineChart(series, { title, xName, mark, zero = false, format = number }) {
  const all = series.flatMap((one) => one.points).filter(([, y]) => Number.isFinite(y));
  if (!all.length) return make('figure', { class: 'chart' }, make('figcaption', {}, title), make('p', { class: 'quiet' }, 'Nothing to draw.'));
  const xs = all.map(([x]) => x);
  const ys = all.map(([, y]) => y);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const low = zero ? Math.min(0, ...ys) : Math.min(...ys);
  const high = Math.max(...ys);
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  const [y0, y1] = [zero ? low : low - pad, high + pad];
  const { width, height, left, right, top, bottom } = SIZE;
  const across = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const up = (y) => height - bottom - ((y - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const picture = draw('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${title}: ${sayEnds(series, format)}` });
  const levels = ticks(y0, y1, 4);
  for (const value of levels) {
    picture.append(draw('line', { class: 'grid', x1: left, x2: width - right, y1: up(value), y2: up(value) }),
      draw('text', { x: left - 6, y: up(value), class: 'tick y' }, axisText(value, levels, format !== number)));
  }
  // Steps, positions and blocks are whole numbers.
  for (const value of x1 > x0 ? ticks(x0, x1, 6).filter(Number.isInteger) : [x0]) {
    picture.append(draw('text', { x: across(value), y: height - bottom + 15, class: 'tick x' }, String(value)));
  }
  picture.append(draw('text', { x: (left + width - right) / 2, y: height - 4, class: 'tick x' }, xName));
  if (mark !== undefined && mark !== null) {
    picture.append(draw('line', { class: 'mark', x1: across(mark), x2: across(mark), y1: top, y2: height - bottom }));
  }
  for (const one of series) {
    const points = one.points.filter(([, y]) => Number.isFinite(y));
    const path = points.map(([x, y]) => `${across(x).toFixed(1)},${up(y).toFixed(1)}`).join(' ');
    picture.append(draw('polyline', { points: path, class: 'line', stroke: `var(--${one.colour})` }));
    if (points.length <= 40) {
      for (const [x, y] of points) {
        picture.append(draw('circle', { cx: across(x), cy: up(y), r: x === mark ? 4.5 : 2.6, fill: `var(--${one.colour})` }));
      }
    }
  }
  const legend = series.length > 1 ? make('ul', { class: 'legend' }, series.map((one) => make('li', {},
    make('span', { class: 'swatch', style: { 'border-color': `var(--${one.colour})` } }), one.name))) : null;
  return make('figure', { class: 'chart' }, make('figcaption', {}, title), picture, legend);
}

function sayEnds(series, format) {
  return series.map((one) => {
    const points = one.points.filter(([, y]) => Number.isFinite(y));
    return points.length ? `${one.name ?? ''} from ${format(points[0][1])} to ${format(points.at(-1)[1])}` : `${one.name ?? ''} nothing`;
  }).join('; ');
}
