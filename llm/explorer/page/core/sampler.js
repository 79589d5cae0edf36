// The sampler's cut in the reader's browser, in the order of llm/inference/sampling.py, so that the sliders act at once.
// A browser test holds this against that file.

/**
 * Probabilities before and after the cut.
 *
 * @param logits of the whole vocabulary (Float32Array)
 * @param seen ids that occur in the prompt or were generated (for the repetition penalty)
 * @param settings temperature, top_k, top_p, min_p, repetition_penalty
 * @returns {order, plain, after, kept, entropy, mass}: ids from the most probable down; the model's own
 *   probabilities by id; those after the cut by id (0 where a token cannot be drawn); how many can; the entropy of the
 *   latter in bits; the share of the model's own probability that the kept tokens had
 */
export function distribution(logits, seen, settings) {
  const size = logits.length;
  const plain = softmax(logits);
  const shifted = Float64Array.from(logits);
  if (settings.repetition_penalty !== 1) {
    for (const id of new Set(seen)) {
      shifted[id] = shifted[id] > 0 ? shifted[id] / settings.repetition_penalty : shifted[id] * settings.repetition_penalty;
    }
  }
  const order = Array.from({ length: size }, (_, id) => id).sort((a, b) => shifted[b] - shifted[a] || a - b);
  const greedy = settings.temperature === 0;
  if (!greedy) for (let id = 0; id < size; id += 1) shifted[id] /= settings.temperature;

  let kept = greedy ? 1 : size;
  if (settings.top_k > 0) kept = Math.min(kept, settings.top_k);
  if (settings.top_p < 1) kept = reach(shifted, order, kept, settings.top_p);
  if (settings.min_p > 0) {
    const least = shifted[order[0]] + Math.log(settings.min_p);
    let stay = 0;
    while (stay < kept && shifted[order[stay]] >= least) stay += 1;
    kept = stay;
  }

  const after = new Float64Array(size);
  const best = shifted[order[0]];
  let total = 0;
  for (let rank = 0; rank < kept; rank += 1) {
    after[order[rank]] = Math.exp(shifted[order[rank]] - best);
    total += after[order[rank]];
  }
  let entropy = 0;
  let mass = 0;
  for (let rank = 0; rank < kept; rank += 1) {
    const id = order[rank];
    after[id] /= total;
    if (after[id] > 0) entropy -= after[id] * Math.log2(after[id]);
    mass += plain[id];
  }
  return { order, plain, after, kept, entropy: Math.max(0, entropy), mass: Math.min(1, mass) };
}

/** Probabilities of logits. */
export function softmax(logits) {
  let best = -Infinity;
  for (const logit of logits) if (logit > best) best = logit;
  const out = new Float64Array(logits.length);
  let total = 0;
  for (let i = 0; i < out.length; i += 1) {
    out[i] = Math.exp(logits[i] - best);
    total += out[i];
  }
  for (let i = 0; i < out.length; i += 1) out[i] /= total;
  return out;
}

// The fewest of the first `kept` tokens whose probability, renormalised among those, reaches p.
function reach(logits, order, kept, p) {
  const best = logits[order[0]];
  let total = 0;
  for (let rank = 0; rank < kept; rank += 1) total += Math.exp(logits[order[rank]] - best);
  let before = 0;
  let stay = 0;
  while (stay < kept && before < p) {
    before += Math.exp(logits[order[stay]] - best) / total;
    stay += 1;
  }
  return Math.max(1, stay);
}
