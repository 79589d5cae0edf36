// Logits to probabilities, and the sampler's cut: the sliders act at once, in the browser, on the real logits.

import { make, put } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { count, number, percent, tokenText } from '../core/format.js';
import { distribution } from '../core/sampler.js';
import { model } from '../core/store.js';
import { barList } from '../parts/bars.js';
import { factList, stageCard } from '../parts/stage_card.js';
import { samplerSliders } from '../parts/sliders.js';
import { tokenOf } from '../core/vocabulary.js';

const SHOWN = 24;

/** @returns the node of the stage */
export function probabilitiesStage(scope) {
  const body = make('div');
  scope.live(body, ['trace', 'position', 'sampling'], async ({ trace, position, sampling }, fresh) => {
    const answer = await ofTrace(trace, 'logits', { position });
    if (!fresh()) return;
    const cut = distribution(answer.logits.values, answer.seen, sampling);
    const after = cut.order.slice(0, SHOWN);
    const most = Math.max(cut.plain[cut.order[0]], cut.after[cut.order[0]]);
    put(body,
      factList([['Can be drawn', count(cut.kept), `of ${count(model().vocabulary)} pieces`], ['Their share before the cut', percent(cut.mass)],
        ['Entropy after it', `${number(cut.entropy)} bits`],
        answer.next ? ['Next in the prompt', percent(cut.after[answer.next.id]), tokenText(answer.next)] : null]),
      make('div', { class: 'double-bars' }, barList(after.map((id) => ({
        label: make('span', { class: 'mono' }, tokenOf(id, answer.texts).text), value: cut.after[id], before: cut.plain[id], cut: cut.after[id] === 0,
        note: cut.after[id] === 0 ? `cut (${percent(cut.plain[id])})` : `${percent(cut.after[id])}`, current: answer.next?.id === id,
        title: `${percent(cut.plain[id])} before the cut`,
      })), { most, label: 'Probabilities after the cut' })),
      cut.order.length > SHOWN ? make('p', { class: 'quiet small' }, `The ${SHOWN} most probable of ${count(cut.order.length)}; the thin marks are the model’s own probabilities, before the sampler.`) : null);
  });
  return stageCard('Probabilities and the sampler’s cut', 'The softmax makes probabilities of the logits. Temperature sharpens or flattens them; top-k, top-p and min-p then cut the tail, in this order, and what is left is drawn from.',
    ['sampler'], samplerSliders(scope), body);
}
