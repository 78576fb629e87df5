// Confidence by position (columns) and forward (rows), drawn once; the cursors are boxes above it.

const AXIS_WIDTH = 34, TOP = 18, BOTTOM = 18;

class HeatMap {
  constructor(trace, all, handlers) {
    this.trace = trace;
    this.columns = Math.max(1, ...all.map((one) => one.reached));
    this.axis = make("canvas", { "aria-hidden": "true" });
    this.canvas = make("canvas", { role: "img", "aria-label": this.summary() });
    this.row = make("div", { class: "cursor" });
    this.column = make("div", { class: "cursor column" });
    this.sheet = make("div", { class: "sheet" }, this.canvas, this.column, this.row);
    this.scroll = make("div", { class: "scroll" }, this.sheet);
    this.box = make("div", { class: "map" }, this.axis, this.scroll);
    this.element = make("div", { class: "card" }, paneHead(trace), this.box);
    this.sheet.addEventListener("pointermove", (event) => this.point(event, handlers.hover));
    this.sheet.addEventListener("pointerleave", () => handlers.leave());
    this.sheet.addEventListener("click", (event) => this.point(event, (...found) => handlers.pick(...found)));
  }

  summary() {
    const { trace } = this;
    return `Heat map of the confidences of ${trace.letter}, ${trace.remasking}: ${plural(trace.reached, "position")} over ` +
      `${plural(trace.nfe, "forward")}. The same numbers stand in the table below the canvas.`;
  }

  layOut() {
    const room = this.box.clientWidth - AXIS_WIDTH;
    if (room <= 0) return;
    this.cell = Math.max(6, Math.min(34, Math.floor(room / this.columns)));
    this.height = Math.max(5, Math.min(22, Math.floor(330 / Math.max(1, this.trace.nfe))));
    this.paint();
    this.show(this.number, this.position);
  }

  size(canvas, width, height) {
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = '11px system-ui, "Segoe UI", sans-serif';
    return pen;
  }

  paint() {
    const { trace, cell, height } = this;
    const bottom = TOP + trace.nfe * height;
    this.sheet.style.width = `${trace.reached * cell}px`;
    const pen = this.size(this.canvas, trace.reached * cell, bottom + BOTTOM);
    const ramp = makeRamp();
    const settled = this.hatch(pen);
    const gap = cell > 8 && height > 8 ? 1 : 0;
    trace.steps.forEach((step, at) => {
      const y = TOP + at * height;
      pen.fillStyle = settled;
      for (let i = 0; i < trace.reached; i++) {
        const position = trace.first + i;
        const inBlock = position >= step.block_start && position < step.block_start + step.length;
        const sure = inBlock ? step.confidence[position - step.block_start] : NaN;
        if (!Number.isNaN(sure)) {
          pen.fillStyle = ramp(sure);
          pen.fillRect(i * cell, y, cell - gap, height - gap);
          pen.fillStyle = settled;
        } else if (trace.states[at][position] !== trace.mask_token_id) {
          pen.fillRect(i * cell, y, cell - gap, height - gap);
        }
      }
    });
    trace.steps.forEach((step, at) => this.marks(pen, step, at));
    this.frames(pen, bottom);
    this.labels(bottom);
  }

  hatch(pen) {
    const tile = make("canvas", { width: 6, height: 6 });
    const brush = tile.getContext("2d");
    brush.fillStyle = colour("settled");
    brush.fillRect(0, 0, 6, 6);
    brush.strokeStyle = colour("settled-line");
    brush.stroke(new Path2D("M-1 1L1 -1M0 6L6 0M5 7L7 5"));
    return pen.createPattern(tile, "repeat");
  }

  marks(pen, step, at) {
    const { trace, cell, height } = this;
    const r = Math.min(3.6, Math.min(cell, height) / 2 - 0.8);
    step.outcomes.forEach((outcome, i) => {
      if (!isMoment(outcome)) return;
      const found = { outcome, decider: step.deciders[i] };
      const x = (step.block_start - trace.first + i + 0.5) * cell;
      const path = new Path2D(momentPath(found, x, TOP + (at + 0.5) * height, r));
      pen.lineJoin = "round";
      pen.lineWidth = outcome === REVOKED ? 3.4 : 2.4;
      pen.strokeStyle = "#1b1d1f";
      pen.stroke(path);
      pen.lineWidth = 1.6;
      pen.strokeStyle = pen.fillStyle = "#ffffff";
      if (outcome === REVOKED) pen.stroke(path);
      else pen.fill(path);
    });
  }

