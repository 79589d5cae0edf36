// One head as a map: queries down, keys across, in windows of 128 x 128, with the scores before and after the mask.

import { make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { signedColour, weightColour } from '../core/colours.js';
import { number, tokenText } from '../core/format.js';
import { change, state } from '../core/store.js';
import { heatmap } from '../parts/heatmap.js';
import { patternOverview } from './pattern_overview.js';

const WINDOW = 128; // tokens a side, as the server cuts and as a static file holds them

const MODES = [['scores', 'Before mask'], ['masked', 'After mask'], ['pattern', 'After softmax']];

/** @param layerOf tells the block. @returns the node */
export function attentionMap(scope, layerOf) {
  let mode = 'pattern';
  let at = null; // the window's first query and key
  const map = heatmap({
    label: 'Attention, queries by keys',
    hover: (row) => change({ lookedAt: row === null || !at ? null : at.query + row }),
    pick: (row) => change({ position: at.query + row }),
  });
  scope.also(map.end);
  scope.also(() => change({ lookedAt: null }));
  const trouble = make('div');
  const overview = patternOverview(scope, layerOf, WINDOW, (query, key) => move({ query, key: Math.min(query, key) }));
  const pager = make('div', { class: 'row middle pager' });
  const buttons = MODES.map(([name, says]) => make('button', {
    type: 'button', on: { click: () => { mode = name; refresh(); } }, 'data-mode': name,
  }, says));
  let last = null;

  function refresh() {
    for (const button of buttons) button.setAttribute('aria-pressed', button.dataset.mode === mode ? 'true' : 'false');
    if (last) map.show(mapData(last, mode));
  }

  async function load(fresh) {
    const { trace, head } = state;
    const answer = await ofTrace(trace, 'pattern', { layer: layerOf(), head, query: at.query, key: at.key, size: WINDOW });
    if (!fresh()) return;
    trouble.replaceChildren();
    last = { ...answer, tokens: trace.tokens };
    refresh();
  }

  const follow = ['trace', 'head', 'stage'];
  scope.live(trouble, follow, ({ trace, position }, fresh) => {
    if (!at || at.query >= trace.length || at.key >= trace.length) at = windowAt(position);
    pages();
    return load(fresh);
  });
  // The window follows the token only when that leaves it, so that looking around stays where it is.
  scope.live(pager, ['position'], ({ position }) => {
    if (at && (position < at.query || position >= at.query + WINDOW)) {
      move(windowAt(position));
    }
  });

  function move(to) {
    at = to;
    pages();
    load(() => scope.open).catch((error) => { trouble.textContent = error.message; });
  }

  function pages() {
    const { length } = state.trace;
    if (length <= WINDOW) {
      pager.replaceChildren();
      return;
    }
    const turn = (name, by) => make('button', {
      type: 'button', disabled: at[name] + by < 0 || at[name] + by >= length || (name === 'key' && at.key + by > at.query),
      'aria-label': `${by < 0 ? 'Earlier' : 'Later'} ${name === 'query' ? 'queries' : 'keys'}`,
      on: { click: () => {
        const to = { ...at, [name]: at[name] + by };
        move({ ...to, key: Math.min(to.key, to.query) });
      } },
    }, by < 0 ? '‹' : '›');
    const until = (first) => Math.min(length, first + WINDOW) - 1;
    pager.replaceChildren(
      make('span', { class: 'quiet small number' }, `queries ${at.query} to ${until(at.query)}`), turn('query', -WINDOW), turn('query', WINDOW),
      make('span', { class: 'quiet small number' }, `keys ${at.key} to ${until(at.key)}`), turn('key', -WINDOW), turn('key', WINDOW));
  }

  refresh();
  return make('div', { class: 'attention-map' },
    make('div', { class: 'segments', role: 'group', 'aria-label': 'What the map shows' }, buttons), overview, pager, trouble, map.node,
    make('p', { class: 'quiet small' }, 'Rows ask, columns answer. Weights: the square root sets the colour. Scores: orange below zero, blue above.'));
}

function windowAt(position) {
  const first = Math.floor(position / WINDOW) * WINDOW;
  return { query: first, key: first };
}

function mapData({ query, key, pattern, scores, visible, tokens }, mode) {
  const [rows, columns] = pattern.shape;
  const seen = (row, column) => (visible ? visible.at(row, column) === 1 : key + column <= query + row);
  let most = 1e-9;
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const score = Math.abs(scores.at(row, column));
      if ((mode === 'scores' || seen(row, column)) && Number.isFinite(score)) most = Math.max(most, score);
    }
  }
  const colour = {
    pattern: (row, column) => (seen(row, column) ? weightColour(pattern.at(row, column)) : null),
    masked: (row, column) => (seen(row, column) ? signedColour(scores.at(row, column) / most) : null),
    scores: (row, column) => signedColour(scores.at(row, column) / most),
  }[mode];
  const name = (at) => tokenText(tokens[at]);
  return {
    rows, columns, colour, firstRow: query, firstColumn: key,
    rowLabels: Array.from({ length: rows }, (_, row) => name(query + row)),
    columnLabels: Array.from({ length: columns }, (_, column) => name(key + column)),
    describe(row, column) {
      const pair = `${query + row} «${name(query + row)}» → ${key + column} «${name(key + column)}»`;
      if (!seen(row, column)) return `${pair}: score ${number(scores.at(row, column))}, hidden by the mask`;
      return `${pair}: score ${number(scores.at(row, column))}, weight ${number(pattern.at(row, column))}`;
    },
  };
}
