// Lists of horizontal bars: probabilities, logits, contributions.

import { make } from '../core/dom.js';

/**
 * @param rows {label (node or text), value, note (text), before (a value marked on the bar), cut (drawn pale), pick (called on a click), title}
 * @param options signed: bars grow from the middle, negative ones to the left; most: the value of a full bar
 */
export function barList(rows, { signed = false, most, label } = {}) {
  const full = most ?? (Math.max(...rows.map((row) => Math.abs(row.value)), 0) || 1);
  return make('div', { class: `bars${signed ? ' signed' : ''}`, role: 'list', 'aria-label': label }, rows.map((row) => {
    const width = `${Math.max(0, Math.min(1, Math.abs(row.value) / full)) * (signed ? 50 : 100)}%`;
    const bar = make('span', { class: `bar${row.value < 0 ? ' below' : ''}`, style: { width } });
    const ghost = row.before === undefined ? null
      : make('span', { class: 'ghost', style: { left: `${Math.min(1, row.before / full) * 100}%` } });
    const name = row.pick
      ? make('button', { class: 'plain bar-pick', type: 'button', title: row.title, on: { click: row.pick } }, row.label)
      : make('span', { title: row.title }, row.label);
    return make('div', { class: `bar-row-one${row.cut ? ' cut' : ''}${row.current ? ' current' : ''}`, role: 'listitem' },
      make('span', { class: 'bar-name' }, name), make('span', { class: 'bar-track', 'aria-hidden': 'true' }, bar, ghost),
      make('span', { class: 'bar-note number' }, row.note));
  }));
}

/** One bar that fills: what is used of what there is. `share` in [0, 1]. */
export function meter(share, label) {
  return make('div', {
    class: 'meter', role: 'meter', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': 100,
    'aria-valuenow': Math.round(share * 100),
  }, make('span', { style: { width: `${Math.min(1, share) * 100}%` } }));
}
