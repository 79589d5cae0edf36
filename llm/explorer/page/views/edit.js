// Edit and see: switch off or scale heads, neurons and whole parts, or patch in an activation from another prompt.

import { make } from '../core/dom.js';
import { post } from '../core/api.js';
import { readEdited } from '../core/actions.js';
import { number, tokenText } from '../core/format.js';
import { change, model, state } from '../core/store.js';
import { differenceNodes } from '../parts/difference.js';
import { stageCard } from '../parts/stage_card.js';
import { editForm } from './edit_form.js';

/** An edit in words. */
function sayEdit(edit) {
  const unit = (kind) => (kind === 'head' ? `head ${edit.head}` : kind === 'neuron' ? `neuron ${edit.neuron}`
    : { attention: 'attention', feed_forward: 'feed-forward', residual: 'residual stream' }[kind]);
  if (edit.kind === 'patch') {
    const place = edit.position === null ? 'the last token' : `token ${edit.position}`;
    const from = edit.from_position === null ? 'the last token' : `token ${edit.from_position}`;
    return `Block ${edit.layer}, ${unit(edit.site)} at ${place}: from ${from} of «${edit.prompt}»`;
  }
  return `Block ${edit.layer}, ${unit(edit.kind)}`;
}

/** @returns the node of the view */
export function editView(scope) {
  const trouble = make('div');
  const list = make('div');
  const seen = make('div');
  const attempt = async (edits) => {
    trouble.replaceChildren();
    try {
      await readEdited(edits);
    } catch (error) {
      trouble.replaceChildren(make('p', { class: error.absent ? 'absent' : 'trouble', role: 'alert' }, error.message));
    }
  };

  scope.live(list, ['edits', 'trace'], ({ edits }) => {
    if (list.contains(document.activeElement) && list.querySelectorAll('li').length === edits.length) return; // a slider in hand stays
    list.replaceChildren(edits.length ? make('ol', { class: 'edits' }, edits.map((edit, i) => editRow(edit, i))) : make('p', { class: 'quiet' }, 'No edits: this is the model as it was trained.'),
      edits.length ? make('button', { type: 'button', id: 'undo-all', on: { click: () => attempt([]) } }, 'Undo all') : '');
  });

  function editRow(edit, i) {
    const others = () => state.edits.filter((_, at) => at !== i);
    const set = (scale) => attempt(state.edits.map((one, at) => (at === i ? { ...one, scale } : one)));
    let control = null;
    if (edit.kind !== 'patch') {
      const out = make('output', { class: 'number' }, sayScale(edit.scale));
      const slider = make('input', {
        type: 'range', min: -1, max: 3, step: 0.1, 'aria-label': `Scale of ${sayEdit(edit)}`, on: {
          input: () => { out.textContent = sayScale(Number(slider.value)); }, change: () => set(Number(slider.value)),
        },
      });
      slider.value = edit.scale;
      control = make('span', { class: 'edit-scale' }, slider, out);
    }
    return make('li', {}, make('span', { class: 'edit-name' }, sayEdit(edit)), control,
      make('button', { type: 'button', class: 'plain', 'aria-label': `Undo: ${sayEdit(edit)}`, on: { click: () => attempt(others()) } }, 'Undo'));
  }

  scope.live(seen, ['trace', 'plain', 'position'], async ({ trace, plain, edits, position }, fresh) => {
    if (!edits.length) {
      seen.replaceChildren(make('p', { class: 'quiet' }, `Switch off something above and see what happens to the probabilities after «${tokenText(trace.tokens[position])}».`));
      return;
    }
    const answer = await post('/api/comparisons', { left: plain.trace, right: trace.trace, position }, { keep: true });
    if (!fresh()) return;
    seen.replaceChildren(...differenceNodes(answer, trace, { left: 'as trained', right: 'edited', position, pick: (at) => change({ position: at }) }),
      make('p', { class: 'quiet small' }, `Mean loss on the prompt: ${number(answer.loss.left)} as trained, ${number(answer.loss.right)} edited, in nats a token.`));
  });
  return make('div', {},
    stageCard('Edit the model', 'Edits hold while this prompt is read and while tokens are drawn; the checkpoint stays as it is.', ['edit'],
      // A scale of 1 is no edit.
      editForm(scope, (edit) => attempt([...state.edits.filter((one) => !sameUnit(one, edit)), ...(edit.scale === 1 ? [] : [edit])])), trouble, list),
    stageCard('What changes', 'Probabilities of the next token, the model as trained beside the edited one.', [], seen));
}

function sayScale(scale) {
  return scale === 0 ? 'off' : `× ${scale.toFixed(1)}`;
}

function sameUnit(one, other) {
  return one.kind !== 'patch' && one.kind === other.kind && one.layer === other.layer && one.head === other.head && one.neuron === other.neuron;
}
