// The form of an edit: which part of which block, and what is done to it. Head buttons switch a head off at one press.

import { make } from '../core/dom.js';
import { model, state } from '../core/store.js';

const PARTS_OF_BLOCK = [['head', 'a head'], ['neuron', 'a neuron'], ['attention', 'all attention'], ['feed_forward', 'all feed-forward']];

function whole(label, id, most, value = 0) {
  const field = make('input', { type: 'number', min: 0, max: most, step: 1, value, id, required: true });
  return { field, node: make('label', { class: 'field' }, label, field) };
}

function choice(label, id, options) {
  const field = make('select', { id }, options.map(([value, name]) => make('option', { value }, name)));
  return { field, node: make('label', { class: 'field' }, label, field) };
}

/** @param add is called with an edit as the server takes it */
export function editForm(scope, add) {
  const shape = model();
  const has = (part) => shape.feed_forward_width > 0 || !['neuron', 'feed_forward'].includes(part);
  const layer = whole('Block', 'edit-layer', shape.layers - 1, state.layer);
  const heads = make('div', { class: 'head-switches', role: 'group', 'aria-label': 'Heads' });
  const part = choice('Part', 'edit-part', PARTS_OF_BLOCK.filter(([name]) => has(name)));
  const unit = whole('Number', 'edit-unit', shape.heads - 1);
  const scale = make('input', { type: 'number', min: -10, max: 10, step: 0.1, value: 0, id: 'edit-scale' });
  const form = make('form', { class: 'row', on: { submit: (event) => {
    event.preventDefault();
    const kind = part.field.value;
    add({ kind, layer: Number(layer.field.value), ...unitOf(kind, unit.field), scale: Number(scale.value) });
  } } }, part.node, unit.node, make('label', { class: 'field' }, 'Scale (0: off)', scale), make('button', { type: 'submit', id: 'edit-apply' }, 'Apply'));
  part.field.addEventListener('change', () => limit(part.field.value, unit, shape));

  scope.live(heads, ['edits'], ({ edits }) => {
    const focused = heads.contains(document.activeElement) ? document.activeElement.dataset.head : null;
    fillHeads(heads, Number(layer.field.value), edits, add);
    if (focused) heads.querySelector(`[data-head="${focused}"]`)?.focus();
  });
  layer.field.addEventListener('input', () => fillHeads(heads, Number(layer.field.value), state.edits, add));

  return make('div', { class: 'edit-form' },
    make('div', { class: 'row' }, layer.node, make('div', { class: 'field-like' }, make('span', { class: 'quiet small' }, 'Heads: press to switch off and on'), heads)),
    make('details', {}, make('summary', {}, 'Scale a head, a neuron or a whole part'), form),
    make('details', {}, make('summary', {}, 'Patch in an activation from another prompt'), patchForm(() => Number(layer.field.value), add, has)));
}

function unitOf(kind, field) {
  return kind === 'head' ? { head: Number(field.value) } : kind === 'neuron' ? { neuron: Number(field.value) } : {};
}

function limit(kind, unit, shape) {
  const most = kind === 'head' ? shape.heads - 1 : shape.feed_forward_width - 1;
  unit.field.max = most;
  unit.field.value = Math.min(Number(unit.field.value), Math.max(0, most));
  unit.node.hidden = !['head', 'neuron'].includes(kind);
}

function fillHeads(box, layer, edits, add) {
  box.replaceChildren(...Array.from({ length: model().heads }, (_, head) => {
    const scale = edits.find((edit) => edit.kind === 'head' && edit.layer === layer && edit.head === head)?.scale ?? 1;
    return make('button', {
      type: 'button', class: 'head-switch', 'data-head': head, 'aria-pressed': scale === 0 ? 'false' : 'true', 'aria-label': `Block ${layer}, head ${head}`,
      on: { click: () => add({ kind: 'head', layer, head, scale: scale === 0 ? 1 : 0 }) },
    }, String(head));
  }));
}

function patchForm(layerOf, add, has) {
  const site = choice('What', 'patch-site', [['residual', 'residual stream after the block'], ['head', 'a head'], ['attention', 'attention'], ['feed_forward', 'feed-forward'], ['neuron', 'a neuron']]
    .filter(([name]) => has(name)));
  const unit = whole('Number', 'patch-unit', model().heads - 1);
  unit.node.hidden = true;
  site.field.addEventListener('change', () => limit(site.field.value, unit, model()));
  const prompt = make('input', { type: 'text', id: 'patch-prompt', class: 'mono', required: true, size: 28 });
  const at = make('input', { type: 'number', id: 'patch-position', min: 0, step: 1, placeholder: 'last' });
  const from = make('input', { type: 'number', id: 'patch-from', min: 0, step: 1, placeholder: 'last' });
  const place = (field) => (field.value === '' ? null : Number(field.value));
  return make('form', { class: 'row', on: { submit: (event) => {
    event.preventDefault();
    add({
      kind: 'patch', site: site.field.value, layer: layerOf(), ...unitOf(site.field.value, unit.field), position: place(at), prompt: prompt.value, from_position: place(from),
    });
  } } }, site.node, unit.node, make('label', { class: 'field' }, 'The other prompt', prompt),
  make('label', { class: 'field' }, 'its token', from), make('label', { class: 'field' }, 'to token', at), make('button', { type: 'submit', id: 'patch-apply' }, 'Patch'));
}
