// Ids to vectors: the row of the embedding table, and the tokens whose rows point the same way.

import { make } from '../core/dom.js';
import { get, ofTrace } from '../core/api.js';
import { number, tokenText } from '../core/format.js';
import { barcode } from '../parts/barcode.js';
import { barList } from '../parts/bars.js';
import { stageCard } from '../parts/stage_card.js';

/** @returns the node of the stage */
export function embeddingStage(scope) {
  const vector = barcode('Its row of the table');
  scope.also(vector.end);
  const top = make('div', {}, vector.node);
  const trouble = make('div');
  const near = make('div');
  const title = make('h3');
  scope.live(trouble, ['trace', 'position'], async ({ trace, position }, fresh) => {
    title.textContent = `Nearest to «${tokenText(trace.tokens[position])}»`;
    const answer = await ofTrace(trace, 'embedding', { position });
    if (!fresh()) return;
    trouble.replaceChildren();
    vector.show(answer.vector.values);
  });
  scope.live(near, ['trace', 'position'], async ({ trace, position, run, step }, fresh) => {
    const { neighbours } = await get('/api/neighbours', { run, step, token: trace.tokens[position].id, count: 8 });
    if (!fresh()) return;
    near.replaceChildren(barList(neighbours.map((one) => ({
      label: make('span', { class: 'mono' }, tokenText(one.token)), value: one.cosine, note: number(one.cosine, 2),
    })), { signed: neighbours.some((one) => one.cosine < 0), most: 1, label: 'Cosine of neighbours' }));
  });
  return stageCard('Embedding', 'Each id picks one row of a table that was learned in training. Rows of tokens that are used alike come to point in like directions.',
    ['embedding'], top, trouble, title, near);
}
