// Elements from a tag, attributes and children, and the few helpers every part of the page uses.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === 'style') for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else if (name === 'value') node.value = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element; `on` holds listeners, `style` holds custom properties too. Text children are text, never markup. */
export function make(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function draw(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Replaces what is in a node; null, false and lists as in `make`. */
export function put(node, ...children) {
  node.replaceChildren();
  return fill(node, null, children);
}

/** Says a line to screen readers. */
export function announce(text) {
  document.getElementById('said').textContent = text;
}

/** Calls `action` once, when calls have stopped for `milliseconds`. */
export function settle(action, milliseconds) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), milliseconds);
  };
}

/** Whether the reader asked for little movement. */
export function calm() {
  return matchMedia('(prefers-reduced-motion: reduce)').matches;
}

/** Whether a key press belongs to a field in which the reader types or chooses. */
export function typing(target) {
  return target instanceof HTMLElement
    && (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName));
}
