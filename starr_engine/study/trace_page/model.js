// Traces as the page needs them: typed columns, the canvas after every forward, texts of tokens.

const KEPT = 0, MASKED = 1, UNMASKED = 2, REVOKED = 3, EDITED = 4;
const OUTCOMES = ["kept", "stays masked", "unmasked", "revoked", "edited"];

// Whether a position changed.
const isMoment = (outcome) => outcome >= UNMASKED;
const POLICY = 1;
const DECIDERS = ["", "policy", "progress guarantee", "early exit", "engine"];

// Steps that compute what others will reuse: the first one, and refreshes.
const isRefresh = (step) => step.kind === "refresh" || step.kind === "prefill";

const number = (value) => (value === null ? NaN : Number(value));

function readTrace(raw, index) {
  const steps = raw.steps.map((step, at) => ({
    ...step,
    number: at + 1,
    length: step.candidates.length,
    confidence: Float32Array.from(step.confidence, number),
    signals: Object.fromEntries(
      Object.entries(step.signals).map(([name, values]) => [name, Float32Array.from(values, number)]),
    ),
    unmasked: step.outcomes.filter((outcome) => outcome === UNMASKED).length,
    revoked: step.outcomes.filter((outcome) => outcome === REVOKED).length,
    edited: step.outcomes.filter((outcome) => outcome === EDITED).length,
    forced: step.outcomes.filter((outcome, i) => outcome === UNMASKED && step.deciders[i] !== POLICY).length,
  }));
  const states = [Int32Array.from(raw.initial_ids)];
  for (const step of steps) {
    const ids = Int32Array.from(states.at(-1));
    step.outcomes.forEach((outcome, i) => {
      if (outcome === UNMASKED || outcome === EDITED) ids[step.block_start + i] = step.candidates[i];
      if (outcome === REVOKED) ids[step.block_start + i] = raw.mask_token_id;
    });
    states.push(ids);
  }
  const total = (name) => steps.reduce((sum, step) => sum + step[name], 0);
  const unmasked = total("unmasked") - total("revoked");
  return {
    ...raw,
    steps,
    states,
    index,
    letter: "ABC"[index],
    nfe: steps.length,
    unmasked,
    tpf: steps.length ? unmasked / steps.length : 0,
    rows: total("num_rows"),
    liveRows: total("num_live"),
    seconds: total("time_s"),
    forced: total("forced"),
    revoked: total("revoked"),
    edited: total("edited"),
    refreshes: steps.filter((step) => isRefresh(step)).length,
    first: raw.num_prompt_tokens,
    size: raw.initial_ids.length - raw.num_prompt_tokens,
    reached: Math.max(0, ...steps.map((step) => step.block_start + step.length - raw.num_prompt_tokens)),
    signalNames: [...new Set(steps.flatMap((step) => Object.keys(step.signals)))],
  };
}

// The numbers of one position at one forward; null where the forward did not look at it.
function cellOf(trace, number, position) {
  const step = trace.steps[number - 1];
  const i = step ? position - step.block_start : -1;
  if (i < 0 || i >= step.length) return null;
  return {
    candidate: step.candidates[i],
    confidence: step.confidence[i],
    signals: Object.fromEntries(Object.entries(step.signals).map(([name, values]) => [name, values[i]])),
    outcome: step.outcomes[i],
    decider: step.deciders[i],
  };
}

function tokenText(trace, id) {
  return trace.token_texts[id] ?? `#${id}`;
}

// One line, in quotes of its own where it is blank.
function tokenLabel(trace, id, longest = 24) {
  const text = tokenText(trace, id).replace(/\n/g, "\u21B5");
  const bare = text.trim() || "\u2423".repeat(text.length);
  return bare.length > longest ? `${bare.slice(0, longest - 1)}\u2026` : bare;
}

function decisionText(cell) {
  const outcome = OUTCOMES[cell.outcome] ?? "?";
  return cell.decider ? `${outcome}, by ${DECIDERS[cell.decider] ?? "?"}` : outcome;
}

const digits = (value, places = 3) =>
  Number.isNaN(value) ? "\u2013" : Number.isFinite(value) ? value.toFixed(places) : value > 0 ? "\u221E" : "-\u221E";

const thousands = (value) => Math.round(value).toLocaleString("en-US");

const duration = (seconds) => (seconds < 1 ? `${(seconds * 1000).toFixed(1)} ms` : `${seconds.toFixed(2)} s`);

const plural = (count, noun) => `${thousands(count)} ${noun}${count === 1 ? "" : "s"}`;
