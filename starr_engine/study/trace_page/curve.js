// One position over the forwards of its block: confidence against threshold, and what else the policy looked at.

class Curve {
  constructor(trace, all, goTo) {
    this.trace = trace;
    this.all = all;
    this.goTo = goTo;
    this.status = make("p", { class: "status" });
    this.plot = make("div");
    this.element = make("div", { class: "card" }, paneHead(trace), this.status, this.plot);
  }

  // Numbers of the forwards of the position's block, up to the last one that looked at it.
  static range(trace, position) {
    const numbers = trace.steps.filter((step) => position >= step.block_start && position < step.block_start + step.length).map((step) => step.number);
    const scored = (number) => !Number.isNaN(cellOf(trace, number, position).confidence);
    return numbers.slice(0, numbers.findLastIndex(scored) + 1);
  }

  layOut() {
    this.width = this.element.clientWidth - 34;
  }

  show(number, position) {
    this.number = number;
    this.position = position;
    const { trace } = this;
    const width = this.width;
    const numbers = Curve.range(trace, position);
    if (!(width > 0)) return;
    if (!numbers.length) {
      this.status.textContent = "This position was never reached.";
      this.plot.replaceChildren();
      return;
    }
    const longest = Math.max(6, ...this.all.map((one) => Curve.range(one, position).length));
    const cells = numbers.map((at) => cellOf(trace, at, position));
    const left = 36;
    const x = (i) => left + 12 + (i * (width - left - 30)) / (longest - 1);
    this.status.textContent = this.describe(numbers, cells);
    const charts = [this.main(width, left, x, numbers, cells)];
    for (const name of trace.signalNames) {
      if (name !== "threshold") charts.push(this.small(name, width, left, x, numbers, cells));
    }
    this.plot.replaceChildren(...charts);
  }

  describe(numbers, cells) {
    const moments = cells.flatMap((cell, i) =>
      isMoment(cell.outcome)
        ? [`${OUTCOMES[cell.outcome]} at forward ${numbers[i]} by ${DECIDERS[cell.decider]}: \u201C${tokenLabel(this.trace, cell.candidate)}\u201D`]
        : []);
    return moments.length ? moments.join(" \u00B7 ") : "Still a mask at the end.";
  }

