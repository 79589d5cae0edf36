// A long prompt's whole pattern, shrunk: each cell is the largest weight in it. Pressing one moves the window there.

import { make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { weightColour } from '../core/colours.js';
import { number } from '../core/format.js';
import { heatmap } from '../parts/heatmap.js';

const OVERVIEW_SIDE = 256; // pixels, and at most as many cells

/** @param size tokens a side of the window; go(query, key): where its first query and key should be. @returns the node */
export function patternOverview(scope, layerOf, size, go) {
  let cell = 1;
  const first = (index) => Math.floor((index * cell) / size) * size;
  const map = heatmap({ label: 'The whole pattern, shrunk', pick: (row, column) => go(first(row), first(column)) });
  scope.also(map.end);
  const trouble = make('div');
  const node = make('div', { class: 'overview', hidden: true }, make('p', { class: 'quiet small' }, 'The whole prompt; press a place to look there.'), trouble, map.node);
  scope.live(trouble, ['trace', 'head', 'stage'], async ({ trace, head }, fresh) => {
    node.hidden = trace.length <= size;
    if (node.hidden) return;
    const answer = await ofTrace(trace, 'map', { layer: layerOf(), head, size: OVERVIEW_SIDE });
    if (!fresh()) return;
    trouble.replaceChildren();
    cell = answer.cell;
    const [rows, columns] = answer.pattern.shape;
    const span = (index) => `${index * cell} to ${Math.min(trace.length, (index + 1) * cell) - 1}`;
    map.show({
      rows, columns, widest: OVERVIEW_SIDE / columns, unit: cell, colour: (row, column) => (column <= row ? weightColour(answer.pattern.at(row, column)) : null),
      describe: (row, column) => `queries ${span(row)}, keys ${span(column)}: largest weight ${number(answer.pattern.at(row, column))}`,
    });
  });
  return node;
}
