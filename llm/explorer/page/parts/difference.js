// Two readings of the same tokens side by side: what each would say next, and where they part.

import { make } from '../core/dom.js';
import { weightColour } from '../core/colours.js';
import { number, percent, points, tokenText } from '../core/format.js';
import { chip } from './chip.js';
import { lineChart } from './charts.js';
import { factList } from './stage_card.js';
import { heatmap } from './heatmap.js';

/**
 * @param answer of /api/comparisons; trace: of the tokens
 * @param names left, right: what the two are called; position; pick(position)
 * @returns list of nodes
 */
export function differenceNodes(answer, trace, { left, right, position, pick }) {
  const most = Math.max(...answer.next.flatMap((row) => [row.left, row.right]), 1e-9);
  const bar = (value, side) => make('span', { class: `pair-bar ${side}`, style: { width: `${(value / most) * 100}%` } });
  return [
    factList([[`Divergence after «${tokenText(trace.tokens[position])}»`, `${number(answer.divergence.values[position])} nats`, `Kullback–Leibler, ${left} to ${right}`],
      ['Entropy', `${number(answer.entropy.left)} → ${number(answer.entropy.right)}`, 'nats'],
      ['Largest change of a logit', number(answer.logit_difference.largest), `mean ${number(answer.logit_difference.mean)}`]]),
    make('div', { class: 'scroll' }, make('table', { class: 'pairs' },
      make('thead', {}, make('tr', {}, make('th', { scope: 'col' }, 'Next token'), make('th', { scope: 'col' }, make('span', { class: 'key left' }), left, '  ', make('span', { class: 'key right' }), right),
        [left, right, 'change'].map((name) => make('th', { scope: 'col', class: 'number' }, name)))),
      make('tbody', {}, answer.next.map((row) => make('tr', {}, make('th', { scope: 'row' }, chip(row.token)),
        make('td', { class: 'pair-track', 'aria-hidden': 'true' }, bar(row.left, 'left'), bar(row.right, 'right')),
        make('td', { class: 'number' }, percent(row.left)), make('td', { class: 'number' }, percent(row.right)),
        make('td', { class: `number ${row.right > row.left ? 'up' : 'down'}` }, points(row.right - row.left))))))),
    lineChart([{ name: 'divergence', colour: 'series-1', points: [...answer.divergence.values].map((value, at) => [at, value]) }],
      { title: 'Divergence along the prompt, nats', xName: 'position', mark: position, zero: true }),
    answer.divergence.values.length > 1 ? make('p', { class: 'small' }, 'They part most after ', mostApart(answer.divergence.values).map((at) => chip(trace.tokens[at], {
      pick: () => pick(at), note: `${at}: ${number(answer.divergence.values[at], 2)}`,
    }))) : null,
  ].filter(Boolean);
}

function mostApart(values) {
  return [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, 5).filter((at) => values[at] > 0);
}

/** Maps of how far the two models' insides are apart: residual streams, and patterns where their shapes agree. */
export function insideMaps(scope, answer, trace, pick) {
  const nodes = [];
  if (answer.residual_cosine) {
    const [rows, columns] = answer.residual_cosine.shape;
    const map = heatmap({ label: 'Distance of residual streams by layer and position', pick: (row, column) => pick({ position: column }) });
    scope.also(map.end);
    nodes.push(make('div', {}, make('h3', {}, 'Residual streams: 1 − cosine'), map.node, make('p', { class: 'quiet small' }, 'Layers down (the input first), positions across.')));
    map.show({
      rows, columns, widest: 22, colour: (row, column) => weightColour(1 - answer.residual_cosine.at(row, column)),
      describe: (row, column) => `${row ? `block ${row - 1}` : 'input'}, ${column} «${tokenText(trace.tokens[column])}»: cosine ${number(answer.residual_cosine.at(row, column))}, length × ${number(answer.residual_ratio.at(row, column))}`,
    });
  }
  if (answer.pattern_distance) {
    const [rows, columns] = answer.pattern_distance.shape;
    const map = heatmap({ label: 'Distance of attention patterns by block and head', pick: (layer, head) => pick({ layer, head }) });
    scope.also(map.end);
    nodes.push(make('div', {}, make('h3', {}, 'Attention patterns: mean total variation'), map.node, make('p', { class: 'quiet small' }, 'Blocks down, heads across. Press a cell to see that head in both.')));
    map.show({
      rows, columns, widest: 40, colour: (row, column) => weightColour(answer.pattern_distance.at(row, column)),
      describe: (row, column) => `block ${row}, head ${column}: ${number(answer.pattern_distance.at(row, column))}`,
    });
  }
  return nodes;
}