  frames(pen, bottom) {
    const { trace, cell, height } = this;
    pen.strokeStyle = colour("muted");
    pen.fillStyle = colour("muted");
    pen.lineWidth = 1;
    let from = 0;
    for (let at = 1; at <= trace.nfe; at++) {
      const step = trace.steps[from];
      if (at < trace.nfe && trace.steps[at].block_index === step.block_index) continue;
      const x = (step.block_start - trace.first) * cell;
      pen.globalAlpha = 0.6;
      pen.strokeRect(x + 0.5, TOP + from * height - 0.5, step.length * cell - 1, (at - from) * height);
      pen.globalAlpha = 1;
      pen.fillText(`block ${step.block_index + 1}`, x + 2, 12);
      from = at;
    }
    const every = [1, 2, 4, 8, 16, 32, 64, 128].find((count) => count * cell >= 34) ?? 256;
    for (let i = 0; i < trace.reached; i += every) pen.fillText(String(i), i * cell + 1, bottom + 13);
  }

  labels(bottom) {
    const pen = this.size(this.axis, AXIS_WIDTH, bottom + BOTTOM);
    pen.fillStyle = colour("muted");
    pen.textAlign = "right";
    const every = [1, 2, 5, 10, 20, 50, 100].find((count) => count * this.height >= 13) ?? 200;
    for (let number = 1; number <= this.trace.nfe; number++) {
      if (number !== 1 && number % every) continue;
      pen.fillText(String(number), AXIS_WIDTH - 7, TOP + (number - 0.5) * this.height + 4);
    }
  }

  point(event, found) {
    const box = this.sheet.getBoundingClientRect();
    const i = Math.floor((event.clientX - box.left) / this.cell);
    const number = Math.floor((event.clientY - box.top - TOP) / this.height) + 1;
    const inside = i >= 0 && i < this.trace.reached && number >= 1 && number <= this.trace.nfe;
    found(this.trace, inside ? number : 0, this.trace.first + i, event);
  }

  show(number, position) {
    this.number = number;
    this.position = position;
    if (!this.cell) return;
    const { trace, cell, height } = this;
    this.row.hidden = number < 1 || number > trace.nfe;
    const place = (box, x, y, w, h) => Object.assign(box.style, { left: `${x}px`, top: `${y}px`, width: `${w}px`, height: `${h}px` });
    place(this.row, 0, TOP + (number - 1) * height - 1, trace.reached * cell, height + 1);
    const x = (position - trace.first) * cell;
    this.column.hidden = position >= trace.first + trace.reached;
    place(this.column, x - 1, TOP, cell + 1, trace.nfe * height);
    const { scrollLeft, clientWidth } = this.scroll;
    if (x < scrollLeft || x + cell > scrollLeft + clientWidth) this.scroll.scrollLeft = x - clientWidth / 2;
    const y = TOP + (number - 1) * height;
    if (y < this.box.scrollTop || y + height > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = y - this.box.clientHeight / 2;
  }
}

function fillMapLegend(box) {
  const mark = (cell, text) => make("span", {}, draw("svg", { width: 16, height: 16, "aria-hidden": "true" },
    draw("path", { d: momentPath(cell, 8, 8, 4.2), fill: cell.outcome === REVOKED ? "none" : "#fff", stroke: "var(--ink)", "stroke-width": 1.8 })), text);
  const scale = make("span", { class: "scale" });
  scale.style.background = `linear-gradient(to right, ${colour("ramp").split(/\s+/).join(", ")})`;
  const settled = draw("svg", { width: 18, height: 14, "aria-hidden": "true" },
    draw("rect", { width: 18, height: 14, rx: 2, fill: "var(--settled)", stroke: "var(--settled-line)" }),
    draw("path", { d: "M3 14L13 0M9 14L18 1M0 8L6 0", stroke: "var(--settled-line)" }));
  box.replaceChildren(
    make("span", {}, "0", scale, "1 confidence"),
    mark({ outcome: UNMASKED, decider: POLICY }, "unmasked by the policy"),
    mark({ outcome: UNMASKED, decider: 2 }, "by the engine"),
    mark({ outcome: REVOKED, decider: POLICY }, "revoked"),
    mark({ outcome: EDITED, decider: POLICY }, "edited"),
    make("span", {}, settled, "token, not scored"),
  );
}
