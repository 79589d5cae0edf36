// A vector as a row of coloured cells: orange below zero, blue above. What it is good for is to see that two vectors
// are alike, or that a few of their numbers are large.

import { make } from '../core/dom.js';
import { largest } from '../core/arrays.js';
import { number } from '../core/format.js';
import { signedColour } from '../core/colours.js';
import { watchScheme } from '../core/scheme.js';

/** @returns {node, show(values, scale), end()}; `scale`: the number that gets the full colour (default: the largest). */
export function barcode(label) {
  const canvas = make('canvas', { class: 'barcode', role: 'img' });
  const says = make('span', { class: 'quiet small number' });
  const node = make('figure', { class: 'barcode-frame' },
    make('figcaption', {}, make('span', {}, label), says), canvas);
  let shown = null;

  function paint() {
    if (!shown) return;
    const { values, scale } = shown;
    canvas.width = values.length;
    canvas.height = 1;
    const pen = canvas.getContext('2d');
    const image = pen.createImageData(values.length, 1);
    values.forEach((value, i) => image.data.set([...signedColour(value / scale), 255], i * 4));
    pen.putImageData(image, 0, 0);
  }

  const unwatch = watchScheme(paint);
  return {
    node,
    show(values, scale = largest(values) || 1) {
      shown = { values, scale };
      const norm = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
      says.textContent = `${values.length} numbers, length ${number(norm)}`;
      canvas.setAttribute('aria-label', `${label}: ${values.length} numbers, Euclidean length ${number(norm)}`);
      paint();
    },
    end: unwatch,
  };
}
