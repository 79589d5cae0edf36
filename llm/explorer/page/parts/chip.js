// A token as a chip, and the card that opens over it: id, bytes, and its neighbours in the embedding space.

import { make } from '../core/dom.js';
import { get } from '../core/api.js';
import { hex, number, tokenText } from '../core/format.js';
import { state } from '../core/store.js';

const tokens = new WeakMap(); // element -> token

/** Lets an element open the card of a token when it is pointed at or focused. */
export function withCard(node, token) {
  tokens.set(node, token);
  node.dataset.token = token.id;
  return node;
}

/** A token to read, or with `pick` one to press. */
export function chip(token, { pick, current = false, note } = {}) {
  const inside = [tokenText(token), note ? make('small', {}, note) : null];
  const kind = `chip${token.special ? ' special' : ''}${current ? ' current' : ''}`;
  const node = pick
    ? make('button', { type: 'button', class: kind, on: { click: pick } }, inside)
    : make('span', { class: kind, tabindex: 0 }, inside);
  return withCard(node, token);
}

/** Starts the card: one element that moves to whatever token is pointed at. */
export function startCards() {
  const box = make('div', { class: 'token-card', role: 'tooltip', id: 'token-card', hidden: true });
  document.body.append(box);
  let owner = null;
  let timer = 0;

  function hide() {
    clearTimeout(timer);
    owner?.removeAttribute('aria-describedby');
    owner = null;
    box.hidden = true;
  }

  function open(node) {
    if (node === owner) return;
    hide();
    owner = node;
    timer = setTimeout(() => fillCard(box, node, tokens.get(node), () => owner === node), 130);
  }

  const found = (event) => event.target instanceof Element && event.target.closest('[data-token]');
  document.addEventListener('pointerover', (event) => {
    const node = found(event);
    if (node && tokens.has(node)) open(node);
    else if (owner && !owner.contains(event.target) && document.activeElement !== owner) hide();
  });
  document.addEventListener('focusin', (event) => {
    const node = found(event);
    if (node && tokens.has(node)) open(node);
    else hide();
  });
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') hide(); });
  document.addEventListener('scroll', hide, { capture: true, passive: true });
}

async function fillCard(box, node, token, wanted) {
  const near = make('p', { class: 'quiet small' }, 'Neighbours …');
  box.replaceChildren(
    make('p', { class: 'card-token mono' }, tokenText(token)),
    make('p', { class: 'small number' }, `id ${token.id}`, token.special ? ', special' : '',
      token.bytes.length ? `, ${token.bytes.length} byte${token.bytes.length === 1 ? '' : 's'}: ` : '',
      make('span', { class: 'mono' }, hex(token.bytes))),
    near);
  box.hidden = false;
  node.setAttribute('aria-describedby', 'token-card');
  place(box, node);
  try {
    const { neighbours } = await get('/api/neighbours', { run: state.run, step: state.step, token: token.id, count: 8 });
    if (!wanted()) return;
    near.replaceWith(make('p', { class: 'small' }, make('span', { class: 'quiet' }, 'Nearest in the embedding, by cosine:'), make('br'),
      neighbours.map((one) => make('span', { class: 'near' }, make('span', { class: 'mono' }, tokenText(one.token)),
        make('small', { class: 'quiet number' }, ` ${number(one.cosine, 2)}`), ' '))));
  } catch (error) {
    if (wanted()) near.textContent = error.message;
  }
  if (wanted()) place(box, node);
}

function place(box, node) {
  const at = node.getBoundingClientRect();
  const own = box.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left + at.width / 2 - own.width / 2, innerWidth - own.width - 8));
  const below = at.bottom + 8;
  box.style.left = `${left}px`;
  box.style.top = `${below + own.height > innerHeight - 8 ? Math.max(8, at.top - own.height - 8) : below}px`;
}
