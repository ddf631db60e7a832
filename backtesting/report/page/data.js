"use strict";
// What the page was given: figures in JSON, arrays in one compressed block of bytes.

const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const MISSING = -2147483648;
const KINDS = {i4: Int32Array, f4: Float32Array, f8: Float64Array, u1: Uint8Array, u2: Uint16Array};
let packed = null;

async function unpack() {
  const text = atob(byId("bytes").textContent.trim());
  byId("bytes").remove();
  const bytes = Uint8Array.from(text, one => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  packed = new Uint8Array(await new Response(stream).arrayBuffer());
}

// An array by where it lies: first bytes of all numbers, then second bytes; whole numbers by their distances.
function column(told) {
  const kind = KINDS[told.kind], width = kind.BYTES_PER_ELEMENT, length = told.length;
  const bytes = new Uint8Array(length * width);
  for (let byte = 0; byte < width; byte++) {
    const from = told.from + byte * length;
    for (let i = 0; i < length; i++) bytes[i * width + byte] = packed[from + i];
  }
  const numbers = new kind(bytes.buffer);
  if (told.kind !== "i4") return numbers;
  const values = new Float64Array(length), scale = 10 ** Math.abs(told.decimals), divides = told.decimals > 0;
  for (let i = 0, sum = 0; i < length; i++) {
    sum = (sum + numbers[i]) | 0;
    values[i] = sum === MISSING ? NaN : divides ? sum / scale : sum * scale;
  }
  return values;
}

const minus = text => text.replace("-", "−");
const written = (value, decimals) => minus(value.toLocaleString("en-US", {minimumFractionDigits: decimals, maximumFractionDigits: decimals}));
const signed = (value, decimals) => (value > 0 ? "+" : "") + written(value, decimals);
const percents = value => signed(value * 100, 2) + " %";
const plain = value => minus(String(Number(value.toPrecision(7))));
const timeOf = seconds => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");

function lasted(seconds) {
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds % 86400 / 3600), minutes = Math.floor(seconds % 3600 / 60);
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : `${minutes} min`;
}

function worded(code) {
  const words = code.replaceAll("_", " ").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// The last index whose value is at most `value` in what rises; -1 where there is none.
function lastUpTo(values, value) {
  let low = -1, high = values.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (values[middle] <= value) low = middle; else high = middle - 1;
  }
  return low;
}

function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (content !== undefined) made.append(content);
  return made;
}
