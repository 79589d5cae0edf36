// The page: it asks which models there are, reads a first prompt, and shows the view that is chosen.

import { carried, get, whenRefused } from './core/api.js';
import { read } from './core/actions.js';
import { announce, make } from './core/dom.js';
import { Scope, change, state, watch } from './core/store.js';
import { keepToken } from './core/token.js';
import { startCards } from './parts/chip.js';
import { head } from './parts/head.js';
import { startKeys } from './parts/help.js';
import { setRunning, stepBy } from './parts/player.js';
import { tokenStrip } from './parts/strip.js';
import { attributionView } from './views/attribution.js';
import { compareView } from './views/compare.js';
import { editView } from './views/edit.js';
import { followView } from './views/follow.js';
import { lensView } from './views/lens.js';
import { trainingView } from './views/training.js';

const VIEWS_OF_PAGE = {
  follow: ['Follow', followView], lens: ['Logit lens', lensView], attribution: ['Attribution', attributionView], edit: ['Edit', editView],
  training: ['Across training', trainingView], compare: ['Side by side', compareView],
};

/** The tabs, the transport and the strip: what stays in sight. */
function dock(failed) {
  const buttons = Object.entries(VIEWS_OF_PAGE).map(([key, [name]]) => make('button', {
    type: 'button', role: 'tab', id: `tab-${key}`, 'aria-controls': 'view', on: { click: () => change({ view: key }) },
  }, name));
  const tabs = make('div', { class: 'tabs', role: 'tablist', 'aria-label': 'Views' }, buttons);
  tabs.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const keys = Object.keys(VIEWS_OF_PAGE);
    const to = (keys.indexOf(state.view) + by + keys.length) % keys.length;
    change({ view: keys[to] });
    buttons[to].focus();
  });
  const choose = () => buttons.forEach((button) => {
    const chosen = button.id === `tab-${state.view}`;
    button.setAttribute('aria-selected', chosen ? 'true' : 'false');
    button.tabIndex = chosen ? 0 : -1;
    if (chosen) tabs.scrollLeft = Math.max(0, button.offsetLeft - tabs.offsetLeft - 60);
  });
  watch(['view'], choose);
  const run = make('button', { type: 'button', class: 'run', id: 'run', 'aria-label': 'Run', on: { click: () => setRunning(!state.running) } }, '▶', make('span', {}, ' Run'));
  watch(['running'], () => {
    run.replaceChildren(...(state.running ? ['❚❚', make('span', {}, ' Stop')] : ['▶', make('span', {}, ' Run')]));
    run.setAttribute('aria-label', state.running ? 'Stop' : 'Run');
    run.setAttribute('aria-pressed', state.running ? 'true' : 'false');
  });
  const step = (by) => async () => {
    change({ view: 'follow' });
    await stepBy(by).catch(failed);
  };
  const transport = make('div', { class: 'transport', role: 'group', 'aria-label': 'Walk' },
    make('button', { type: 'button', id: 'back', 'aria-label': 'Previous stage', on: { click: step(-1) } }, '‹'),
    make('button', { type: 'button', id: 'step', 'aria-label': 'Next stage', on: { click: step(1) } }, '›'), run);
  const node = make('div', { class: 'dock' }, make('div', { class: 'dock-row' }, transport, tokenStrip()), tabs);
  queueMicrotask(choose);
  return node;
}

/** Shows the chosen view; the one before is ended. */
function showView(place) {
  let scope = null;
  const show = () => {
    if (!state.trace) return;
    scope?.close();
    scope = new Scope();
    place.setAttribute('aria-labelledby', `tab-${state.view}`);
    place.replaceChildren(VIEWS_OF_PAGE[state.view][1](scope));
  };
  watch(['view', 'run'], show);
  // The first trace opens the first view; later ones are shown by the parts of the view that is open.
  const stop = watch(['trace'], () => {
    stop();
    show();
  });
}

/** Asks for the server's access token, keeps it, and starts again. */
function askForToken(page) {
  const field = make('input', { type: 'password', autocomplete: 'current-password', 'aria-label': 'Token', required: true });
  page.replaceChildren(make('form', { class: 'card alone', on: { submit: (event) => {
    event.preventDefault();
    keepToken(field.value);
    location.reload();
  } } }, make('h1', {}, 'Glassbox'), make('p', {}, 'This server was started with a token and wants it.'),
  make('div', { class: 'row' }, field, make('button', { type: 'submit', class: 'main' }, 'Open'))));
  field.focus();
}

async function start() {
  const page = document.getElementById('page');
  whenRefused(() => askForToken(page));
  startCards();
  let known = null;
  try {
    known = await get('/api/models');
  } catch (error) {
    if (error.status !== 401) page.replaceChildren(make('p', { class: 'trouble alone', role: 'alert' }, error.message));
    return;
  }
  const begin = carried()?.start ?? { run: known.models[0].run, step: known.models[0].steps.at(-1), prompt: known.default_prompt };
  change({ models: known.models, run: begin.run, step: begin.step });
  const place = make('main', { id: 'view', role: 'tabpanel', tabindex: -1 }, make('p', { class: 'quiet waiting' }, 'Reading the prompt; the first time, the model is compiled …'));
  const failed = (error) => {
    announce(error.message);
    if (!state.trace) place.replaceChildren(make('p', { class: error.absent ? 'absent' : 'trouble', role: 'alert' }, error.message));
    else document.querySelector('.ask-trouble').replaceChildren(make('p', { class: error.absent ? 'absent' : 'trouble', role: 'alert' }, error.message));
  };
  page.replaceChildren(head(begin.prompt), dock(failed), place, make('footer', { class: 'foot' },
    carried() ? 'A static page of one prompt. `python -m llm explore` shows the rest, live.' : 'Everything is computed on this machine; nothing leaves it.'));
  showView(place);
  startKeys(Object.keys(VIEWS_OF_PAGE), failed);
  try {
    await read({ prompt: begin.prompt }, { asked: { prompt: begin.prompt } });
  } catch (error) {
    failed(error);
  }
}

// What the page knows, for the console of whoever is curious (and for the tests): glassbox(), glassbox.change({…}).
window.glassbox = Object.assign(() => state, { change });

start();
