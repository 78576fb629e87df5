// Elements without markup in strings: no text of a trace is ever read as HTML.

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

function paneHead(trace) {
  const args = Object.entries(trace.remasking_args).map(([name, value]) => `${name}=${value}`).join(", ");
  return make("h3", {}, make("span", { class: "letter" }, trace.letter), trace.remasking,
    make("span", { class: "args" }, args || "default arguments"));
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// The sequential scale of the current colour scheme: share in [0, 1] to a CSS colour.
function makeRamp() {
  const stops = colour("ramp").split(/\s+/).map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return (share) => {
    const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const mixed = stops[low].map((value, i) => Math.round(value + (stops[low + 1][i] - value) * (at - low)));
    return `rgb(${mixed.join(" ")})`;
  };
}

// Shapes for the moments of a position: a disc for the policy, a triangle for the engine, a cross for a revocation,
// a diamond for an edit.
function momentPath(cell, x, y, r) {
  if (cell.outcome === REVOKED) {
    return `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`;
  }
  if (cell.outcome === EDITED) return `M${x} ${y - r * 1.2}L${x + r * 1.2} ${y}L${x} ${y + r * 1.2}L${x - r * 1.2} ${y}Z`;
  if (cell.decider !== POLICY) return `M${x} ${y - r * 1.15}L${x + r * 1.1} ${y + r * 0.85}H${x - r * 1.1}Z`;
  return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
}
