// Follow a prompt: the journey down the side, and the stage that is chosen.

import { make } from '../core/dom.js';
import { Scope, change } from '../core/store.js';
import { rail } from '../parts/rail.js';
import { attentionStage } from '../stages/attention.js';
import { embeddingStage } from '../stages/embedding.js';
import { feedForwardStage } from '../stages/feed_forward.js';
import { logitsStage } from '../stages/logits.js';
import { nextStage } from '../stages/next.js';
import { positionsStage } from '../stages/positions.js';
import { probabilitiesStage } from '../stages/probabilities.js';
import { streamStage } from '../stages/stream.js';
import { tokensStage } from '../stages/tokens.js';

const STAGES = {
  tokens: tokensStage, embedding: embeddingStage, positions: positionsStage, attention: attentionStage, feed_forward: feedForwardStage,
  stream: streamStage, logits: logitsStage, probabilities: probabilitiesStage, next: nextStage,
};

/** @returns the node of the view */
export function followView(scope) {
  const place = make('div', { class: 'stage' });
  let kind = null;
  let inner = null;
  scope.also(() => inner?.close());
  scope.live(place, ['stage', 'run'], ({ stage, run }) => {
    const [name, layer] = stage.split(':');
    if (layer !== undefined) change({ layer: Number(layer) });
    if (`${name} ${run}` === kind) return; // another block: the parts of the stage ask anew by themselves
    inner?.close();
    inner = new Scope();
    kind = `${name} ${run}`;
    place.replaceChildren(STAGES[name](inner));
  });
  return make('div', { class: 'follow' }, rail(scope), place);
}
