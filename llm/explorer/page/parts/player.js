// The walk through the stages by itself: to the next token, then with that token from the start, until it is stopped.

import { drawToken } from '../core/actions.js';
import { announce, calm } from '../core/dom.js';
import { change, model, state } from '../core/store.js';
import { journey, stageIndex } from './journey.js';

const WALKS = [14000, 5000]; // milliseconds from the tokens to the next token: the first time, and later ones

let timer = 0;
let walks = 0;

/** One stage on or back; from the last stage on, a token is drawn. */
export async function stepBy(by) {
  const stages = journey(model());
  const to = stageIndex(stages, state.stage) + by;
  if (to >= stages.length) {
    const step = await drawToken();
    if (step) change({ stage: stages[0].key });
    return step !== null;
  }
  change({ stage: stages[Math.max(0, to)].key });
  return true;
}

/** Starts or stops the walk. */
export function setRunning(running) {
  clearTimeout(timer);
  walks = 0;
  change({ running, ...(running ? { view: 'follow' } : {}) });
  announce(running ? 'Running' : 'Stopped');
  if (running) timer = setTimeout(walk, 250);
}

async function walk() {
  if (!state.running) return;
  const stages = journey(model());
  const last = stageIndex(stages, state.stage) === stages.length - 1;
  let on = true;
  try {
    on = await stepBy(1);
  } catch (error) {
    on = false;
    announce(error.message);
  }
  if (!on || (last && state.session?.stopped)) {
    setRunning(false);
    return;
  }
  if (last) walks += 1;
  const pause = WALKS[Math.min(walks, WALKS.length - 1)] / stages.length;
  timer = setTimeout(walk, Math.max(calm() ? 700 : 110, Math.min(1600, pause)));
}
