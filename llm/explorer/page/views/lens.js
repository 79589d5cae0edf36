// The logit lens: what would the model say if it stopped after this layer? A grid of layers by positions.

import { make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { css, ink, weightColour } from '../core/colours.js';
import { number, percent, tokenText } from '../core/format.js';
import { watchScheme } from '../core/scheme.js';
import { change, state } from '../core/store.js';
import { barList } from '../parts/bars.js';
import { lineChart } from '../parts/charts.js';
import { stageCard } from '../parts/stage_card.js';

const ASKED = 64; // positions a question, as a static file holds them
const CELL = 84; // pixels a position needs

/** @returns the node of the view */
export function lensView(scope) {
  const pager = make('div', { class: 'row middle pager' });
  const grid = make('div', { class: 'lens-scroll' });
  const detail = make('div', { class: 'columns' });
  let fit = 8; // positions that fit the width
  let layer = null; // row whose tokens are listed; null is the last

  const page = () => {
    const start = Math.floor(state.position / ASKED) * ASKED;
    const end = Math.min(start + ASKED, state.trace.length);
    const first = Math.max(start, Math.min(start + Math.floor((state.position - start) / fit) * fit, end - fit));
    return { start, first, last: Math.min(first + fit, end) };
  };
  const ask = () => {
    const { start } = page();
    return ofTrace(state.trace, 'lens', { from: start, to: Math.min(start + ASKED, state.trace.length), count: 5 });
  };

  async function show(fresh) {
    const answer = await ask();
    if (!fresh()) return;
    const { start, first, last } = page();
    const rows = answer.ids.shape[0];
    const focused = grid.contains(document.activeElement);
    const head = make('tr', {}, make('th', { scope: 'col' }, ''), Array.from({ length: last - first }, (_, i) => make('th', {
      scope: 'col', class: first + i === state.position ? 'current mono' : 'mono', title: `position ${first + i}`,
    }, tokenText(state.trace.tokens[first + i]))));
    const body = Array.from({ length: rows }, (_, i) => rows - 1 - i).map((row) => make('tr', {},
      make('th', { scope: 'row', class: 'number' }, rowName(row, rows)),
      Array.from({ length: last - first }, (_, i) => lensCell(answer, row, first + i - start, first + i))));
    grid.replaceChildren(make('table', { class: 'lens', role: 'grid', 'aria-label': 'Most probable next token by layer and position' },
      make('thead', {}, head), make('tbody', {}, body)));
    if (focused) grid.querySelector('[tabindex="0"]')?.focus();
    pager.replaceChildren(...(state.trace.length > last - first ? turns(first, last) : []));
  }

  function lensCell(answer, row, column, position) {
    const probability = answer.probabilities.at(row, column, 0);
    const colour = weightColour(probability);
    const chosen = position === state.position && row === (layer ?? answer.ids.shape[0] - 1);
    const text = answer.texts[answer.ids.at(row, column, 0)] ?? '';
    return make('td', {
      role: 'gridcell', tabindex: chosen ? 0 : -1, class: `mono${chosen ? ' current' : ''}`, style: { background: css(colour), color: ink(colour) },
      'data-row': row, 'data-position': position, title: `${text}  ${percent(probability)}, rank of the final token ${answer.rank.at(row, column)}`,
      'aria-label': `${rowName(row, answer.ids.shape[0])}, position ${position}: ${text}, ${percent(probability)}`,
      on: { click: () => pick(row, position) },
    }, text);
  }

  function pick(row, position) {
    layer = row;
    if (position === state.position) {
      show(() => scope.open);
      explain(() => scope.open);
    } else change({ position });
  }

  function turns(first, last) {
    return [
      make('button', { type: 'button', disabled: first === 0, on: { click: () => change({ position: Math.max(0, first - 1) }) } }, 'Before'),
      make('span', { class: 'quiet number' }, `positions ${first} to ${last - 1} of ${state.trace.length}`),
      make('button', { type: 'button', disabled: last >= state.trace.length, on: { click: () => change({ position: last }) } }, 'After'),
    ];
  }

  async function explain(fresh) {
    const answer = await ask();
    if (!fresh()) return;
    const column = state.position - page().start;
    const rows = answer.ids.shape[0];
    const row = Math.min(layer ?? rows - 1, rows - 1);
    const final = answer.texts[answer.ids.at(rows - 1, column, 0)];
    const along = (array) => Array.from({ length: rows }, (_, i) => [i, array.at(i, column)]);
    const sure = Array.from({ length: rows }, (_, i) => [i, answer.probability.at(i, column)]);
    detail.replaceChildren(
      make('div', {}, make('h3', { class: 'first' }, `${rowName(row, rows)}, after «${tokenText(state.trace.tokens[state.position])}»`),
        barList(Array.from({ length: 5 }, (_, i) => ({
          label: make('span', { class: 'mono' }, answer.texts[answer.ids.at(row, column, i)] ?? ''), value: answer.probabilities.at(row, column, i),
          note: percent(answer.probabilities.at(row, column, i)),
        })), { most: 1, label: 'Most probable there' }),
        make('p', { class: 'quiet small' }, `«${final}», the final choice, has rank ${answer.rank.at(row, column)} there; entropy ${number(answer.entropy.at(row, column))} nats.`)),
      make('div', {}, lineChart([{ name: final, colour: 'series-1', points: sure }], { title: `Probability of «${final}» by layer`, xName: 'layers read', mark: row, zero: true, format: percent }),
        lineChart([{ colour: 'series-2', points: along(answer.entropy) }], { title: 'Entropy by layer, nats', xName: 'layers read', mark: row, zero: true })));
  }

  grid.addEventListener('keydown', (event) => {
    const by = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const cell = event.target.closest?.('td');
    if (!by || !cell) return;
    event.preventDefault();
    const rows = state.trace.norms.residual.shape[0];
    pick(Math.max(0, Math.min(rows - 1, Number(cell.dataset.row) + by[0])), Math.max(0, Math.min(state.trace.length - 1, Number(cell.dataset.position) + by[1])));
  });
  const sized = new ResizeObserver(() => {
    const now = Math.max(3, Math.min(16, Math.floor((grid.clientWidth - 70) / CELL)));
    if (now === fit) return;
    fit = now;
    if (state.trace) show(() => scope.open).catch(() => {});
  });
  sized.observe(grid);
  scope.also(() => sized.disconnect());
  scope.also(watchScheme(() => show(() => scope.open).catch(() => {})));
  scope.live(grid, ['trace', 'position'], (_, fresh) => show(fresh));
  scope.live(detail, ['trace', 'position'], (_, fresh) => explain(fresh));
  return stageCard('Logit lens', 'The final norm and the unembedding, applied to the stream after every block: the most probable next token if the model stopped there. The stronger the colour, the surer.',
    ['lens'], pager, grid, detail);
}

function rowName(row, rows) {
  return row === 0 ? 'input' : `block ${row - 1}${row === rows - 1 && rows < 100 ? ', end' : ''}`;
}
