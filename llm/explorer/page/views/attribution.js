// Who makes this token likely? The logit as a sum of what the embedding, every head and every feed-forward adds.

import { make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { readEdited } from '../core/actions.js';
import { largest } from '../core/arrays.js';
import { signedColour } from '../core/colours.js';
import { number, signed, tokenText } from '../core/format.js';
import { change, model, state } from '../core/store.js';
import { barList } from '../parts/bars.js';
import { heatmap } from '../parts/heatmap.js';
import { factList, stageCard } from '../parts/stage_card.js';
import { tokenChooser } from '../parts/token_chooser.js';
import { highest, tokenOf } from '../core/vocabulary.js';

const LISTED = 14;

/** @returns the node of the view */
export function attributionView(scope) {
  let against = null;
  const facts = make('div');
  const list = make('div');
  const forward = make('div');
  const trouble = make('div');
  const neurons = make('div');
  const map = heatmap({
    label: 'Contribution of every head: blocks down, heads across',
    pick: (layer, head) => change({ layer, head, stage: `attention:${layer}`, view: 'follow' }),
  });
  scope.also(map.end);
  const chooser = tokenChooser(scope, 'Logit of', () => state.target, (token) => change({ target: token }), 'the most probable');
  const other = tokenChooser(scope, 'minus that of', () => against, (token) => {
    against = token;
    show(state, () => scope.open).catch((error) => { trouble.textContent = error.message; });
  }, 'nothing');

  async function show({ trace, position, target }, fresh) {
    const { logits, texts } = await ofTrace(trace, 'logits', { position });
    const token = target ?? tokenOf(highest(logits.values, 1)[0], texts);
    const answer = await ofTrace(trace, 'attribution', { position, token: token.id, against: against?.id });
    if (!fresh()) return;
    trouble.replaceChildren();
    const [layers, heads] = answer.heads.shape;
    const parts = [{ name: 'embedding', value: answer.embedding }, { name: 'bias', value: answer.bias }, { name: 'patched in', value: answer.patched }];
    for (let layer = 0; layer < layers; layer += 1) {
      for (let head = 0; head < heads; head += 1) parts.push({ name: `block ${layer}, head ${head}`, value: answer.heads.at(layer, head), layer, head });
      parts.push({ name: `block ${layer}, feed-forward`, value: answer.feed_forward.values[layer] ?? 0, layer });
      parts.push({ name: `block ${layer}, attention bias`, value: answer.attention_bias.values[layer] ?? 0, layer, bias: true });
    }
    facts.replaceChildren(factList([
      [answer.against ? 'Difference of logits' : 'Logit', number(answer.logit, 5), answer.capped ? 'before the soft-cap' : null],
      ['Sum of all parts', number(answer.sum, 5), `off by ${number(Math.abs(answer.sum - answer.logit), 2)}`],
      ['The final norm divides by', number(1 / answer.final_norm_scale), 'held fixed: then the logit is a plain sum']]));
    const order = parts.filter((part) => part.value !== 0).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const rest = order.slice(LISTED).reduce((sum, part) => sum + part.value, 0);
    const rows = order.slice(0, LISTED).map((part) => ({
      label: part.name, value: part.value, note: signed(part.value),
      title: part.head !== undefined ? 'Show this head' : undefined, pick: part.layer === undefined || part.bias ? undefined : () => openPart(part, token),
    }));
    if (order.length > LISTED) rows.push({ label: `all other ${order.length - LISTED}`, value: rest, note: signed(rest), cut: true });
    list.replaceChildren(barList(rows, { signed: true, label: 'Contributions' }));
    const most = largest(answer.heads.values) || 1;
    map.show({
      rows: layers, columns: heads, widest: 40, colour: (layer, head) => signedColour(answer.heads.at(layer, head) / most),
      describe: (layer, head) => `block ${layer}, head ${head}: ${signed(answer.heads.at(layer, head))}`,
    });
    forward.replaceChildren(barList([...answer.feed_forward.values].map((value, layer) => ({ label: `block ${layer}`, value, note: signed(value) })), { signed: true, label: 'Feed-forwards' }));
  }

  async function openPart(part, token) {
    if (part.head !== undefined) {
      change({ layer: part.layer, head: part.head, stage: `attention:${part.layer}`, view: 'follow' });
      return;
    }
    try {
      const { top } = await ofTrace(state.trace, 'attribution/neurons', { layer: part.layer, position: state.position, token: token.id, against: against?.id, count: 12 });
      neurons.replaceChildren(make('h3', {}, `Neurons of block ${part.layer}`), barList(top.map((one) => ({
        label: `neuron ${one.neuron}`, value: one.contribution, note: `${signed(one.contribution)} (activation ${number(one.activation, 2)})`,
        title: 'Switch it off and see', pick: () => off({ kind: 'neuron', layer: part.layer, neuron: one.neuron, scale: 0 }),
      })), { signed: true }), make('p', { class: 'quiet small' }, 'Press a neuron to switch it off and see what changes.'));
    } catch (error) {
      neurons.replaceChildren(make('p', { class: error.absent ? 'absent' : 'trouble', role: 'alert' }, error.message));
    }
  }

  async function off(edit) {
    await readEdited([...state.edits, edit]);
    change({ view: 'edit' });
  }

  scope.live(trouble, ['trace', 'position', 'target'], (now, fresh) => {
    neurons.replaceChildren();
    return show(now, fresh);
  });
  const title = make('span');
  scope.live(title, ['trace', 'position'], ({ trace, position }) => { title.textContent = `Attribution after «${tokenText(trace.tokens[position])}»`; });
  const hasForward = model().feed_forward_width > 0;
  return stageCard(title, 'With the final norm’s scale held fixed, a logit is a sum: what the embedding, every head and every feed-forward added to the stream, each compared with the token’s unembedding row.',
    ['attribution'], make('div', { class: 'row' }, chooser, other), trouble, facts,
    make('div', { class: 'columns' }, make('div', {}, make('h3', {}, 'Largest parts'), list, neurons),
      make('div', {}, make('h3', {}, 'Heads'), map.node, make('p', { class: 'quiet small' }, 'Blocks down, heads across. Press a cell to see the head.'),
        hasForward ? [make('h3', {}, 'Feed-forwards'), make('div', { class: 'capped' }, forward)] : null)));
}
