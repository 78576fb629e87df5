// The canvas as it fills in: final text, the block that is denoised, and the masks behind it.
// Elements are made without markup in strings: no text of a model is ever read as HTML.

export class Canvas {
  constructor(element) {
    this.element = element;
    this.start("", "", 0, 1);
  }

  // before, after: the fixed text around what is generated.
  start(before, after, numTokens, blockLength) {
    this.numTokens = numTokens;
    this.done = 0;
    this.text = span("committed");
    this.active = span("");
    this.later = span("later");
    this.element.replaceChildren(span("given", before), this.text, this.active, this.later, span("given", after));
    this.blockLength = Math.min(blockLength, numTokens);
    this.drawMasks(0);
  }

  // tokens: the text of each position of the active block, null where a mask stands.
  showBlock(tokens) {
    this.blockLength = tokens.length;
    this.active.replaceChildren(...tokens.map((token) => (token === null ? span("mask") : span("provisional", token))));
    this.drawMasks(tokens.length);
  }

  commitBlock(text) {
    this.text.append(text);
    this.done += this.blockLength;
    this.active.replaceChildren();
    this.drawMasks(0);
    this.element.scrollTop = this.element.scrollHeight;
  }

  // What was never reached disappears.
  end() {
    this.active.replaceChildren();
    this.later.replaceChildren();
  }

  drawMasks(numActive) {
    const wanted = Math.max(this.numTokens - this.done - numActive, 0);
    while (this.later.childElementCount > wanted) this.later.lastChild.remove();
    while (this.later.childElementCount < wanted) this.later.append(span("mask"));
  }
}

function span(kind, text = "") {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = text;
  return made;
}
