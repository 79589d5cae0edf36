// The feed-forward part of a block: which neurons fire at this token, and what their value rows speak for.

import { make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { readEdited } from '../core/actions.js';
import { largest } from '../core/arrays.js';
import { number, percent, signed, tokenText } from '../core/format.js';
import { change, model, state } from '../core/store.js';
import { barcode } from '../parts/barcode.js';
import { chip } from '../parts/chip.js';
import { factList, stageCard, streamSum } from '../parts/stage_card.js';

/** The block of the stage that is shown. */
function shownLayer() {
  return Number(state.stage.split(':')[1]);
}

/** @returns the node of the stage */
export function feedForwardStage(scope) {
  const sum = make('div');
  const added = barcode('What is added to the stream');
  scope.also(added.end);
  const neurons = make('div');
  const detail = make('div', { 'aria-live': 'polite' });
  const title = make('span');
  scope.live(title, ['stage'], () => { title.textContent = `Block ${shownLayer()}: feed-forward`; });
  scope.live(sum, ['trace', 'position', 'stage'], async ({ trace, position }, fresh) => {
    const block = await ofTrace(trace, 'block', { layer: shownLayer(), position });
    if (!fresh()) return;
    sum.replaceChildren(streamSum(block.norms.between, model().norm, block.norm_scale.feed_forward, 'feed-forward',
      block.norms.feed_forward, block.norms.after));
    added.show(block.feed_forward.values);
  });
  scope.live(neurons, ['trace', 'position', 'stage'], async ({ trace, position }, fresh) => {
    detail.replaceChildren();
    const layer = shownLayer();
    const answer = await ofTrace(trace, 'neurons', { layer, position, count: 12 });
    if (!fresh()) return;
    neurons.replaceChildren(
      make('div', { class: 'columns' },
        factList([['Neurons', String(model().feed_forward_width)], ['Above zero here', percent(answer.active)]]),
        histogram(answer.histogram)),
      make('h3', {}, 'Neurons that add most at this token'),
      make('div', { class: 'scroll' }, make('table', { class: 'neurons' },
        make('thead', {}, make('tr', {}, ['Neuron', 'Activation', 'Its value row speaks for', 'and against', ''].map((name, i) => make('th', { scope: 'col', class: i === 1 ? 'number' : null }, name)))),
        make('tbody', {}, answer.top.map((one) => neuronRow(one, layer, detail))))));
  });
  return make('section', { class: 'card' }, ...stageCard(title,
    'Each neuron compares the token’s vector with its key row; where they match it adds its value row to the stream. A value row, read through the unembedding, speaks for some next tokens and against others.',
    ['norm', 'feed_forward', 'residual'], sum, added.node, neurons, detail).childNodes);
}

function neuronRow(one, layer, detail) {
  const words = (list) => list.map(({ token }) => chip(token));
  return make('tr', {},
    make('th', { scope: 'row' }, make('button', {
      type: 'button', class: 'plain', title: 'Where in the prompt it fires', on: { click: () => openNeuron(one.neuron, layer, detail) },
    }, String(one.neuron))),
    make('td', { class: 'number' }, number(one.activation)),
    make('td', { class: 'words' }, words(one.promotes)), make('td', { class: 'words' }, words(one.suppresses)),
    make('td', {}, make('button', {
      type: 'button', class: 'plain', on: { click: () => switchOff(one.neuron, layer, detail) },
    }, 'Switch off')));
}

async function switchOff(neuron, layer, detail) {
  const edits = state.edits.filter((edit) => !(edit.kind === 'neuron' && edit.layer === layer && edit.neuron === neuron));
  try {
    await readEdited([...edits, { kind: 'neuron', layer, neuron, scale: 0 }]);
    change({ view: 'edit' });
  } catch (error) {
    detail.replaceChildren(make('p', { class: error.absent ? 'absent' : 'trouble', role: 'alert' }, error.message));
  }
}

async function openNeuron(neuron, layer, detail) {
  const { trace } = state;
  try {
    const answer = await ofTrace(trace, 'neuron', { layer, neuron });
    if (state.trace !== trace || layer !== shownLayer()) return;
    const values = answer.activations.values;
    const most = largest(values) || 1;
    change({ shade: values.map((value) => Math.max(0, value) / most) });
    const best = [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, 10);
    detail.replaceChildren(make('h3', {}, `Neuron ${neuron} along the prompt (the strip above is coloured by it)`),
      make('p', {}, best.map((at) => chip(trace.tokens[at], {
        pick: () => change({ position: at }), note: `${at}: ${number(values[at], 2)}`,
      }))),
      make('p', { class: 'small' }, 'Speaks for ', answer.promotes.map(({ token, logit }) => [make('span', { class: 'mono' }, tokenText(token)), ` ${signed(logit, 2)}  `])));
  } catch (error) {
    detail.replaceChildren(make('p', { class: error.absent ? 'absent' : 'trouble', role: 'alert' }, error.message));
  }
}

function histogram({ edges, counts }) {
  const most = Math.max(...counts, 1);
  return make('figure', { class: 'histogram' }, make('figcaption', { class: 'quiet small' }, 'Activations of all neurons at this token'),
    make('div', { class: 'columns-of-bars', role: 'img', 'aria-label': `Histogram from ${number(edges[0])} to ${number(edges.at(-1))}` },
      counts.map((one, i) => make('span', {
        title: `${number(edges[i])} to ${number(edges[i + 1])}: ${one}`, class: edges[i + 1] <= 0 ? 'below' : null,
        // The square root keeps the few large ones in sight beside the many near zero.
        style: { height: `${Math.sqrt(one / most) * 100}%` },
      }))),
    make('div', { class: 'ends quiet small number' }, make('span', {}, number(edges[0])), make('span', {}, 'heights: square root of counts'), make('span', {}, number(edges.at(-1)))));
}
