// Numbers, sizes and tokens as people read them.

/** A number with about three significant digits and a real minus sign. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  if (!Number.isFinite(value)) return value > 0 ? '∞' : '−∞';
  const size = Math.abs(value);
  if (size === 0) return '0';
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(Math.max(0, digits - 2))
    : value.toFixed(Math.max(0, Math.min(4, digits - 1 - Math.floor(Math.log10(size)))));
  return text.replace('-', '−');
}

/** The same with its sign always there. */
export function signed(value, digits = 3) {
  return (value > 0 ? '+' : '') + number(value, digits);
}

/** A probability in percent: enough digits to tell small ones apart. */
export function percent(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const hundred = value * 100;
  if (hundred === 0) return '0 %';
  if (hundred < 0.001) return '< 0.001 %';
  return `${hundred.toFixed(hundred >= 10 ? 1 : hundred >= 0.1 ? 2 : 3)} %`;
}

/** A change of probability in percentage points. */
export function points(value) {
  const hundred = value * 100;
  const text = Math.abs(hundred) < 0.005 ? '0.00' : Math.abs(hundred).toFixed(Math.abs(hundred) >= 10 ? 1 : 2);
  return `${hundred > 0 ? '+' : hundred < 0 ? '−' : ''}${text} pp`;
}

/** Bytes in binary units. */
export function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let power = 0;
  while (bytes >= 1024 && power < units.length - 1) {
    bytes /= 1024;
    power += 1;
  }
  return `${power && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[power]}`;
}

/** A count with thin spaces between thousands. */
export function count(value) {
  return String(value).replace(/\B(?=(\d{3})+(?!\d))/g, '\u202f');
}

/** A large count in words' letters: 1.24 M. */
export function about(value) {
  for (const [unit, least] of [['B', 1e9], ['M', 1e6], ['k', 1e3]]) {
    if (value >= least) return `${(value / least).toPrecision(3)} ${unit}`;
  }
  return String(value);
}

/** Milliseconds. */
export function time(milliseconds) {
  return milliseconds >= 1000 ? `${(milliseconds / 1000).toFixed(1)} s` : `${number(milliseconds, 2)} ms`;
}

/** A token as it is shown: the server's piece, in which spaces and control characters are visible. */
export function tokenText(token) {
  return token ? token.text : '–';
}

/** The bytes of a token in hexadecimal. */
export function hex(bytes) {
  return bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
}
