// Side by side: the same prompt in another workdir or at another checkpoint, with the differences in numbers.

import { make } from '../core/dom.js';
import { askTrace, post } from '../core/api.js';
import { what } from '../core/actions.js';
import { count, number } from '../core/format.js';
import { Scope, change, model, state } from '../core/store.js';
import { differenceNodes, insideMaps } from '../parts/difference.js';
import { factList, stageCard } from '../parts/stage_card.js';
import { headInBoth } from '../parts/head_in_both.js';

/** @returns the node of the view */
export function compareView(scope) {
  const others = state.models.filter((one) => one.run !== state.run);
  let run = others[0]?.run ?? state.run;
  const models = make('select', { id: 'other-model' }, state.models.map((one) => make('option', { value: one.run }, one.name)));
  const steps = make('select', { id: 'other-step' });
  const seen = make('div');
  const insides = make('div', { class: 'columns' });
  const settings = make('div');
  let inner = null;
  scope.also(() => inner?.close());
  const fillSteps = () => {
    const one = state.models.find((each) => each.run === run);
    steps.replaceChildren(...one.steps.map((step) => make('option', { value: step }, `step ${count(step)}`)));
    // Against itself the first checkpoint says more than the same one.
    steps.value = String(run === state.run ? one.steps[0] : one.steps.at(-1));
  };
  models.value = String(run);
  fillSteps();
  models.addEventListener('change', () => {
    run = Number(models.value);
    fillSteps();
    change({ other: { run, step: Number(steps.value) } });
  });
  steps.addEventListener('change', () => change({ other: { run, step: Number(steps.value) } }));

  scope.live(seen, ['trace', 'position', 'other'], async ({ trace, position }, fresh) => {
    const step = Number(steps.value);
    const right = await askTrace(run, step, what(), []);
    const answer = await post('/api/comparisons', { left: trace.trace, right: right.trace, position }, { keep: true });
    if (!fresh()) return;
    const name = (one, at) => (run === state.run ? `step ${count(at)}` : one.name);
    const left = name(model(), state.step);
    const rightName = name(state.models.find((one) => one.run === run), step);
    seen.replaceChildren(
      make('p', { class: 'versus' }, make('b', { class: 'left' }, left), ' on the left, ', make('b', { class: 'right' }, rightName), ' on the right.'),
      factList([['Mean loss on the prompt', `${number(answer.loss.left)} → ${number(answer.loss.right)}`, 'nats a token'],
        ['Bits per byte', `${number(trace.bits_per_byte)} → ${number(right.bits_per_byte)}`, 'of this prompt']]),
      ...differenceNodes(answer, trace, { left, right: rightName, position, pick: (at) => change({ position: at }) }));
    inner?.close();
    inner = new Scope();
    insides.replaceChildren();
    const maps = insideMaps(inner, answer, trace, change);
    if (answer.pattern_distance) maps.push(headInBoth(inner, trace, right, left, rightName));
    insides.replaceChildren(...(maps.length ? maps : [make('p', { class: 'quiet' }, 'Their shapes differ, so their insides are not compared number by number.')]));
    settings.replaceChildren(settingsTable(answer.config, left, rightName));
  });
  return make('div', {},
    stageCard('Side by side', 'The same tokens in two models: what each would say next, and where in the text and in the network they part.', [],
      make('div', { class: 'row' }, make('label', { class: 'field' }, 'Compare with', models), make('label', { class: 'field' }, 'at', steps)), seen),
    stageCard('Inside', 'How far apart the two are in each layer.', ['residual', 'softmax'], insides),
    stageCard('Settings that differ', 'From the two runs’ config.json.', [], settings));
}

function settingsTable(rows, left, right) {
  if (!rows.length) return make('p', { class: 'quiet' }, 'None: the runs have the same settings.');
  const show = (value) => (typeof value === 'string' ? value : JSON.stringify(value));
  return make('div', { class: 'scroll' }, make('table', {}, make('thead', {}, make('tr', {}, ['Setting', left, right].map((name) => make('th', { scope: 'col' }, name)))),
    make('tbody', {}, rows.map((row) => make('tr', {}, make('th', { scope: 'row', class: 'mono' }, row.name), make('td', { class: 'mono' }, show(row.left)), make('td', { class: 'mono' }, show(row.right)))))));
}