  main(width, left, x, numbers, cells) {
    const height = 216, top = 12, bottom = 168;
    const y = (value) => bottom - Math.min(Math.max(value, 0), 1.02) * (bottom - top);
    const svg = draw("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": this.label(numbers, cells) });
    for (const value of [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(draw("line", { x1: left, x2: width, y1: y(value), y2: y(value), stroke: "var(--line)", "stroke-width": value === 0 ? 1.5 : 0.8 }));
      if (value * 2 === Math.round(value * 2)) svg.append(draw("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(1)));
    }
    this.cursor(svg, x, numbers, top, bottom);
    const crowded = x(1) - x(0) < 9;
    const thresholds = cells.map((cell) => cell.signals.threshold ?? NaN);
    svg.append(draw("path", { d: linePath(thresholds, x, y), fill: "none", stroke: "var(--threshold)", "stroke-width": 2, "stroke-dasharray": "5 4" }));
    thresholds.forEach((value, i) => {
      if (!Number.isNaN(value) && !crowded) svg.append(draw("path", { d: `M${x(i) - 6} ${y(value)}h12`, stroke: "var(--threshold)", "stroke-width": 3 }));
    });
    svg.append(draw("path", { d: linePath(cells.map((cell) => cell.confidence), x, y), fill: "none", stroke: "var(--accent)", "stroke-width": 2.2 }));
    cells.forEach((cell, i) => this.point(svg, cell, x(i), y, crowded));
    this.under(svg, x, numbers, cells, bottom);
    const bars = numbers.map((at, i) => draw("rect", { class: "hit", x: x(i) - 10, y: top, width: 20, height: bottom - top, "data-number": at }));
    svg.append(...bars);
    svg.addEventListener("click", (event) => event.target.dataset.number && this.goTo(Number(event.target.dataset.number)));
    return svg;
  }

  point(svg, cell, x, y, crowded) {
    if (Number.isNaN(cell.confidence)) return;
    const at = y(cell.confidence);
    const moment = isMoment(cell.outcome);
    if (crowded && !moment) return;
    svg.append(moment
      ? draw("path", { d: momentPath(cell, x, at, 6), fill: cell.outcome === REVOKED ? "none" : "var(--accent)", stroke: "var(--ink)", "stroke-width": 1.6 })
      : draw("circle", { cx: x, cy: at, r: 3.4, fill: "var(--card)", stroke: "var(--accent)", "stroke-width": 2 }));
  }

  // Forward numbers, and the candidate wherever it is another one than before.
  under(svg, x, numbers, cells, bottom) {
    let free = -Infinity, before = null, freeNumber = -Infinity;
    cells.forEach((cell, i) => {
      if (x(i) > freeNumber) {
        svg.append(draw("text", { x: x(i), y: bottom + 16, "text-anchor": "middle" }, String(numbers[i])));
        freeNumber = x(i) + String(numbers[i]).length * 7 + 10;
      }
      const changed = cell.candidate !== before;
      before = cell.candidate;
      if (!changed) return;
      const label = tokenLabel(this.trace, cell.candidate, 12);
      svg.append(draw("path", { d: `M${x(i)} ${bottom + 21}v5`, stroke: "var(--muted)" }));
      const start = i === 0 ? Math.max(2, x(i) - 8) : x(i) - 4;
      if (start < free) return;
      svg.append(draw("text", { class: "strong", x: start, y: bottom + 39 }, label));
      free = start + label.length * 7 + 8;
    });
  }

  small(name, width, left, x, numbers, cells) {
    const values = cells.map((cell) => cell.signals[name] ?? NaN);
    const finite = values.filter(Number.isFinite);
    const high = Math.max(0, ...finite), low = Math.min(0, ...finite), span = high - low || 1;
    const top = 20, bottom = 62;
    const y = (value) => bottom - ((value - low) / span) * (bottom - top);
    const svg = draw("svg", { class: "plot", viewBox: `0 0 ${width} 68`, height: 68, role: "img", "aria-label": `${name}: ${values.map((value) => digits(value)).join(", ")}` });
    const here = values[numbers.indexOf(this.number)];
    svg.append(
      draw("text", { class: "strong", x: 0, y: 11 }, name),
      draw("text", { x: width - 4, y: 11, "text-anchor": "end" }, here === undefined ? "" : digits(here)),
      draw("line", { x1: left, x2: width, y1: y(0), y2: y(0), stroke: "var(--line)", "stroke-width": 1.2 }),
      draw("text", { x: left - 7, y: top + 5, "text-anchor": "end" }, high ? high.toFixed(2) : "0"));
    if (low < 0 || high > 0) svg.append(draw("text", { x: left - 7, y: bottom + 3, "text-anchor": "end" }, low ? low.toFixed(2) : "0"));
    this.cursor(svg, x, numbers, top - 4, bottom + 4);
    svg.append(draw("path", { d: linePath(values, x, y), fill: "none", stroke: "var(--muted)", "stroke-width": 1.8 }));
    values.forEach((value, i) => {
      if (Number.isFinite(value) && x(1) - x(0) >= 9) svg.append(draw("circle", { cx: x(i), cy: y(value), r: 2.6, fill: "var(--muted)" }));
    });
    return svg;
  }

  cursor(svg, x, numbers, top, bottom) {
    const i = numbers.indexOf(this.number);
    if (i >= 0) svg.append(draw("rect", { x: x(i) - 9, y: top, width: 18, height: bottom - top, rx: 4, fill: "var(--mask)" }));
  }

  label(numbers, cells) {
    const words = cells.map((cell, i) => `forward ${numbers[i]}: ${digits(cell.confidence, 2)}`);
    return `Confidence of position ${this.position - this.trace.first}. ${words.join("; ")}`;
  }
}

function linePath(values, x, y) {
  let pen = "M";
  return values.map((value, i) => {
    if (!Number.isFinite(value)) {
      pen = "M";
      return "";
    }
    const part = `${pen}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
    return part;
  }).join("");
}

function curveLegend(names) {
  const sample = (path) => draw("svg", { width: 30, height: 12, "aria-hidden": "true" }, path);
  const entry = (path, text) => make("span", { class: "key" }, sample(path), text);
  const entries = [entry(draw("path", { d: "M1 6H29", stroke: "var(--accent)", "stroke-width": 2.2 }), "confidence")];
  if (names.includes("threshold")) {
    entries.push(entry(draw("path", { d: "M1 6H29", stroke: "var(--threshold)", "stroke-width": 2, "stroke-dasharray": "5 4" }), "threshold"));
  }
  return make("span", { class: "legend" }, entries);
}
