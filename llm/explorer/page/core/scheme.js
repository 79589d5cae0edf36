// Light or dark: the reader's system decides, a button may overrule it, and canvases are drawn again when it changes.

const actions = new Set();
const dark = matchMedia('(prefers-color-scheme: dark)');
dark.addEventListener('change', () => tell());

function tell() {
  for (const action of actions) action();
}

/** Calls `action` after the colours of the page changed; returns what ends that. */
export function watchScheme(action) {
  actions.add(action);
  return () => actions.delete(action);
}

/** Whether the page is dark now. */
export function isDark() {
  const chosen = document.documentElement.dataset.scheme;
  return chosen ? chosen === 'dark' : dark.matches;
}

/** The other one of light and dark. */
export function switchScheme() {
  document.documentElement.dataset.scheme = isDark() ? 'light' : 'dark';
  tell();
}
