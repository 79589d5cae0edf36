// The journey as a line down the side: the residual stream, with what attention and feed-forward add to it at the token
// that is followed. Only the rows in sight are in the document.

import { make } from '../core/dom.js';
import { number, size } from '../core/format.js';
import { change, model, state } from '../core/store.js';
import { meter } from './bars.js';
import { journey, stageIndex, stageName } from './journey.js';

const ROW = 34; // pixels

/** @param scope of the view. @returns the rail's node */
export function rail(scope) {
  const list = make('div', { class: 'flow-list' });
  const flow = make('div', { class: 'flow', tabindex: 0, role: 'listbox', 'aria-label': 'Stages' }, list);
  const choose = make('select', { 'aria-label': 'Stage', on: { change: () => change({ stage: choose.value }) } });
  const cache = make('div', { class: 'rail-cache' });
  const node = make('nav', { class: 'rail', 'aria-label': 'Journey' }, flow, make('div', { class: 'only-narrow stage-choice' }, choose), cache);
  let stages = [];

  function fill() {
    if (!state.trace) return;
    const first = Math.max(0, Math.floor(flow.scrollTop / ROW) - 4);
    const last = Math.min(stages.length, first + Math.ceil(flow.clientHeight / ROW) + 9);
    const most = largestAdded();
    list.replaceChildren(...stages.slice(first, last).map((stage, i) => row(stage, first + i, most)));
    flow.setAttribute('aria-activedescendant', `stage-${stageIndex(stages, state.stage)}`);
  }

  function largestAdded() {
    const { attention, feed_forward: forward } = state.trace.norms;
    let most = 1e-9;
    for (let layer = 0; layer < attention.shape[0]; layer += 1) {
      most = Math.max(most, attention.at(layer, state.position) || 0, forward.at(layer, state.position) || 0);
    }
    return most;
  }

  function row(stage, at, most) {
    const chosen = stage.key === state.stage;
    const norms = state.trace.norms;
    const added = stage.layer === undefined ? null : norms[stage.kind].at(stage.layer, state.position);
    return make('div', {
      class: `flow-row ${stage.kind}${stage.kind === 'attention' ? ' block-start' : ''}`, role: 'option', id: `stage-${at}`, 'aria-selected': chosen ? 'true' : 'false',
      'aria-setsize': stages.length, 'aria-posinset': at + 1,
      style: { top: `${at * ROW}px` }, title: added === null ? null : `adds a vector of length ${number(added)}`,
      on: { click: () => change({ stage: stage.key }) },
    }, make('span', { class: 'dot', 'aria-hidden': 'true' }),
    stage.layer !== undefined ? make('span', { class: 'quiet small layer number' }, stage.kind === 'attention' || !state.trace ? stage.layer : '') : null,
    make('span', { class: 'flow-name' }, stage.title),
    added === null ? null : make('span', { class: 'flow-bar', 'aria-hidden': 'true' },
      make('span', { style: { width: `${(added / most) * 100}%` } })));
  }

  function reveal() {
    const top = stageIndex(stages, state.stage) * ROW;
    if (top < flow.scrollTop + ROW) flow.scrollTop = top - 2 * ROW;
    if (top > flow.scrollTop + flow.clientHeight - 2 * ROW) flow.scrollTop = top - flow.clientHeight + 3 * ROW;
  }

  flow.addEventListener('scroll', fill, { passive: true });
  flow.addEventListener('keydown', (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(stages.length - 1, stageIndex(stages, state.stage) + by));
    change({ stage: stages[to].key });
  });
  const sized = new ResizeObserver(fill);
  sized.observe(flow);
  scope.also(() => sized.disconnect());
  scope.live(flow, ['trace', 'run', 'stage', 'position'], () => {
    stages = journey(model());
    list.style.height = `${stages.length * ROW}px`;
    if (choose.options.length !== stages.length) {
      choose.replaceChildren(...stages.map((stage) => make('option', { value: stage.key }, stageName(stage))));
    }
    choose.value = state.stage;
    reveal();
    fill();
  });
  scope.live(cache, ['trace', 'session'], () => cache.replaceChildren(...cacheLines()));
  return node;
}

function cacheLines() {
  const { session, trace } = state;
  if (session?.cache) {
    const { length, capacity, bytes, allocated } = session.cache;
    const last = session.steps.findLast((step) => step.milliseconds !== null);
    return [make('p', { class: 'eyebrow' }, 'KV cache'), meter(length / capacity, 'KV cache in use'),
      make('p', { class: 'small number' }, `${length} of ${capacity} tokens, ${size(bytes)} of ${size(allocated)}`,
        last ? `, ${number(last.milliseconds, 2)} ms a token` : '')];
  }
  const bytes = trace?.cache_bytes_per_token;
  return bytes ? [make('p', { class: 'eyebrow' }, 'KV cache'),
    make('p', { class: 'small quiet number' }, `${size(bytes)} a token, ${size(bytes * trace.length)} for this prompt`)] : [];
}
