// Across training: the same prompt at every stored checkpoint, on a slider.

import { make } from '../core/dom.js';
import { post } from '../core/api.js';
import { readElsewhere, what } from '../core/actions.js';
import { count, number, percent, tokenText } from '../core/format.js';
import { change, model, state } from '../core/store.js';
import { highest, tokenOf } from '../core/vocabulary.js';
import { ofTrace } from '../core/api.js';
import { barList } from '../parts/bars.js';
import { lineChart } from '../parts/charts.js';
import { stageCard } from '../parts/stage_card.js';

/** @returns the node of the view */
export function trainingView(scope) {
  const trouble = make('div');
  const status = make('p', { class: 'quiet', role: 'status' });
  const charts = make('div', { class: 'columns' });
  const now = make('div');
  const title = make('output', { class: 'step-title number', for: 'moment' });
  const slider = make('input', { type: 'range', id: 'moment', min: 0, step: 1, 'aria-label': 'Checkpoint', list: 'moments' });
  const go = make('button', { type: 'button', on: { click: async () => {
    try {
      await readElsewhere(state.run, chosen()?.step ?? state.step);
      change({ view: 'follow' });
    } catch (error) {
      trouble.replaceChildren(make('p', { class: error.absent ? 'absent' : 'trouble', role: 'alert' }, error.message));
    }
  } } }, 'Follow the prompt there');
  let moments = [];
  let target = null;
  const chosen = () => moments[Number(slider.value)];
  slider.addEventListener('input', show);

  // One checkpoint a question: the page shows what has come, and a reader who leaves stops the rest.
  scope.live(trouble, ['trace', 'run', 'target'], async (_, fresh) => {
    const { run, trace } = state;
    moments = [];
    const steps = model().steps;
    slider.max = steps.length - 1;
    slider.value = Math.max(0, steps.indexOf(state.step));
    target = state.target ?? await favourite(trace);
    trouble.replaceChildren();
    for (const [at, step] of steps.entries()) {
      if (!fresh()) return;
      status.textContent = `Reading checkpoint ${at + 1} of ${steps.length} …`;
      const moment = await post('/api/moments', { run, step, ...what(), token: target.id }, { keep: true });
      if (!fresh()) return;
      moments = [...moments, moment];
      show();
    }
    status.textContent = `${count(steps.length)} checkpoint${steps.length === 1 ? '' : 's'}. ${steps.length === 1 ? 'Set checkpoint.every to keep more while training.' : 'The slider goes through them; the arrow keys move it.'}`;
  });

  function show() {
    if (!moments.length) return;
    const moment = chosen() ?? moments.at(-1);
    title.textContent = `step ${count(moment.step)}`;
    slider.setAttribute('aria-valuetext', `step ${moment.step}`);
    const along = (value) => moments.map((one) => [one.step, value(one)]);
    charts.replaceChildren(
      lineChart([{ colour: 'series-1', points: along((one) => one.bits_per_byte ?? NaN) }], { title: 'Bits per byte of this prompt', xName: 'training step', mark: moment.step }),
      lineChart([{ colour: 'series-3', points: along((one) => one.probability ?? NaN) }], { title: `Probability of «${target.text}» after the prompt`, xName: 'training step', mark: moment.step, zero: true, format: percent }));
    const { trace } = state;
    now.replaceChildren(make('div', { class: 'columns' },
      make('div', {}, make('h3', { class: 'first' }, 'It would say next'), barList(moment.next.map((one) => ({
        label: make('span', { class: 'mono' }, tokenText(one.token)), value: one.probability, note: percent(one.probability), current: one.token.id === target.id,
      })), { most: 1, label: 'Most probable next tokens' })),
      make('div', {}, make('h3', { class: 'first' }, 'How surprised it is by each token'), lossText(trace, moment.loss.values))));
  }
  return stageCard('Across training', 'The same prompt at every stored checkpoint of this run: what it would have said then.', ['lens'],
    make('div', { class: 'row middle moment-row' }, title, slider, go), status, trouble, charts, now);
}

async function favourite(trace) {
  const { logits, texts } = await ofTrace(trace, 'logits', { position: trace.length - 1 });
  return tokenOf(highest(logits.values, 1)[0], texts);
}

// The loss of each token as the height of a bar under it; the first has none.
function lossText(trace, losses) {
  const shown = trace.tokens.slice(0, 200);
  const most = Math.max(...[...losses].filter(Number.isFinite), 1);
  return make('div', { class: 'loss-text', role: 'img', 'aria-label': `Loss of each token in nats; mean ${number(mean(losses))}` }, shown.map((token, at) => make('span', {
    class: 'mono', title: Number.isFinite(losses[at]) ? `${number(losses[at])} nats` : 'the first token is given',
    style: { '--loss': Number.isFinite(losses[at]) ? losses[at] / most : 0 },
  }, tokenText(token))));
}

function mean(values) {
  const real = [...values].filter(Number.isFinite);
  return real.reduce((sum, value) => sum + value, 0) / Math.max(1, real.length);
}
