// Questions to the server, or to the data inside a static file. Answers are kept for a while: the same question is not
// asked twice, and a page that goes back is quick.

import { decoded } from './arrays.js';
import { accessToken } from './token.js';

const KEPT = 400; // answers
const answers = new Map();
let failed = null;

/** Trouble in one line. `absent`: the static file does not hold this answer, which is nobody's mistake. */
export class Trouble extends Error {
  constructor(message, status = 0, absent = false) {
    super(message);
    this.status = status;
    this.absent = absent;
  }
}

/** What a static file carries, or null where a server answers. */
export function carried() {
  return window.GLASSBOX_DATA ?? null;
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

function address(path, parameters) {
  const pairs = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined);
  pairs.sort(([a], [b]) => (a < b ? -1 : 1));
  return { path, pairs, key: path + (pairs.length ? `?${pairs.map(([name, value]) => `${name}=${value}`).join('&')}` : '') };
}

const asked = new Map(); // how often a question whose answers come in order was asked of the static file

function fromFile(key) {
  const value = carried().responses[key];
  if (value?.steps_in_file) {
    const turn = asked.get(key) ?? 0;
    if (turn >= value.steps_in_file.length) {
      throw new Trouble('This file holds no more tokens; `python -m llm explore` goes on.', 0, true);
    }
    asked.set(key, turn + 1);
    return value.steps_in_file[turn];
  }
  if (value === undefined) {
    throw new Trouble('Not in this file: `python -m llm explore` shows it.', 0, true);
  }
  return value;
}

/** Starts the answers that come in order from the beginning (a session of generating in a static file). */
export function rewind() {
  asked.clear();
}

async function fromServer(url, options) {
  const token = accessToken();
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(url, { ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Trouble('The server does not answer. Does `python -m llm explore` still run?');
  }
  const text = await response.text();
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Trouble(`The server answered ${response.status} with something that is not JSON.`, response.status);
  }
  if (!response.ok) {
    const trouble = new Trouble(value?.error?.message ?? `The server answered ${response.status}.`, response.status);
    if (response.status === 401) failed?.(trouble);
    throw trouble;
  }
  return value;
}

/** Calls `action` when the server wants its token. */
export function whenRefused(action) {
  failed = action;
}

function remember(key, promise) {
  answers.set(key, promise);
  promise.catch(() => answers.delete(key));
  while (answers.size > KEPT) answers.delete(answers.keys().next().value);
  return promise;
}

/** A question that changes nothing. Raises Trouble. */
export function get(path, parameters = {}) {
  const { pairs, key } = address(path, parameters);
  const name = `GET ${key}`;
  if (answers.has(name)) {
    const answer = answers.get(name);
    answers.delete(name);
    answers.set(name, answer);
    return answer;
  }
  const query = pairs.length ? `?${new URLSearchParams(pairs.map(([one, value]) => [one, String(value)]))}` : '';
  const ask = async () => decoded(carried() ? fromFile(name) : await fromServer(path.slice(1) + query, {}));
  return remember(name, ask());
}

/** A question with a body. `keep`: the same body gives the same answer, so it is asked once. Raises Trouble. */
export function post(path, body, { keep = false, signal } = {}) {
  const name = `POST ${path} ${JSON.stringify(sorted(body))}`;
  if (keep && answers.has(name)) return answers.get(name);
  const options = {
    method: 'POST', body: JSON.stringify(sorted(body)), headers: { 'content-type': 'application/json' }, signal,
  };
  const ask = async () => decoded(carried() ? fromFile(name) : await fromServer(path.slice(1), options));
  return keep ? remember(name, ask()) : ask();
}

/** A trace: what the model does with a text, with edits. `what` is {prompt} or {tokens}. */
export function askTrace(run, step, what, edits) {
  return post('/api/traces', { run, step, ...what, edits }, { keep: true });
}

/** A question about a trace. */
export function ofTrace(trace, part, parameters = {}) {
  return get(`/api/traces/${trace.trace}/${part}`, parameters);
}
