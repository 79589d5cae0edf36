// The keys, and a switch for those that are single letters (speech input and switch devices may press them by mistake).

import { make, typing } from '../core/dom.js';
import { change, model, state } from '../core/store.js';
import { setRunning, stepBy } from './player.js';

let letters = true;

const KEYS = [
  ['Ctrl Enter', 'in the prompt: follow it'], ['← →', 'on the tokens: the token that is followed'], ['↑ ↓', 'on the stages: the stage'],
  ['arrows, Enter', 'on a map: move, take the token of that row'], ['n, p', 'next, previous stage'], ['space', 'run, stop'],
  ['h, H', 'next, previous head'], ['l, L', 'next, previous block'], ['1 … 6', 'the views'], ['Esc', 'closes what is open'], ['?', 'these keys'],
];

/** Opens the list of keys. */
export function openHelp() {
  const box = make('input', { type: 'checkbox', on: { change: () => { letters = box.checked; } } });
  box.checked = letters;
  const dialog = make('dialog', { class: 'help', 'aria-label': 'Keys' },
    make('div', { class: 'dialog-head' }, make('h2', {}, 'Keys'),
      make('button', { type: 'button', on: { click: () => dialog.close() } }, 'Close')),
    make('div', { class: 'dialog-body' },
      make('table', {}, make('tbody', {}, KEYS.map(([key, does]) => make('tr', {}, make('th', { scope: 'row', class: 'mono' }, key), make('td', {}, does))))),
      make('p', {}, make('label', {}, box, ' Single letters and digits are keys'))));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** Listens to the letters. `views`: keys of the views in order. `failed`: is told what went wrong. */
export function startKeys(views, failed) {
  document.addEventListener('keydown', (event) => {
    if (!letters || event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || document.querySelector('dialog[open]')) return;
    const press = event.target instanceof HTMLElement && ['BUTTON', 'SUMMARY', 'A', 'CANVAS'].includes(event.target.tagName);
    const turn = (name, count, by) => change({ [name]: (state[name] + by + count) % count });
    const actions = {
      n: () => stepBy(1).catch(failed), p: () => stepBy(-1), '?': openHelp,
      h: () => turn('head', model().heads, 1), H: () => turn('head', model().heads, -1),
      l: () => moveLayer(1), L: () => moveLayer(-1),
    };
    if (!press) actions[' '] = () => setRunning(!state.running);
    views.forEach((view, i) => { actions[String(i + 1)] = () => change({ view }); });
    if (state.trace && actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  });
}

function moveLayer(by) {
  const layers = model().layers;
  const layer = (state.layer + by + layers) % layers;
  const [kind, number] = state.stage.split(':');
  change({ layer, ...(number === undefined ? {} : { stage: `${kind}:${layer}` }) });
}
