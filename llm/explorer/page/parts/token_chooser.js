// A field to choose a piece of the vocabulary by typing a part of it.

import { make, settle } from '../core/dom.js';
import { get, ofTrace } from '../core/api.js';
import { percent, tokenText } from '../core/format.js';
import { softmax } from '../core/sampler.js';
import { state } from '../core/store.js';
import { highest, tokenOf } from '../core/vocabulary.js';
import { withCard } from './chip.js';

let made = 0;

/**
 * @param label what the token is for
 * @param current tells the chosen token or null; `none` is what null is called
 * @param choose called with a token or null
 */
export function tokenChooser(scope, label, current, choose, none) {
  made += 1;
  const id = `tokens-${made}`;
  const options = make('div', { class: 'options', id, role: 'listbox', hidden: true });
  const field = make('input', {
    type: 'text', role: 'combobox', 'aria-expanded': 'false', 'aria-controls': id, 'aria-autocomplete': 'list', autocomplete: 'off', spellcheck: 'false',
    placeholder: none, size: 16, class: 'mono',
  });
  let offered = [];
  let active = -1;

  function close() {
    options.hidden = true;
    field.setAttribute('aria-expanded', 'false');
    field.removeAttribute('aria-activedescendant');
    field.value = current() ? tokenText(current()) : '';
  }

  function take(token) {
    choose(token);
    close();
  }

  function offer(rows) {
    offered = [{ token: null, text: none }, ...rows];
    active = -1;
    options.replaceChildren(...offered.map((one, i) => {
      const node = make('div', { role: 'option', id: `${id}-${i}`, 'aria-selected': 'false', on: { pointerdown: (event) => {
        event.preventDefault();
        take(one.token);
      } } }, make('span', { class: one.token ? 'mono' : 'quiet' }, one.text), one.note ? make('small', { class: 'quiet number' }, ` ${one.note}`) : null);
      return one.token ? withCard(node, one.token) : node;
    }));
    options.hidden = false;
    field.setAttribute('aria-expanded', 'true');
  }

  const search = settle(async () => {
    const text = field.value.trim() ? field.value : '';
    const { trace, position, run } = state;
    try {
      if (!text) {
        const { logits, texts } = await ofTrace(trace, 'logits', { position });
        const probabilities = softmax(logits.values);
        offer(highest(logits.values, 12).map((one) => ({ token: tokenOf(one, texts), text: tokenOf(one, texts).text, note: percent(probabilities[one]) })));
      } else {
        // Pieces are shown with their spaces as dots; whoever copies one may mean the space.
        const { tokens } = await get('/api/vocabulary', { run, search: text.replaceAll('·', ' '), count: 20 });
        offer(tokens.map((token) => ({ token, text: tokenText(token), note: `id ${token.id}` })));
      }
    } catch (error) {
      options.replaceChildren(make('div', { class: 'quiet small' }, error.message));
      options.hidden = false;
    }
  }, 150);

  field.addEventListener('focus', () => {
    field.value = '';
    search();
  });
  field.addEventListener('input', search);
  field.addEventListener('blur', () => setTimeout(close, 100));
  field.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault();
      active = (active + (event.key === 'ArrowDown' ? 1 : -1) + offered.length) % offered.length;
      [...options.children].forEach((node, i) => node.setAttribute('aria-selected', i === active ? 'true' : 'false'));
      field.setAttribute('aria-activedescendant', `${id}-${active}`);
      options.children[active]?.scrollIntoView({ block: 'nearest' });
    } else if (event.key === 'Enter') {
      event.preventDefault();
      if (offered.length) take(offered[active < 0 ? Math.min(1, offered.length - 1) : active].token);
    } else if (event.key === 'Escape') close();
  });
  scope.live(options, ['target', 'trace'], () => { if (document.activeElement !== field) close(); });
  return make('div', { class: 'chooser' }, make('label', { class: 'field' }, label, field), options);
}
