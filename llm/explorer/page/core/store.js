// What the reader looks at, in one place. Parts of the page say which fields they show and are called when those change.

const fields = {
  models: [], // what can be looked at
  run: 0, // which of them
  step: null, // which checkpoint
  prompt: '', // the text of the trace
  asked: null, // what the trace was asked with: {prompt} or {tokens}
  trace: null, // the answer to (run, step, tokens, edits): see core/api.js
  plain: null, // the same without edits: equal to `trace` where there are none
  edits: [],
  position: 0, // of the token that is followed
  layer: 0,
  head: 0,
  stage: 'tokens', // a key of parts/journey.js
  view: 'follow', // a key of main.js
  target: null, // the token whose logit is asked about; null is the most probable
  lookedAt: null, // the query under the pointer, before it is chosen
  shade: null, // weight of every token of the strip, where a view has one to show
  sampling: { temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, seed: 0 },
  session: null, // of generating: cache, milliseconds, tokens so far
  running: false, // whether the walk through the stages goes by itself
};

const listeners = new Set();

/** The fields, to be read; `change` writes them. */
export const state = fields;

/** Writes fields and calls those who show one that differs. */
export function change(patch) {
  const changed = Object.keys(patch).filter((key) => !Object.is(fields[key], patch[key]));
  Object.assign(fields, patch);
  if (!changed.length) return;
  for (const listener of [...listeners]) {
    if (listeners.has(listener) && listener.keys.some((key) => changed.includes(key))) listener.action();
  }
}

/** Calls `action` when one of the fields changes; returns what ends that. */
export function watch(keys, action) {
  const listener = { keys, action };
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The model that is looked at. */
export function model() {
  return fields.models.find((one) => one.run === fields.run) ?? fields.models[0];
}

/**
 * A part of the page that lives as long as its view: `show(state, fresh)` runs now and whenever a field changes. It may
 * wait for the server; after each wait `fresh()` tells whether its answer is still wanted. What fails is said in `node`.
 */
export class Scope {
  constructor() {
    this.endings = [];
    this.open = true;
  }

  live(node, keys, show) {
    let turn = 0;
    const run = async () => {
      turn += 1;
      const mine = turn;
      const fresh = () => this.open && mine === turn;
      node.setAttribute('aria-busy', 'true');
      try {
        await show(fields, fresh);
      } catch (error) {
        if (fresh()) sayTrouble(node, error);
      }
      if (fresh()) node.removeAttribute('aria-busy');
    };
    // Several fields often change at once, and arrow keys come fast: only where they settle is asked for.
    let timer = 0;
    this.endings.push(watch(keys, () => {
      node.setAttribute('aria-busy', 'true');
      clearTimeout(timer);
      timer = setTimeout(run, 30);
    }), () => clearTimeout(timer));
    run();
    return node;
  }

  also(ending) {
    this.endings.push(ending);
  }

  close() {
    this.open = false;
    for (const ending of this.endings.splice(0)) ending();
  }
}

/** One line in the place where the answer would be. */
export function sayTrouble(node, error) {
  const line = document.createElement('p');
  line.className = error.absent ? 'absent' : 'trouble';
  line.textContent = error.message;
  if (!error.absent) line.setAttribute('role', 'alert');
  node.replaceChildren(line);
}
