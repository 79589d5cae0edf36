// One head's pattern in two models, side by side on one scale.

import { make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { weightColour } from '../core/colours.js';
import { number, tokenText } from '../core/format.js';
import { heatmap } from './heatmap.js';

const SIDE = 128; // tokens

/** @param traces left and right of one text; @returns the node */
export function headInBoth(scope, left, right, leftName, rightName) {
  const maps = [[left, leftName], [right, rightName]].map(([trace, name]) => {
    const map = heatmap({ label: `Pattern in ${name}`, hover: (row, column) => others(map, row, column) });
    scope.also(map.end);
    return { trace, name, map };
  });
  const others = (map, row, column) => maps.filter((one) => one.map !== map).forEach((one) => one.map.point(row, column));
  const title = make('h3');
  const trouble = make('div');
  scope.live(trouble, ['layer', 'head', 'position'], async ({ layer, head, position }, fresh) => {
    title.textContent = `Block ${layer}, head ${head} in both`;
    const first = Math.floor(position / SIDE) * SIDE;
    for (const { trace, map } of maps) {
      const { pattern } = await ofTrace(trace, 'pattern', { layer, head, query: first, key: first, size: SIDE });
      if (!fresh()) return;
      const [rows, columns] = pattern.shape;
      const name = (at) => `${first + at} «${tokenText(trace.tokens[first + at])}»`;
      map.show({
        rows, columns, widest: 18, firstRow: first, firstColumn: first, colour: (row, column) => (column <= row ? weightColour(pattern.at(row, column)) : null),
        describe: (row, column) => `${name(row)} → ${name(column)}: ${number(pattern.at(row, column))}`,
      });
    }
    trouble.replaceChildren();
  });
  return make('div', { class: 'both' }, title, trouble, make('div', { class: 'columns' },
    maps.map(({ name, map }) => make('div', {}, make('p', { class: 'quiet small' }, name), map.node))));
}
