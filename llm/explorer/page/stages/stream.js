// The residual stream after all blocks: how long its vector has grown, and the final norm that brings it back to size.

import { make, put } from '../core/dom.js';
import { weightColour } from '../core/colours.js';
import { number, tokenText } from '../core/format.js';
import { change, model, state } from '../core/store.js';
import { lineChart } from '../parts/charts.js';
import { heatmap } from '../parts/heatmap.js';
import { factList, stageCard } from '../parts/stage_card.js';

const ACROSS = 128; // positions shown at once

/** @returns the node of the stage */
export function streamStage(scope) {
  const body = make('div');
  let first = 0;
  const map = heatmap({ label: 'Length of the residual stream by block and position', pick: (row, column) => change({ position: first + column }) });
  scope.also(map.end);
  scope.live(body, ['trace', 'position'], ({ trace, position }) => {
    const { residual, attention, feed_forward: forward } = trace.norms;
    const rows = residual.shape[0];
    const along = (array) => Array.from({ length: array.shape[0] }, (_, row) => [row, array.at(row, position)]);
    const after = (array) => along(array).map(([row, value]) => [row + 1, value]);
    put(body, factList([['Enters the first block', number(residual.at(0, position)), 'length'], ['Leaves the last', number(residual.at(rows - 1, position)), 'length'],
      ['The final norm', model().norm, 'then times a learned scale']]),
    make('div', { class: 'columns' },
      lineChart([{ name: 'stream', colour: 'series-2', points: along(residual) }, { name: 'added by attention', colour: 'series-1', points: after(attention) },
        ...(model().feed_forward_width ? [{ name: 'added by feed-forward', colour: 'series-3', points: after(forward) }] : [])],
      { title: `Lengths at «${tokenText(trace.tokens[position])}»`, xName: 'blocks read', zero: true }),
      make('div', {}, make('h3', { class: 'first' }, 'Length of the stream at every token'), map.node,
        make('p', { class: 'quiet small' }, 'Blocks down (the input first), tokens across; each row against its own largest.'))));
    first = Math.floor(position / ACROSS) * ACROSS;
    const columns = Math.min(ACROSS, trace.length - first);
    const most = Array.from({ length: rows }, (_, row) => {
      let high = 1e-9;
      for (let column = 0; column < columns; column += 1) high = Math.max(high, residual.at(row, first + column));
      return high;
    });
    map.show({
      rows, columns, widest: 20, firstColumn: first, colour: (row, column) => weightColour((residual.at(row, first + column) / most[row]) ** 2),
      describe: (row, column) => `${row ? `after block ${row - 1}` : 'input'}, ${first + column} «${tokenText(state.trace.tokens[first + column])}»: ${number(residual.at(row, first + column))}`,
    });
  });
  return stageCard('Residual stream and final norm', 'Each block read the stream and added to it. What is left at the end goes through one last norm: only the direction of the vector, not its length, speaks for a next token.',
    ['residual', 'final_norm'], body);
}
