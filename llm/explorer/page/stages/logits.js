// The last vector through the final norm and the unembedding: one number for every piece of the vocabulary.

import { make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { number, tokenText } from '../core/format.js';
import { change } from '../core/store.js';
import { highest, tokenOf } from '../core/vocabulary.js';
import { barList } from '../parts/bars.js';
import { factList, stageCard } from '../parts/stage_card.js';

/** @returns the node of the stage */
export function logitsStage(scope) {
  const body = make('div');
  scope.live(body, ['trace', 'position'], async ({ trace, position }, fresh) => {
    const answer = await ofTrace(trace, 'logits', { position });
    if (!fresh()) return;
    const logits = answer.logits.values;
    const top = highest(logits, 20);
    let sum = 0;
    for (const logit of logits) sum += logit;
    const mean = sum / logits.length;
    const rank = answer.next ? logits.reduce((above, logit) => above + (logit > logits[answer.next.id] ? 1 : 0), 1) : null;
    body.replaceChildren(
      factList([['Highest', number(logits[top[0]]), 'logit'], ['Mean', number(mean), `of ${logits.length}`],
        rank === null ? null : ['What comes next in the prompt', tokenText(answer.next), `rank ${rank}, logit ${number(logits[answer.next.id])}`]]),
      spread(logits),
      make('h3', {}, `Highest after «${tokenText(trace.tokens[position])}»`),
      // Bars start at the mean: only differences between logits mean anything.
      barList(top.map((id) => ({
        label: make('span', { class: 'mono' }, tokenOf(id, answer.texts).text), value: logits[id] - mean, note: number(logits[id], 4),
        current: answer.next?.id === id, title: 'What adds to this logit?', pick: () => change({ target: tokenOf(id, answer.texts), view: 'attribution' }),
      })), { label: 'Logits' }),
      make('p', { class: 'quiet small' }, 'Bars start at the mean of all logits. Press a token to see which heads and layers add to its logit.'));
  });
  return stageCard('Logits', 'The final norm and the unembedding compare the last vector with every piece of the vocabulary. The larger the number, the better the match.',
    ['final_norm', 'logits'], body);
}

function spread(logits) {
  let low = Infinity;
  let high = -Infinity;
  for (const logit of logits) {
    if (logit < low) low = logit;
    if (logit > high) high = logit;
  }
  const counts = new Array(48).fill(0);
  for (const logit of logits) counts[Math.min(47, Math.floor(((logit - low) / (high - low || 1)) * 48))] += 1;
  const most = Math.max(...counts);
  return make('figure', { class: 'histogram' }, make('figcaption', { class: 'quiet small' }, 'All logits'),
    make('div', { class: 'columns-of-bars', role: 'img', 'aria-label': `Histogram of logits from ${number(low)} to ${number(high)}` },
      counts.map((one) => make('span', { style: { height: `${Math.sqrt(one / most) * 100}%` } }))),
    make('div', { class: 'ends quiet small number' }, make('span', {}, number(low)), make('span', {}, 'heights: square root of counts'), make('span', {}, number(high))));
}
