// All heads of a block as small pictures of their patterns; the one that is chosen is shown large elsewhere.

import { make } from '../core/dom.js';
import { weightColour } from '../core/colours.js';
import { number } from '../core/format.js';
import { change, state } from '../core/store.js';

const KINDS = [['induction', 'induction'], ['duplicate', 'same token'], ['previous', 'token before'], ['first', 'first token']];

/** What a head does most, where one of the known scores is large. */
function character(answer, head) {
  for (const [name, says] of KINDS) {
    const score = answer[name].values[head];
    if (score > 0.4) return `${says} ${number(score, 2)}`;
  }
  return '';
}

/** @param answer of /heads. @returns a row of buttons; the arrow keys move between them */
export function headRow(scope, answer) {
  const [heads, side] = answer.thumbnails.shape;
  const buttons = Array.from({ length: heads }, (_, head) => {
    const canvas = make('canvas', { width: side, height: side, 'aria-hidden': 'true' });
    const pen = canvas.getContext('2d');
    const image = pen.createImageData(side, side);
    answer.thumbnails.row(head).values.forEach((weight, i) => image.data.set([...weightColour(weight), 255], i * 4));
    pen.putImageData(image, 0, 0);
    return make('button', { type: 'button', class: 'head-button', role: 'radio', 'data-head': head, on: { click: () => change({ head }) } },
      canvas, make('span', { class: 'small' }, `head ${head}`), make('span', { class: 'quiet head-kind' }, character(answer, head)));
  });
  const row = make('div', { class: 'head-row', role: 'radiogroup', 'aria-label': 'Head' }, buttons);
  row.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const head = (state.head + by + heads) % heads;
    change({ head });
    buttons[head].focus();
  });
  scope.live(row, ['head'], ({ head }) => buttons.forEach((button, i) => {
    button.setAttribute('aria-checked', i === head ? 'true' : 'false');
    button.tabIndex = i === Math.min(head, heads - 1) ? 0 : -1;
  }));
  return row;
}
