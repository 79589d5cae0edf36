// One token's weights, laid over its text: whom does this token attend to?

import { make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { css, ink, weightColour } from '../core/colours.js';
import { number, tokenText } from '../core/format.js';
import { watchScheme } from '../core/scheme.js';
import { change, state } from '../core/store.js';
import { barList } from '../parts/bars.js';

const AROUND = 160; // tokens of text shown
const WINDOW_SIDE = 128;

/** @param layerOf tells the block. @returns the node */
export function attendsTo(scope, layerOf) {
  const title = make('h3', { class: 'first' });
  const words = make('div', { class: 'chips text', role: 'group', 'aria-label': 'Text with weights' });
  const best = make('div');
  let painted = () => {};
  scope.also(watchScheme(() => painted()));
  const asked = () => state.lookedAt ?? state.position;

  scope.live(best, ['trace', 'position', 'lookedAt', 'head', 'stage'], async ({ trace, head }, fresh) => {
    const query = Math.min(asked(), trace.length - 1);
    const row = await weightsOf(trace, layerOf(), head, query);
    if (!fresh()) return;
    title.replaceChildren('Token ', String(query), ' ', make('span', { class: 'mono asked' }, tokenText(trace.tokens[query])), ' attends to');
    const first = Math.max(0, Math.min(query + 12 - AROUND, trace.length - AROUND));
    const last = Math.min(trace.length, first + AROUND);
    if (words.dataset.of !== `${trace.trace} ${first}`) {
      words.dataset.of = `${trace.trace} ${first}`;
      words.replaceChildren(first ? make('span', { class: 'quiet' }, '… ') : '', ...trace.tokens.slice(first, last).map((token, i) => make('button', {
        type: 'button', class: 'word', 'data-at': first + i, tabindex: -1, on: {
          pointerenter: (event) => { if (event.pointerType === 'mouse') change({ lookedAt: first + i }); },
          pointerleave: () => change({ lookedAt: null }), click: () => change({ position: first + i }),
        },
      }, tokenText(token))));
    }
    painted = () => paintWords(words, row.pattern, query);
    painted();
    change({ shade: row.pattern });
    const order = [...row.pattern.keys()].sort((a, b) => row.pattern[b] - row.pattern[a]).slice(0, 8).filter((at) => row.pattern[at] > 0);
    best.replaceChildren(barList(order.map((at) => ({
      label: make('span', {}, make('span', { class: 'quiet small number' }, `${at} `), make('span', { class: 'mono' }, tokenText(trace.tokens[at]))),
      value: row.pattern[at], note: `${number(row.pattern[at])}  (score ${number(row.scores[at])})`,
    })), { most: 1, label: 'Largest weights' }));
  });
  return make('div', { class: 'attends' }, title, words, make('h3', {}, 'Largest weights'), best);
}

function paintWords(words, weights, query) {
  for (const word of words.querySelectorAll('.word')) {
    const at = Number(word.dataset.at);
    const colour = weightColour(weights[at] ?? 0);
    word.style.background = at <= query || weights[at] > 0 ? css(colour) : 'transparent';
    word.style.color = at <= query || weights[at] > 0 ? ink(colour) : '';
    word.classList.toggle('later', at > query && !(weights[at] > 0));
    word.classList.toggle('query', at === query);
  }
}

/** The row of a query: from the window that the map has, where that is the whole prompt; else asked for. */
async function weightsOf(trace, layer, head, query) {
  if (trace.length <= WINDOW_SIDE) {
    const { pattern, scores } = await ofTrace(trace, 'pattern', { layer, head, query: 0, key: 0, size: WINDOW_SIDE });
    return { pattern: pattern.row(query).values, scores: scores.row(query).values };
  }
  const { pattern, scores } = await ofTrace(trace, 'attends', { layer, position: query });
  return { pattern: pattern.row(head).values, scores: scores.row(head).values };
}
