// The head of the page: which model, which checkpoint, which prompt, and the facts of the model in one line.

import { draw, make, settle } from '../core/dom.js';
import { carried, post } from '../core/api.js';
import { readElsewhere, readPrompt } from '../core/actions.js';
import { about, count, number, time } from '../core/format.js';
import { switchScheme } from '../core/scheme.js';
import { change, model, state, watch } from '../core/store.js';
import { setRunning } from './player.js';
import { openHelp } from './help.js';

/** The mark: a box one sees into. */
function mark() {
  return draw('svg', { viewBox: '0 0 32 32', 'aria-hidden': 'true' },
    draw('rect', { x: 3, y: 3, width: 26, height: 26, rx: 7, fill: 'none', stroke: 'var(--accent)', 'stroke-width': 2.4 }),
    draw('path', { d: 'M9 22V10M16 22v-7M23 22v-4', stroke: 'var(--accent)', 'stroke-width': 3, 'stroke-linecap': 'round', opacity: 0.85 }));
}

/** @returns the head's node; `start`: the prompt to begin with */
export function head(start) {
  const text = make('textarea', {
    id: 'prompt', rows: 3, spellcheck: 'false', autocapitalize: 'off', autocomplete: 'off', 'aria-label': 'Prompt',
    placeholder: 'Type a prompt; Ctrl+Enter follows it', value: start,
  });
  const length = make('p', { class: 'quiet small number', id: 'prompt-length' }, '\u00a0');
  const trouble = make('div', { class: 'ask-trouble' });
  const models = make('select', { 'aria-label': 'Model', id: 'model' });
  const steps = make('select', { 'aria-label': 'Checkpoint', id: 'checkpoint' });
  const go = make('button', { type: 'submit', class: 'main', id: 'follow' }, 'Follow');
  const facts = make('ul', { class: 'facts', 'aria-label': 'The model' });

  const attempt = async (action) => {
    trouble.replaceChildren();
    go.disabled = true;
    go.textContent = 'Reading …';
    try {
      await action();
    } catch (error) {
      const kind = error.absent ? 'absent' : 'trouble';
      trouble.replaceChildren(make('p', { class: kind, role: 'alert' }, error.message));
    }
    go.textContent = 'Follow';
    go.disabled = Boolean(carried());
  };
  const measure = settle(async () => {
    const prompt = text.value;
    try {
      const answer = await post('/api/tokenize', { run: state.run, prompt }, { keep: true });
      if (prompt !== text.value) return;
      length.textContent = `${count(answer.length)} of ${count(answer.context)} tokens`;
      length.classList.toggle('over', !answer.fits);
    } catch {
      length.textContent = '\u00a0'; // what is wrong is said when the prompt is followed
    }
  }, 200);
  text.addEventListener('input', measure);
  text.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  models.addEventListener('change', () => attempt(() => {
    const chosen = state.models.find((one) => one.run === Number(models.value));
    return readElsewhere(chosen.run, chosen.steps.at(-1));
  }).then(show));
  steps.addEventListener('change', () => attempt(() => readElsewhere(state.run, Number(steps.value))).then(show));

  function show() {
    const one = model();
    models.replaceChildren(...state.models.map((each) => make('option', { value: each.run }, each.name)));
    models.value = String(state.run);
    steps.replaceChildren(...one.steps.map((step) => make('option', { value: step }, `step ${count(step)}`)));
    steps.value = String(state.step);
    facts.replaceChildren(...modelFacts(one).map(([value, name, minor]) => make('li', { class: minor ? 'minor' : null }, make('b', {}, value), ` ${name}`)));
  }

  const form = make('form', { class: 'ask', on: { submit: (event) => {
    event.preventDefault();
    setRunning(false);
    attempt(() => readPrompt(text.value));
  } } },
  make('div', { class: 'models' }, models, steps), make('div', {}, text), make('div', { class: 'go' }, length, go));
  if (carried()) {
    text.readOnly = true;
    for (const one of [models, steps, go]) one.disabled = true;
  }
  watch(['run', 'step', 'models', 'trace'], show);
  watch(['prompt'], () => {
    if (document.activeElement !== text) text.value = state.asked?.prompt ?? state.prompt;
    measure();
  });
  show();
  return make('header', { class: 'top' },
    make('div', { class: 'brand' }, mark(), make('div', {}, make('h1', {}, 'Glassbox'),
      make('p', { class: 'quiet' }, 'Every number here comes from your own checkpoint.'))),
    make('div', { class: 'corner' },
      make('button', { type: 'button', class: 'plain', on: { click: switchScheme } }, 'Light or dark'),
      make('button', { type: 'button', class: 'plain', on: { click: openHelp } }, 'Keys')),
    form, trouble, facts);
}

const NAMES = {
  rope: 'RoPE', alibi: 'ALiBi', learned: 'learned positions', sinusoidal: 'sinusoidal positions', none: 'no positions',
  rmsnorm: 'RMSNorm', layernorm: 'LayerNorm', swiglu: 'SwiGLU', geglu: 'GeGLU', gelu: 'GELU', relu: 'ReLU', relu2: 'ReLU²',
};

function modelFacts(one) {
  const trace = state.trace;
  const shared = one.kv_heads === one.heads ? '' : ` (${one.kv_heads} of keys and values)`;
  return [
    [about(one.parameters), 'parameters'], [one.layers, `block${one.layers === 1 ? '' : 's'}`], [one.heads, `heads each${shared}`],
    [one.width, 'wide', true], [count(one.vocabulary), 'pieces', true], [NAMES[one.positions] ?? one.positions, ''],
    [NAMES[one.norm] ?? one.norm, one.norm_placement, true], [NAMES[one.activation] ?? one.activation, '', true],
    [one.kernel.here, `attention here, ${one.kernel.training} in training`, true],
    trace?.bits_per_byte ? [number(trace.bits_per_byte), 'bits per byte of this prompt'] : null,
    trace && !carried() ? [time(trace.milliseconds.compute), trace.milliseconds.compiled ? 'to read it, compiling included' : 'to read it', true] : null,
  ].filter(Boolean);
}
