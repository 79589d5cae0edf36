// The frame of a stage: its name, one or two lines that say what happens there, and the code that does it.

import { make } from '../core/dom.js';
import { number } from '../core/format.js';
import { sourceButton } from './source.js';

/** A card whose head links to the source of `sources` (names of /api/sources). */
export function stageCard(title, says, sources, ...children) {
  return make('section', { class: 'card' },
    make('div', { class: 'card-head' },
      make('div', { class: 'with-source' }, make('h2', {}, title), sources.length ? sourceButton(...sources) : null),
      make('p', { class: 'quiet' }, says)),
    ...children);
}

/** Small facts side by side: list of [name, value, note]. */
export function factList(facts) {
  return make('dl', { class: 'fact-list' }, facts.filter(Boolean).map(([name, value, note]) => make('div', {},
    make('dt', {}, name), make('dd', {}, value, note ? make('small', {}, note) : null))));
}

/** Lengths of the residual stream around what a stage adds, as a sum one can read. */
export function streamSum(before, norm, scale, name, added, after) {
  return make('div', { class: 'stream-sum', role: 'group', 'aria-label': 'Lengths of vectors at this token' },
    part(number(before), 'stream before'), arrow(`× ${number(scale)}`, norm), part(name, `adds ${number(added)}`, 'doing'),
    arrow('+', ''), part(number(after), 'stream after'));
}

function part(value, name, kind = '') {
  return make('div', { class: `sum-part ${kind}` }, make('b', { class: 'number' }, value), make('span', { class: 'quiet small' }, name));
}

function arrow(text, under) {
  return make('div', { class: 'sum-arrow' }, make('span', { class: 'number' }, text), make('span', { class: 'quiet small' }, under));
}
