// The tokens of the prompt in one line that stays in sight. Only those in the window are in the document, so 2,000
// tokens scroll like 20. The left and right arrow keys move the token that is followed.

import { announce, make } from '../core/dom.js';
import { tokenText } from '../core/format.js';
import { css, ink, weightColour } from '../core/colours.js';
import { watchScheme } from '../core/scheme.js';
import { change, state, watch } from '../core/store.js';
import { withCard } from './chip.js';

const GAP = 4;
const PAD = 14;

/** The strip, which lives as long as the page. */
export function tokenStrip() {
  const line = make('div', { class: 'strip-line' });
  const box = make('div', {
    class: 'strip', tabindex: 0, role: 'listbox', 'aria-label': 'Tokens of the prompt', 'aria-orientation': 'horizontal',
  }, line);
  let places = [];
  const measure = document.createElement('canvas').getContext('2d');

  function lay() {
    const tokens = state.trace?.tokens ?? [];
    measure.font = `13.5px ${getComputedStyle(document.documentElement).getPropertyValue('--mono')}`;
    let left = 0;
    places = tokens.map((token) => {
      const width = Math.max(24, Math.ceil(measure.measureText(tokenText(token)).width) + PAD);
      const place = { left, width };
      left += width + GAP;
      return place;
    });
    line.style.width = `${left}px`;
    fill();
    reveal();
  }

  function fill() {
    const tokens = state.trace?.tokens ?? [];
    const [from, to] = [box.scrollLeft - 300, box.scrollLeft + box.clientWidth + 300];
    let first = 0; // by halves, so that a long prompt costs no more
    let last = places.length;
    while (first < last) {
      const middle = (first + last) >> 1;
      if (places[middle].left + places[middle].width < from) first = middle + 1;
      else last = middle;
    }
    const shown = [];
    for (let at = first; at < places.length && places[at].left < to; at += 1) shown.push(chipAt(tokens[at], at));
    line.replaceChildren(...shown);
    box.setAttribute('aria-activedescendant', `strip-${state.position}`);
  }

  function chipAt(token, at) {
    const chosen = at === state.position;
    const made = at >= (state.session?.given ?? Infinity) ? ' made' : '';
    const node = make('div', {
      class: `strip-chip${token.special ? ' special' : ''}${made}`, role: 'option', id: `strip-${at}`, 'aria-selected': chosen ? 'true' : 'false',
      'aria-posinset': at + 1, 'aria-setsize': places.length, style: { left: `${places[at].left}px`, width: `${places[at].width}px` },
      on: { click: () => go(at) },
    }, tokenText(token));
    const share = state.shade?.[at];
    if (share !== undefined) {
      const colour = weightColour(share);
      node.style.background = css(colour);
      node.style.color = ink(colour);
    }
    return withCard(node, token);
  }

  function reveal() {
    const place = places[state.position];
    if (!place) return;
    if (place.left < box.scrollLeft + 40) box.scrollLeft = place.left - 60;
    const over = place.left + place.width - box.scrollLeft - box.clientWidth + 40;
    if (over > 0) box.scrollLeft += over + 20;
  }

  function go(position) {
    change({ position: Math.max(0, Math.min(places.length - 1, position)) });
    announce(`Token ${state.position}: ${tokenText(state.trace.tokens[state.position])}`);
  }

  box.addEventListener('scroll', fill, { passive: true });
  box.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -16, PageDown: 16, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || !places.length) return;
    event.preventDefault();
    go(Number.isFinite(by) ? state.position + by : by < 0 ? 0 : places.length - 1);
  });
  watch(['trace', 'session'], lay);
  watch(['position'], () => {
    reveal();
    fill();
  });
  watch(['shade'], fill);
  watchScheme(fill);
  new ResizeObserver(lay).observe(box);
  return box;
}
