// Colours of maps, taken from the style sheet so that light and dark agree with the rest of the page.

import { watchScheme } from './scheme.js';

let known = null;
watchScheme(() => { known = null; });

function channels(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => Number.parseInt(text.slice(at, at + 2), 16));
}

function palette() {
  known ??= Object.fromEntries(
    ['page', 'card', 'text', 'grid', 'quiet', 'accent', 'against', 'strong'].map((name) => [name, channels(`--${name}`)]));
  return known;
}

function mix(from, to, share) {
  return from.map((value, i) => Math.round(value + (to[i] - value) * share));
}

/** White to blue for shares in [0, 1]: the square root lets small weights be seen. Returns [r, g, b]. */
export function weightColour(share) {
  const { card, accent, strong } = palette();
  const root = Math.sqrt(Math.max(0, Math.min(1, share)));
  return root < 0.7 ? mix(card, accent, root / 0.7) : mix(accent, strong, (root - 0.7) / 0.3);
}

/** Orange below zero, blue above, for values in [−1, 1]. Returns [r, g, b]. */
export function signedColour(value) {
  const { card, accent, against } = palette();
  const share = Math.sqrt(Math.min(1, Math.abs(value)));
  return mix(card, value < 0 ? against : accent, share);
}

/** What a colour is called in a style. */
export function css([red, green, blue], alpha = 1) {
  return `rgb(${red} ${green} ${blue} / ${alpha})`;
}

/** A named colour of the page: 'page', 'card', 'text', 'grid', 'quiet', 'accent', 'against' or 'strong'. */
export function named(name) {
  return palette()[name];
}

/** Black or white, whichever has the higher contrast on a colour (relative luminance as WCAG 2 defines it). */
export function ink(colour) {
  const [red, green, blue] = colour.map((value) => (value <= 10 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.19 ? '#17181b' : '#ffffff';
}
