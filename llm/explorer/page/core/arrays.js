// Arrays as the server sends them, {shape, dtype, data: base64}, into typed arrays that know their shape.

const VIEWS = {
  float32: (buffer) => new Float32Array(buffer),
  int32: (buffer) => new Int32Array(buffer),
  uint8: (buffer) => new Uint8Array(buffer),
};

/** A dense array: `values` row by row, `shape`, and `row(i)`: the i-th slice of the first axis, not copied. */
export class Dense {
  constructor(values, shape) {
    this.values = values;
    this.shape = shape;
  }

  row(index) {
    const rest = this.shape.slice(1);
    const step = rest.reduce((product, side) => product * side, 1);
    return new Dense(this.values.subarray(index * step, (index + 1) * step), rest);
  }

  at(...indices) {
    return this.values[indices.reduce((offset, index, axis) => offset * this.shape[axis] + index, 0)];
  }
}

/** Replaces every encoded array inside a JSON value by a Dense one. */
export function decoded(value) {
  if (Array.isArray(value)) return value.map(decoded);
  if (value === null || typeof value !== 'object') return value;
  if (typeof value.data === 'string' && Array.isArray(value.shape) && value.dtype in VIEWS) {
    const text = atob(value.data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    return new Dense(VIEWS[value.dtype](bytes.buffer), value.shape);
  }
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, decoded(one)]));
}

/** The largest size of a number in an array, NaN and infinities left out. */
export function largest(values) {
  let most = 0;
  for (const value of values) if (Number.isFinite(value) && Math.abs(value) > most) most = Math.abs(value);
  return most;
}
