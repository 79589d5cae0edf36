// The stages of the journey of a prompt, in order. A stage's key is its kind, and for blocks kind:layer.

/** @param model as /api/models describes it. @returns list of {key, kind, layer, title, says} */
export function journey(model) {
  const stages = [
    { kind: 'tokens', title: 'Tokens' },
    { kind: 'embedding', title: 'Embedding' },
    { kind: 'positions', title: 'Position' },
  ];
  for (let layer = 0; layer < model.layers; layer += 1) {
    stages.push({ kind: 'attention', layer, title: 'Attention' });
    if (model.feed_forward_width) stages.push({ kind: 'feed_forward', layer, title: 'Feed-forward' });
  }
  stages.push({ kind: 'stream', title: 'Stream, final norm' }, { kind: 'logits', title: 'Logits' }, { kind: 'probabilities', title: 'Probabilities, cut' },
    { kind: 'next', title: 'Next token' });
  return stages.map((stage) => ({ ...stage, key: stage.layer === undefined ? stage.kind : `${stage.kind}:${stage.layer}` }));
}

/** The place of a stage in the journey; the first where it has none (another model has fewer layers). */
export function stageIndex(stages, key) {
  return Math.max(0, stages.findIndex((stage) => stage.key === key));
}

/** The name of a stage with its block. */
export function stageName(stage) {
  return stage.layer === undefined ? stage.title : `Block ${stage.layer}: ${stage.title.toLowerCase()}`;
}
