// Joins the panes: one forward and one position are shown everywhere at once.

const traces = JSON.parse(document.getElementById("traces").textContent).map(readTrace);
const find = (id) => document.getElementById(id);
const lastNumber = Math.max(1, ...traces.map((trace) => trace.nfe));
const shown = { number: 1, position: longestWait(), timer: null, address: null };

// The position worth looking at first: the one that took most forwards to become a token.
function longestWait() {
  const trace = traces[0];
  let best = trace.first, most = 0;
  for (let position = trace.first; position < trace.first + Math.max(1, trace.num_visible_ids); position++) {
    const waited = trace.steps.filter((_, at) => cellOf(trace, at + 1, position)?.outcome === MASKED).length;
    if (waited > most) [best, most] = [position, waited];
  }
  return best;
}

const texts = traces.map((trace) => new TextPane(trace, choosePosition));
const maps = traces.map((trace) => new HeatMap(trace, traces, {
  hover: (one, number, position, event) => showTip(one, number, position, event),
  leave: hideTip,
  pick: (one, number, position, event) => {
    if (!number) return;
    shown.position = position;
    goTo(number);
    showTip(one, number, position, event);
  },
}));
const curves = traces.map((trace) => new Curve(trace, traces, goTo));
const timelines = traces.map((trace) => new Timeline(trace, traces, goTo));

function update() {
  const { number, position } = shown;
  for (const pane of texts) pane.show(number, position);
  for (const pane of [...maps, ...curves]) pane.show(number, position);
  for (const pane of timelines) pane.show(number);
  find("slider").value = number;
  const where = number === 0 ? "before the first" : `forward ${number} of ${lastNumber}`;
  find("where").replaceChildren(make("span", {}, "forward "), `${number} of ${lastNumber}`);
  find("slider").setAttribute("aria-valuetext", where);
  const place = position - traces[0].first;
  find("curve-note").replaceChildren(`Position ${place}: its candidate's confidence at each forward of its block, and what the policy held against it. `, curveLegend(traces.flatMap((trace) => trace.signalNames)));
  // The address follows once things rest; browsers refuse a page that changes it too often.
  clearTimeout(shown.address);
  shown.address = setTimeout(() => history.replaceState(null, "", `#forward=${number}&position=${place}`), 250);
}

function goTo(number) {
  shown.number = Math.min(Math.max(number, 0), lastNumber);
  update();
}

function choosePosition(position) {
  const { first, size } = traces[0];
  shown.position = Math.min(Math.max(position, first), first + size - 1);
  update();
}

function setPlaying(on) {
  clearInterval(shown.timer);
  shown.timer = null;
  if (on) {
    if (shown.number >= lastNumber) goTo(0);
    shown.timer = setInterval(() => {
      goTo(shown.number + 1);
      if (shown.number >= lastNumber) setPlaying(false);
    }, 700 / Number(find("speed").value));
  }
  find("play").setAttribute("aria-label", on ? "Pause" : "Play");
  find("play-icon").setAttribute("d", on ? "M4 3h4v14H4zM12 3h4v14h-4z" : "M5 3v14l12-7z");
  find("where").setAttribute("aria-live", on ? "off" : "polite");
}

function halt(number) {
  setPlaying(false);
  goTo(number);
}

function showTip(trace, number, position, event) {
  const cell = number ? cellOf(trace, number, position) : null;
  const tip = find("tip");
  tip.hidden = !cell;
  if (!cell) return;
  const entries = [["confidence", cell.confidence], ...Object.entries(cell.signals)].filter(([, value]) => !Number.isNaN(value));
  tip.replaceChildren(make("b", {}, tokenLabel(trace, cell.candidate)), ` at position ${position - trace.first}, forward ${number}`,
    make("dl", {}, entries.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, digits(value))])), make("div", {}, decisionText(cell)));
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  const top = event.clientY + 16 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 16;
  Object.assign(tip.style, { left: `${Math.max(6, left)}px`, top: `${Math.max(6, top)}px` });
}

function hideTip() {
  find("tip").hidden = true;
}

function onKey(event) {
  const inControl = event.target.closest("select, input, summary, button, [role=region]");
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (turn && event.shiftKey) choosePosition(shown.position + turn);
  else if (turn && event.target.id !== "slider" && event.target.tagName !== "SELECT") halt(shown.number + turn);
  else if (event.key === " " && !inControl) setPlaying(!shown.timer);
  else if (event.key === "Home" && !inControl) halt(0);
  else if (event.key === "End" && !inControl) halt(lastNumber);
  else if (event.key === "Escape") return hideTip();
  else return;
  event.preventDefault();
}

function layOut() {
  fillMapLegend(find("map-legend"));
  for (const pane of [...maps, ...curves, ...timelines]) pane.layOut();
  update();
}

function start() {
  const put = (id, elements) => find(id).replaceChildren(...elements);
  put("results", traces.map((trace) => resultCard(trace, traces[0])));
  put("canvases", texts.map((pane) => pane.element));
  put("maps", maps.map((pane) => pane.element));
  put("curves", curves.map((pane) => pane.element));
  put("timelines", timelines.map((pane) => pane.element));
  find("slider").max = lastNumber;
  find("slider").addEventListener("input", (event) => halt(Number(event.target.value)));
  find("speed").addEventListener("change", () => shown.timer && setPlaying(true));
  find("play").addEventListener("click", () => setPlaying(!shown.timer));
  find("first").addEventListener("click", () => halt(0));
  find("back").addEventListener("click", () => halt(shown.number - 1));
  find("next").addEventListener("click", () => halt(shown.number + 1));
  find("last").addEventListener("click", () => halt(lastNumber));
  document.addEventListener("keydown", onKey);
  document.addEventListener("scroll", hideTip, { passive: true });
  const asked = new URLSearchParams(location.hash.slice(1));
  if (asked.has("forward")) shown.number = Math.min(Math.max(Number(asked.get("forward")) || 0, 0), lastNumber);
  if (asked.has("position")) shown.position = traces[0].first + Math.min(Math.max(Number(asked.get("position")) || 0, 0), traces[0].size - 1);
  new ResizeObserver(layOut).observe(document.querySelector("main"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", layOut);
  layOut();
}

start();
