// The sampler's settings as sliders with their numbers, in the order in which they act.

import { make } from '../core/dom.js';
import { change, model, state } from '../core/store.js';

const DEFAULTS = { temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1 };

/** Settings, each with the way from a slider's place in [0, 100] to a value and back. */
function settings() {
  const vocabulary = model().vocabulary;
  const linear = (low, high, step) => ({
    value: (place) => Math.round((low + (place / 100) * (high - low)) / step) * step, place: (value) => ((value - low) / (high - low)) * 100, low, high, step,
  });
  const steps = Math.log(vocabulary);
  return [
    ['repetition_penalty', 'Repetition penalty', linear(0.5, 2, 0.05), (value) => (value === 1 ? 'off' : value.toFixed(2))],
    ['temperature', 'Temperature', linear(0, 2, 0.05), (value) => (value === 0 ? '0: the best only' : value.toFixed(2))],
    // Few tokens are told apart finely, thousands coarsely; the right end keeps all.
    ['top_k', 'Top-k', {
      value: (place) => (place >= 100 ? 0 : Math.max(1, Math.round(Math.exp((place / 100) * steps)))),
      place: (value) => (value === 0 ? 100 : Math.min(99, (Math.log(value) / steps) * 100)), low: 0, high: vocabulary, step: 1,
    }, (value) => (value === 0 ? 'all' : String(value))],
    ['top_p', 'Top-p', linear(0.01, 1, 0.01), (value) => (value === 1 ? 'all' : value.toFixed(2))],
    ['min_p', 'Min-p', linear(0, 1, 0.01), (value) => (value === 0 ? 'off' : value.toFixed(2))],
  ];
}

/** @returns the node; it writes state.sampling */
export function samplerSliders(scope) {
  const rows = settings().map(([name, title, scale, say]) => {
    const out = make('output', { class: 'number' });
    const slider = make('input', {
      type: 'range', min: 0, max: 100, step: 0.5, 'aria-label': title, id: `slider-${name}`,
      on: { input: () => set(name, Number(scale.value(Number(slider.value)).toFixed(4))) },
    });
    scope.live(out, ['sampling'], ({ sampling }) => {
      out.textContent = say(sampling[name]);
      slider.setAttribute('aria-valuetext', say(sampling[name]));
      if (document.activeElement !== slider) slider.value = scale.place(sampling[name]);
    });
    slider.value = scale.place(state.sampling[name]);
    return make('div', { class: 'slider' }, make('label', { for: `slider-${name}` }, title), out, slider);
  });
  return make('div', { class: 'sliders', role: 'group', 'aria-label': 'Sampler' }, rows,
    make('button', { type: 'button', class: 'plain', on: { click: () => {
      document.activeElement?.blur?.();
      change({ sampling: { ...state.sampling, ...DEFAULTS } });
    } } }, 'As the model says'));
}

function set(name, value) {
  change({ sampling: { ...state.sampling, [name]: value } });
}
