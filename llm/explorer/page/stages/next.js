// The next token: drawn with the seed by the model's own decode step, with its cache and its milliseconds.

import { make } from '../core/dom.js';
import { drawToken, replay, undraw } from '../core/actions.js';
import { count, number, percent, size, tokenText } from '../core/format.js';
import { named, css } from '../core/colours.js';
import { change, model, state } from '../core/store.js';
import { watchScheme } from '../core/scheme.js';
import { chip } from '../parts/chip.js';
import { factList, stageCard } from '../parts/stage_card.js';

/** @returns the node of the stage */
export function nextStage(scope) {
  const trouble = make('div');
  const attempt = (action) => async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    trouble.replaceChildren();
    try {
      await action();
    } catch (error) {
      trouble.replaceChildren(make('p', { class: error.absent ? 'absent' : 'trouble', role: 'alert' }, error.message));
    }
    button.disabled = false;
    settle();
  };
  const draw = make('button', { type: 'button', class: 'main', id: 'draw', on: { click: attempt(drawToken) } }, 'Draw the next token');
  const again = make('button', { type: 'button', id: 'replay', on: { click: attempt(replay) } }, 'Replay from the seed');
  const back = make('button', { type: 'button', on: { click: attempt(undraw) } }, 'Back to the prompt');
  const seed = make('input', {
    type: 'number', min: 0, max: 4294967295, step: 1, value: state.sampling.seed, id: 'seed', on: { change: () => {
      const value = Math.max(0, Math.min(4294967295, Math.round(Number(seed.value) || 0)));
      seed.value = value;
      change({ sampling: { ...state.sampling, seed: value } });
    } },
  });
  const settle = () => {
    again.disabled = !state.session?.steps.length;
    back.disabled = !state.session;
    draw.disabled = Boolean(state.session?.stopped);
  };
  const body = make('div');
  const grid = make('canvas', { class: 'cache-grid', role: 'img' });
  scope.also(watchScheme(() => paintCache(grid)));
  scope.live(body, ['session', 'trace'], ({ session, trace }) => {
    settle();
    body.replaceChildren(...(session ? sessionNodes(session, trace) : [make('p', { class: 'quiet' },
      `Nothing drawn yet. Reading the prompt fills the cache with keys and values of ${count(trace.length)} tokens, ${size(trace.cache_bytes_per_token)} each; every token drawn adds one column and costs one step.`)]));
    paintCache(grid);
  });
  return stageCard('Next token', 'A number from the seed picks one of the tokens that are left. Same seed, same settings, same tokens. The keys and values of what was read stay in the cache, so each step computes one token only.',
    ['draw', 'decode_step', 'kv_cache'],
    make('div', { class: 'row' }, draw, again, back, make('label', { class: 'field' }, 'Seed', seed)), trouble,
    make('h3', {}, 'KV cache'), grid, body);
}

function sessionNodes(session, trace) {
  const { cache } = session;
  const timed = session.steps.filter((step) => step.milliseconds !== null).map((step) => step.milliseconds);
  timed.sort((a, b) => a - b);
  return [
    factList([['In use', size(cache.bytes), `${count(cache.length)} of ${count(cache.capacity)} tokens`], ['Allocated', size(cache.allocated), `${size(cache.bytes_per_token)} a token`],
      ['Reading the prompt', `${number(session.prefill)} ms`, `${session.given} tokens`],
      timed.length ? ['A token', `${number(timed[timed.length >> 1])} ms`, `median of ${timed.length}`] : null]),
    session.replayed === null ? null : make('p', { class: session.replayed === session.steps.length ? 'fine' : 'trouble', role: 'status' },
      session.replayed === session.steps.length ? `Replayed: the same ${count(session.replayed)} token${session.replayed === 1 ? '' : 's'} came out.`
        : `Replayed: only the first ${session.replayed} of ${session.steps.length} tokens were the same.`),
    session.stopped ? make('p', { class: 'fine' }, session.stopped === 'end' ? 'The model ended the text.'
      : cache.capacity < model().context ? 'The cache made for this text is full; type the text as the prompt to go on.' : 'The context is full.') : null,
    make('h3', {}, 'Drawn so far'),
    make('p', { class: 'chips' }, session.steps.map((step) => chip(step.token, { note: percent(step.probability) }))),
    make('div', { class: 'scroll' }, make('table', { class: 'drawn' },
      make('thead', {}, make('tr', {}, ['', 'Token', 'Probability', 'before the cut', 'could be drawn', 'time'].map((name, i) => make('th', { scope: 'col', class: i > 1 ? 'number' : null }, name)))),
      make('tbody', {}, session.steps.slice(-64).map((step) => make('tr', {}, make('td', { class: 'quiet number' }, String(step.index)),
        make('td', { class: 'mono' }, tokenText(step.token)), make('td', { class: 'number' }, percent(step.probability)), make('td', { class: 'number' }, percent(step.model_probability)),
        make('td', { class: 'number' }, count(step.kept)), make('td', { class: 'number' }, step.milliseconds === null ? 'compiled' : `${number(step.milliseconds)} ms`)))))),
  ].filter(Boolean);
}

// One column a token, one row a layer: grey read from the prompt, blue drawn, empty still free.
function paintCache(canvas) {
  const { session, trace } = state;
  const capacity = session?.cache.capacity ?? model().context;
  const length = session?.cache.length ?? 0;
  const rows = Math.min(model().layers, 24);
  const columns = Math.min(capacity, 512);
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.aspectRatio = `${Math.max(columns, 60)} / ${Math.max(5, Math.min(rows, 14) * (columns / 150))}`;
  canvas.setAttribute('aria-label', `Cache: ${length} of ${capacity} columns in use, ${model().layers} layers`);
  const pen = canvas.getContext('2d');
  const given = session?.given ?? trace?.length ?? 0;
  for (let column = 0; column < columns; column += 1) {
    const token = Math.floor((column * capacity) / columns);
    pen.fillStyle = token >= length ? css(named('page')) : token < given ? css(named('quiet'), 0.55) : css(named('accent'));
    pen.fillRect(column, 0, 1, rows);
  }
}
