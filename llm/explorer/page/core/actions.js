// What the reader can do: ask for a prompt, edit, draw tokens. Everything that changes the trace passes through here.

import { askTrace, post, rewind } from './api.js';
import { announce } from './dom.js';
import { change, model, state } from './store.js';

let turn = 0;

/** Reads a prompt (`what`: {prompt} or {tokens}) with the edits of the state; the page then shows that trace. */
export async function read(what, patch = {}) {
  turn += 1;
  const mine = turn;
  const { run, step } = { ...state, ...patch };
  const edits = patch.edits ?? state.edits;
  const trace = await askTrace(run, step, what, edits);
  const plain = edits.length ? await askTrace(run, step, what, []) : trace;
  if (mine !== turn) return null;
  const shape = state.models.find((one) => one.run === run);
  const position = patch.position ?? (state.trace && trace.length === state.trace.length ? state.position : trace.length - 1);
  change({
    session: null, ...patch, edits, trace, plain, prompt: trace.prompt, position: Math.min(position, trace.length - 1),
    layer: Math.min(state.layer, shape.layers - 1), head: Math.min(state.head, shape.heads - 1), shade: null,
  });
  return trace;
}

/** What was asked, again: {prompt} as it was typed, or the ids once tokens have been drawn, which are the truth then. */
export function what() {
  return state.asked;
}

/** Asks for a text. */
export function readPrompt(prompt) {
  return read({ prompt }, { asked: { prompt }, target: null });
}

/** The same text in another model or at another checkpoint. */
export function readElsewhere(run, step) {
  const same = state.models.find((one) => one.run === run)?.tokenizer === model().tokenizer;
  const text = same ? what() : { prompt: state.prompt };
  // Edits name layers and heads of one model; they are not carried to another.
  return read(text, { run, step, asked: text, edits: run === state.run ? state.edits : [], target: same ? state.target : null });
}

/** The same text with other edits. */
export function readEdited(edits) {
  return read(what(), { edits });
}

function samplingCopy() {
  return { ...state.sampling };
}

async function open() {
  const sampling = samplingCopy();
  rewind();
  const begun = await post('/api/sessions', { run: state.run, step: state.step, ...what(), edits: state.edits, sampling });
  return {
    id: begun.session, given: state.trace.length, from: what(), cache: begun.cache, prefill: begun.prefill_milliseconds,
    steps: [], used: [], stopped: null, replayed: null,
  };
}

/** Draws one token with the model's own decode step, and reads the longer text. Returns the step, or null at the end. */
export async function drawToken() {
  const session = state.session ?? await open();
  if (!state.session) change({ session });
  const body = { count: 1 };
  // A session keeps its settings until it is told others.
  const sampling = samplingCopy();
  const before = session.used.at(-1);
  if (before && JSON.stringify(before) !== JSON.stringify(sampling)) body.sampling = sampling;
  const answer = await post(`/api/sessions/${session.id}/next`, body);
  const step = answer.steps.at(-1) ?? null;
  const next = {
    ...session, stopped: answer.stopped, cache: step?.cache ?? session.cache,
    steps: step ? [...session.steps, step] : session.steps, used: step ? [...session.used, sampling] : session.used,
  };
  change({ session: next });
  if (!step) return null;
  announce(`Token drawn: ${step.token.text}, probability ${(step.probability * 100).toFixed(1)} percent`);
  const tokens = answer.tokens;
  try {
    await read({ tokens }, { session: next, asked: { tokens }, position: tokens.length - 1 });
  } catch (error) {
    // A static file holds the drawn tokens but not the traces of the longer texts; a full context cannot be read on.
    if (!error.absent && error.status !== 400) throw error;
  }
  return step;
}

/** Back to the text that was given, before any token was drawn. */
export async function undraw() {
  const session = state.session;
  if (session) await read(session.from, { session: null, asked: session.from });
}

/** Draws the same tokens again from the same seed; says whether they are the same. */
export async function replay() {
  const session = state.session;
  if (!session?.steps.length) return;
  rewind();
  const begun = await post('/api/sessions', {
    run: state.run, step: state.step, ...session.from, edits: state.edits, sampling: session.used[0],
  });
  let same = 0;
  for (let at = 0; at < session.steps.length; at += 1) {
    const changed = at > 0 && JSON.stringify(session.used[at]) !== JSON.stringify(session.used[at - 1]);
    const body = changed ? { count: 1, sampling: session.used[at] } : { count: 1 };
    const answer = await post(`/api/sessions/${begun.session}/next`, body);
    if (answer.steps[0]?.token.id !== session.steps[at].token.id) break;
    same += 1;
  }
  if (state.session === session) change({ session: { ...session, replayed: same } });
}
