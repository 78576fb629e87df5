// The forwards as bars on one scale for all traces: rows computed, refreshes, tokens unmasked.

class Timeline {
  constructor(trace, all, goTo) {
    this.trace = trace;
    this.mostSteps = Math.max(1, ...all.map((one) => one.nfe));
    this.mostRows = Math.max(1, ...all.flatMap((one) => one.steps.map((step) => step.num_rows)));
    this.plot = make("div");
    this.element = make("div", { class: "card" }, paneHead(trace), make("p", { class: "status" }, this.describe()), this.plot);
    this.plot.addEventListener("click", (event) => event.target.dataset.number && goTo(Number(event.target.dataset.number)));
  }

  describe() {
    const { trace } = this;
    const whole = trace.liveRows;
    const share = whole ? Math.round((100 * trace.rows) / whole) : 100;
    return `${thousands(trace.rows)} rows in ${plural(trace.nfe, "forward")}, ${share} % of the ${thousands(whole)} that no cache would take \u00B7 ${trace.cache_label}`;
  }

  layOut() {
    const { trace } = this;
    const width = this.element.clientWidth - 34;
    if (width <= 0) return;
    const left = 40, top = 24, bottom = 118, height = 150;
    const pitch = Math.min(64, (width - left) / this.mostSteps);
    const bar = Math.max(1, pitch * 0.72);
    const hatch = `hatch-${trace.index}`;
    const svg = draw("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": this.describe() },
      draw("defs", {}, draw("pattern", { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        draw("rect", { width: 6, height: 6, fill: "var(--accent)" }), draw("rect", { width: 2, height: 6, fill: "var(--card)", opacity: 0.55 }))));
    for (const share of [0, 0.5, 1]) {
      const y = bottom - share * (bottom - top);
      svg.append(draw("line", { x1: left, x2: width, y1: y, y2: y, stroke: "var(--line)" }),
        draw("text", { x: left - 7, y: y + 4, "text-anchor": "end" }, thousands(share * this.mostRows)));
    }
    this.here = draw("rect", { y: top - 20, height: bottom - top + 38, rx: Math.min(4, pitch / 4), width: Math.max(pitch, 3), fill: "var(--mask)", stroke: "var(--muted)", "stroke-width": 0.8 });
    svg.append(this.here);
    let free = -Infinity;
    trace.steps.forEach((step, at) => {
      const x = left + at * pitch;
      const tall = Math.max(1, (step.num_rows / this.mostRows) * (bottom - top));
      if (at === 0 || step.block_index !== trace.steps[at - 1].block_index) {
        const room = pitch * trace.steps.filter((other) => other.block_index === step.block_index).length;
        svg.append(draw("line", { x1: x, x2: x, y1: top - 4, y2: bottom + 30, stroke: "var(--muted)", "stroke-width": 0.8 }),
          draw("text", { x: x + 4, y: bottom + 30 }, room > 52 ? `block ${step.block_index + 1}` : ""));
      }
      svg.append(draw("rect", { class: "bar", x: x + (pitch - bar) / 2, y: bottom - tall, width: bar, height: tall, rx: Math.min(2, bar / 4) }));
      if (isRefresh(step)) svg.lastChild.style.fill = `url(#${hatch})`;
      if (pitch >= 17) svg.append(draw("text", { class: "strong", x: x + pitch / 2, y: bottom - tall - 5, "text-anchor": "middle" }, String(step.unmasked)));
      if (x + pitch / 2 > free) {
        svg.append(draw("text", { x: x + pitch / 2, y: bottom + 15, "text-anchor": "middle" }, String(step.number)));
        free = x + pitch / 2 + String(step.number).length * 7 + 10;
      }
      svg.append(draw("rect", { class: "hit", x, y: 0, width: pitch, height, "data-number": step.number }));
    });
    this.place = (number) => left + (number - 1) * pitch;
    this.plot.replaceChildren(svg);
    this.show(this.number);
  }

  show(number) {
    this.number = number;
    if (!this.here) return;
    const inside = number >= 1 && number <= this.trace.nfe;
    this.here.setAttribute("visibility", inside ? "visible" : "hidden");
    if (inside) this.here.setAttribute("x", this.place(number));
  }
}
