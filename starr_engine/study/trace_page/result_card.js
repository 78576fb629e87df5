// What came out, and what it took.

function resultCard(trace, base) {
  const figure = (value, name) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  const figures = make("dl", { class: "figures" },
    figure(thousands(trace.nfe), "forwards (NFE)"),
    figure(trace.tpf.toFixed(2), "tokens per forward"),
    figure(thousands(trace.rows), "rows computed"),
    figure(duration(trace.seconds), "wall time"));
  const facts = [
    `${plural(trace.refreshes, "refresh").replace("refreshs", "refreshes")}`,
    `${plural(trace.forced, "token")} unmasked by the engine`,
    plural(trace.revoked, "revocation"),
    ...(trace.edited ? [plural(trace.edited, "edit")] : []),
    `ended with ${trace.finish_reason}`,
  ];
  const children = [paneHead(trace), figures, make("p", { class: "status" }, facts.join(" \u00B7 ")),
    make("div", { class: "output", tabindex: "0", role: "region", "aria-label": `Output of ${trace.letter}` }, trace.text || "(empty)")];
  if (trace !== base) children.push(make("p", { class: "verdict" }, comparison(trace, base)));
  return make("div", { class: "card" }, children);
}

function comparison(trace, base) {
  const length = Math.max(trace.num_visible_ids, base.num_visible_ids);
  const visible = (one, i) => (i < one.num_visible_ids ? one.final_ids[one.first + i] : -1);
  let different = 0;
  for (let i = 0; i < length; i++) if (visible(trace, i) !== visible(base, i)) different++;
  const output = different === 0 ? `Same output as ${base.letter}` : `Differs from ${base.letter} at ${different} of ${plural(length, "token")}`;
  const more = trace.nfe - base.nfe;
  return `${output}; ${more === 0 ? "as many forwards" : `${plural(Math.abs(more), "forward")} ${more > 0 ? "more" : "fewer"}`}.`;
}
