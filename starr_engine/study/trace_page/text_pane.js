// The canvas as text: what stands at every generated position after a forward.

class TextPane {
  constructor(trace, choose) {
    this.trace = trace;
    this.status = make("p", { class: "status" });
    this.text = make("div", { class: "text", role: "group", "aria-label": `Canvas of ${trace.letter}, ${trace.remasking}` });
    this.table = make("div", { class: "table-box", tabindex: "0", role: "region", "aria-label": "Numbers of this forward" });
    this.details = make("details", {}, make("summary", {}, "Numbers of this forward"), this.table);
    this.element = make("div", { class: "card" }, paneHead(trace), this.status, this.text, this.details);
    this.slots = Array.from({ length: trace.size }, (_, i) => {
      const token = make("span", { class: "tok", role: "button", tabindex: "-1", "data-position": trace.first + i });
      const slot = { lead: new Text(), token, tail: new Text(), shown: "" };
      this.text.append(slot.lead, token, slot.tail);
      return slot;
    });
    this.text.addEventListener("click", (event) => {
      const token = event.target.closest(".tok");
      if (token) choose(Number(token.dataset.position));
    });
    this.details.addEventListener("toggle", () => this.fillTable());
    this.chosen = null;
    this.number = 0;
  }

  show(number, position) {
    const { trace } = this;
    this.number = number;
    const at = Math.min(number, trace.nfe);
    const current = number <= trace.nfe ? number : 0;
    const focus = trace.steps[Math.min(at, trace.nfe - 1)];
    this.slots.forEach((slot, i) => this.showSlot(slot, trace.first + i, at, current, focus));
    this.choose(position);
    this.status.textContent = this.describe(number);
    this.scrollTo(focus);
    this.fillTable();
  }

  // A long canvas follows its active block.
  scrollTo(step) {
    if (!step || step.block_index === this.inView) return;
    this.inView = step.block_index;
    const token = this.slots[step.block_start - this.trace.first]?.token;
    const top = token ? token.offsetTop - this.text.offsetTop : 0;
    const { scrollTop, clientHeight } = this.text;
    if (top < scrollTop || top > scrollTop + clientHeight - 60) this.text.scrollTop = top - 40;
  }

  showSlot(slot, position, at, current, focus) {
    const { trace } = this;
    const id = trace.states[at][position];
    const cell = current ? cellOf(trace, current, position) : null;
    const isMask = id === trace.mask_token_id;
    const classes = ["tok"];
    let shownId = id;
    let sure = 0;
    if (cell?.outcome === REVOKED) {
      classes.push("revoked");
      shownId = cell.candidate;
    } else if (isMask && cell) {
      classes.push("masked");
      shownId = cell.candidate;
      sure = cell.confidence;
    } else if (isMask) {
      const inBlock = focus && position >= focus.block_start && position < focus.block_start + focus.length;
      classes.push(inBlock && at === 0 ? "masked" : "pending");
      shownId = null;
    } else if (cell?.outcome === UNMASKED || cell?.outcome === EDITED) {
      classes.push(cell.outcome === EDITED ? "edited" : "fresh");
      if (cell.decider !== POLICY) classes.push("forced");
    }
    if (position >= trace.first + trace.num_visible_ids && at === trace.nfe) classes.push("beyond");
    const before = position > trace.first ? this.slots[position - trace.first - 1].id : null;
    slot.id = shownId;
    this.write(slot, shownId, classes, sure, position, shownId !== null && shownId === before);
  }

  // Spaces and line ends stand outside the token's box, so that the text flows as text. Of a run of
  // one special token, such as the end token that fills a block, all but the first are a ditto mark.
  write(slot, id, classes, sure, position, repeats) {
    const signature = `${id} ${repeats} ${classes.join(" ")} ${sure.toFixed(2)}`;
    if (slot.shown === signature) return;
    slot.shown = signature;
    const text = id === null ? "" : tokenText(this.trace, id);
    let [, lead, core, tail] = /^(\s*)([^]*?)(\s*)$/.exec(text);
    if (core === "" && text !== "") {
      [lead, core, tail] = text.includes("\n") ? ["", "\u21B5", text] : ["", "\u2423", text.slice(1)];
      classes.push("symbol");
    } else if (/^<.*>$/.test(core)) {
      classes.push("special");
      if (repeats) {
        core = "\u2033";
        classes.push("ditto");
      }
    }
    if (classes.includes("pending")) lead = "\u200B";
    else if (classes.includes("masked") && core === "") core = "\u00A0\u00A0";
    // Writing what is there already would lay a long canvas out anew.
    if (slot.lead.data !== lead) slot.lead.data = lead;
    if (slot.token.textContent !== core) slot.token.textContent = core;
    if (slot.tail.data !== tail) slot.tail.data = tail;
    const names = classes.join(" ") + (position === this.chosen ? " chosen" : "");
    if (slot.token.className !== names) slot.token.className = names;
    if (classes.includes("masked")) slot.token.style.setProperty("--sure", Number.isNaN(sure) ? "0" : sure.toFixed(2));
    const state = classes.slice(1).filter((name) => !["special", "symbol", "ditto", "beyond"].includes(name)).join(", ");
    slot.token.setAttribute("aria-label", `position ${position - this.trace.first}: ${text.trim() || core || "mask"}${state ? `, ${state}` : ""}`);
  }

  choose(position) {
    const mark = (at, on) => {
      const slot = at === null ? null : this.slots[at - this.trace.first];
      if (!slot) return;
      slot.token.classList.toggle("chosen", on);
      slot.token.tabIndex = on ? 0 : -1;
    };
    mark(this.chosen, false);
    this.chosen = position;
    mark(position, true);
  }

  describe(number) {
    const { trace } = this;
    if (number === 0) return "before the first forward";
    if (number > trace.nfe) return `finished after ${plural(trace.nfe, "forward")}`;
    const step = trace.steps[number - 1];
    const parts = [
      `forward ${number} of ${trace.nfe}`,
      `block ${step.block_index + 1}`,
      `${step.kind === "block" ? "" : `${step.kind}, `}${thousands(step.num_rows)} rows`,
      `${step.unmasked} unmasked${step.forced ? ` (${step.forced} by the engine)` : ""}`,
    ];
    if (step.revoked) parts.push(`${step.revoked} revoked`);
    if (step.edited) parts.push(`${step.edited} edited`);
    return [...parts, duration(step.time_s)].join(" \u00B7 ");
  }

  fillTable() {
    if (!this.details.open) return;
    const { trace, number } = this;
    const step = trace.steps[number - 1];
    if (!step) {
      this.table.replaceChildren(make("p", { class: "note" }, number === 0 ? "The first forward is still to come." : "This request had finished before."));
      return;
    }
    const names = Object.keys(step.signals);
    const head = make("tr", {}, make("th", { scope: "col" }, "position"), make("th", { class: "left", scope: "col" }, "candidate"),
      ["confidence", ...names].map((name) => make("th", { scope: "col" }, name)), make("th", { class: "left", scope: "col" }, "decision"));
    const rows = step.candidates.map((id, i) => {
      const cell = cellOf(trace, number, step.block_start + i);
      return make("tr", {}, make("td", {}, String(step.block_start + i - trace.first)), make("td", { class: "left" }, tokenLabel(trace, id)),
        [cell.confidence, ...names.map((name) => cell.signals[name])].map((value) => make("td", {}, digits(value))),
        make("td", { class: "left" }, decisionText(cell)));
    });
    this.table.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, rows)));
  }
}
