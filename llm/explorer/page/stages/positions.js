// Where a token stands: a vector that is added, angles by which queries and keys are turned, or a slope on the scores.

import { draw, make } from '../core/dom.js';
import { ofTrace } from '../core/api.js';
import { number } from '../core/format.js';
import { model } from '../core/store.js';
import { barcode } from '../parts/barcode.js';
import { barList } from '../parts/bars.js';
import { stageCard } from '../parts/stage_card.js';

const SAYS = {
  rope: 'RoPE turns each pair of numbers in every query and key by an angle that grows with the position: fast for the first pairs, slowly for the last. Scores then depend on how far two tokens are apart.',
  alibi: 'ALiBi adds nothing to the vectors. Each head takes its slope times the distance off its scores, so that far tokens weigh less.',
  learned: 'A learned vector for this position is added to the token’s own.',
  sinusoidal: 'Sines and cosines of the position, from fast to slow, are added to the token’s own vector.',
  none: 'This model is told nothing about positions; the causal mask alone lets it find order.',
};

/** @returns the node of the stage */
export function positionsStage(scope) {
  const body = make('div');
  let bars = [];
  const drop = () => { for (const bar of bars.splice(0)) bar.end(); };
  scope.also(drop);
  scope.live(body, ['trace', 'position'], async ({ trace, position }, fresh) => {
    const answer = await ofTrace(trace, 'embedding', { position });
    if (!fresh()) return;
    drop();
    const { kind, vector, angles, slopes } = answer.position;
    const parts = [];
    const show = (label, values) => {
      const bar = barcode(label);
      bars.push(bar);
      bar.show(values);
      parts.push(bar.node);
    };
    if (vector) {
      show('The token’s vector', answer.vector.values);
      show(`The vector of position ${position}`, vector.values);
    }
    if (angles) parts.push(make('h3', {}, `Angles at position ${position}, pair by pair`), dials(angles.values));
    if (slopes) {
      parts.push(make('h3', {}, 'Slope of each head'), barList([...slopes.values].map((slope, head) => ({
        label: `head ${head}`, value: slope, note: `−${number(slope)} a token`,
      }))));
    }
    show('What enters the first block', answer.enters.values);
    body.replaceChildren(make('p', {}, SAYS[kind] ?? ''), ...parts);
  });
  return stageCard('Position', `Without it, attention could not tell «a b» from «b a». This model: ${model().positions}.`, ['positions'], body);
}

// A clock face for each pair; at most 64, evenly chosen, since wide heads have more than one can look at.
function dials(angles) {
  const shown = Math.min(64, angles.length);
  const faces = Array.from({ length: shown }, (_, i) => Math.floor((i * angles.length) / shown)).map((pair) => {
    const [x, y] = [Math.cos(angles[pair]), Math.sin(angles[pair])];
    return draw('svg', { viewBox: '-12 -12 24 24', class: 'dial' }, draw('title', {}, `pair ${pair}: ${number(angles[pair])} radians`),
      draw('circle', { r: 10.5, class: 'face' }),
      draw('line', { x1: 0, y1: 0, x2: (x * 9).toFixed(2), y2: (-y * 9).toFixed(2), class: 'hand' }), draw('circle', { r: 1.5, class: 'pin' }));
  });
  return make('div', { class: 'dials', role: 'img', 'aria-label': `${angles.length} angles, from ${number(angles[0])} to ${number(angles.at(-1))} radians` }, faces);
}
