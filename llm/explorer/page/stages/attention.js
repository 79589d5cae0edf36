// Attention in a block: all heads at a glance, one head as a map of queries by keys, and one token's weights in its text.

import { make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { number, tokenText } from '../core/format.js';
import { change, model, state } from '../core/store.js';
import { barcode } from '../parts/barcode.js';
import { headRow } from '../parts/head_row.js';
import { stageCard, streamSum } from '../parts/stage_card.js';
import { attentionMap } from './attention_map.js';
import { attendsTo } from './attends.js';

/** The block of the stage that is shown. */
function attentionLayer() {
  return Number(state.stage.split(':')[1]);
}

/** @returns the node of the stage */
export function attentionStage(scope) {
  const title = make('span');
  const sum = make('div');
  const added = barcode('What is added to the stream');
  scope.also(added.end);
  scope.live(title, ['stage'], () => { title.textContent = `Block ${attentionLayer()}: attention`; });
  scope.live(sum, ['trace', 'position', 'stage'], async ({ trace, position }, fresh) => {
    const block = await ofTrace(trace, 'block', { layer: attentionLayer(), position });
    if (!fresh()) return;
    sum.replaceChildren(streamSum(block.norms.before, model().norm, block.norm_scale.attention, 'attention', block.norms.attention,
      block.norms.between));
    added.show(block.attention.values);
  });
  const heads = make('div');
  scope.live(heads, ['trace', 'stage'], async ({ trace }, fresh) => {
    const answer = await ofTrace(trace, 'heads', { layer: attentionLayer() });
    if (!fresh()) return;
    heads.replaceChildren(headRow(scope, answer));
  });
  const headTitle = make('h3');
  const note = make('p', { class: 'quiet small' });
  scope.live(headTitle, ['head', 'stage'], ({ head }) => { headTitle.textContent = `Head ${head}: who attends to whom`; });
  scope.live(note, ['head', 'stage', 'position', 'trace'], async ({ trace, head, position }, fresh) => {
    const answer = await ofTrace(trace, 'heads', { layer: attentionLayer() });
    if (!fresh()) return;
    note.textContent = sayScores(answer, head) || `Token ${position}: «${tokenText(trace.tokens[position])}»`;
  });
  const map = attentionMap(scope, attentionLayer);
  const words = attendsTo(scope, attentionLayer);
  scope.also(() => change({ shade: null }));
  return stageCard(title,
    'Each token asks with a query, every earlier token answers with a key; their products are the scores. The mask hides what comes later, the softmax turns scores into weights, and the weighted values are added to the stream.',
    ['norm', 'queries_keys_values', 'positions', 'scores', 'mask', 'softmax', 'head_outputs', 'attention_output', 'residual'],
    sum, added.node, make('h3', {}, 'Heads'), heads, headTitle, note,
    make('div', { class: 'attention-columns' }, map, words));
}

function sayScores(answer, head) {
  const facts = [['previous', 'on the token before'], ['first', 'on the first token'], ['duplicate', 'on earlier copies of the same token'],
    ['induction', 'on what followed an earlier copy']];
  return `Mean weight ${facts.filter(([name]) => Number.isFinite(answer[name].values[head]))
    .map(([name, says]) => `${says} ${number(answer[name].values[head], 2)}`).join(', ')}; entropy ${number(answer.entropy.values[head], 2)} nats.`;
}
