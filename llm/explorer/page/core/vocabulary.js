// Small helpers on logits: the best ids, and a token made of an id and the texts that came with an answer.

/** The `count` ids with the largest logits. */
export function highest(logits, count) {
  return [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b).slice(0, count);
}

/** A token known by its id and the texts of an answer. */
export function tokenOf(id, texts) {
  return { id, text: texts[id] ?? `‹${id}›`, bytes: [], special: false };
}
