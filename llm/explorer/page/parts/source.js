// The function behind a stage: its place, its first line, and its source as it is installed.

import { make } from '../core/dom.js';
import { get } from '../core/api.js';
import { state } from '../core/store.js';

const WORDS = new Set(('def class return if else elif for while in not and or is None True False import from as with lambda '
  + 'raise try except finally yield pass break continue assert del global nonlocal async await').split(' '));
const PARTS = /("""[\s\S]*?"""|'''[\s\S]*?'''|#[^\n]*|[rbfRBF]{0,2}(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|\b\d[\w.]*|[A-Za-z_]\w*|[\s\S])/g;

/** Python source with its comments, strings, numbers and keywords marked. */
export function coloured(source) {
  const out = [];
  for (const [part] of source.matchAll(PARTS)) {
    const kind = part.startsWith('#') ? 'comment' : /^[rbfRBF]{0,2}["']/.test(part) ? 'string'
      : /^\d/.test(part) ? 'digits' : WORDS.has(part) ? 'word' : null;
    const last = out.at(-1);
    if (kind) out.push(make('span', { class: `code-${kind}` }, part));
    else if (typeof last === 'string') out[out.length - 1] = last + part;
    else out.push(part);
  }
  return out;
}

/** A button that opens the source of one or more stages (names of /api/sources). */
export function sourceButton(...names) {
  return make('button', {
    type: 'button', class: 'plain source-button', 'aria-haspopup': 'dialog', on: { click: () => openSource(names) },
  }, make('span', { class: 'mono', 'aria-hidden': 'true' }, '</> '), 'Source');
}

// Several stages may live in one function (scores, softmax and weighted sum in one attention): it is shown once.
function distinct(names, stages) {
  const place = (name) => `${stages[name].file}:${stages[name].line}`;
  return names.filter((name, i) => stages[name] && names.findIndex((other) => stages[other] && place(other) === place(name)) === i);
}

async function openSource(names) {
  const body = make('div', { class: 'dialog-body' }, make('p', { class: 'quiet' }, 'Reading …'));
  const dialog = make('dialog', { class: 'source', 'aria-label': 'Source' },
    make('div', { class: 'dialog-head' }, make('h2', {}, 'The code that computes this'),
      make('button', { type: 'button', 'aria-label': 'Close', on: { click: () => dialog.close() } }, 'Close')), body);
  dialog.addEventListener('close', () => dialog.remove());
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  dialog.showModal();
  try {
    const { stages } = await get('/api/sources', state.run ? { run: state.run } : {});
    body.replaceChildren(...distinct(names, stages).map((name) => make('article', {},
      make('h3', {}, make('code', {}, stages[name].name), ' ', make('span', { class: 'quiet small mono' }, `${stages[name].file}:${stages[name].line}`)),
      make('p', { class: 'quiet' }, stages[name].says),
      make('pre', { tabindex: 0, 'aria-label': `Source of ${stages[name].name}` }, make('code', {}, coloured(stages[name].source))))));
  } catch (error) {
    body.replaceChildren(make('p', { class: error.absent ? 'absent' : 'trouble', role: 'alert' }, error.message));
  }
}
