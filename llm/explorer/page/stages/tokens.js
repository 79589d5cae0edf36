// Text to ids: every piece of the prompt with its id. Pointing at one shows its bytes and its neighbours.

import { make, put } from '../core/dom.js';
import { count } from '../core/format.js';
import { change } from '../core/store.js';
import { chip } from '../parts/chip.js';
import { factList, stageCard } from '../parts/stage_card.js';

const PAGE = 256; // tokens shown at once

/** @returns the node of the stage */
export function tokensStage(scope) {
  const body = make('div');
  scope.live(body, ['trace', 'position'], ({ trace, position }) => {
    const first = Math.floor(position / PAGE) * PAGE;
    const last = Math.min(trace.length, first + PAGE);
    const bytes = trace.tokens.reduce((sum, token) => sum + token.bytes.length, 0);
    const had = body.contains(document.activeElement);
    put(body,
      make('div', { class: 'chips', role: 'group', 'aria-label': 'Tokens' }, trace.tokens.slice(first, last).map((token, i) => chip(token, {
        pick: () => change({ position: first + i }), current: first + i === position, note: String(token.id),
      }))),
      trace.length > PAGE ? make('div', { class: 'row middle pager' },
        make('button', { type: 'button', disabled: first === 0, on: { click: () => change({ position: first - PAGE }) } }, 'Before'),
        make('span', { class: 'quiet number' }, `${count(first)} to ${count(last - 1)} of ${count(trace.length)}`),
        make('button', { type: 'button', disabled: last === trace.length, on: { click: () => change({ position: last }) } }, 'After')) : null,
      factList([['Tokens', count(trace.length)], ['Bytes', count(bytes)],
        ['Bytes a token', (bytes / Math.max(1, trace.tokens.filter((token) => !token.special).length)).toFixed(2)]]));
    if (had) body.querySelectorAll('.chip')[position - first]?.focus();
  });
  return stageCard('Tokens', 'The tokenizer cuts the text into pieces of its vocabulary; the model sees only their ids. Point at a piece for its bytes and its nearest pieces.',
    ['tokens'], body);
}
