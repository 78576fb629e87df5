import { Canvas } from "./canvas.js";
import { readEvents } from "./events.js";

const at = (id) => document.getElementById(id);
const canvas = new Canvas(at("canvas"));
let blockLength = 32;
let running = null;

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
at("form").addEventListener("change", showMode);
at("stop").addEventListener("click", () => running?.abort());
at("key").addEventListener("change", connect);
showMode();
connect();

function mode() {
  return document.querySelector("input[name=mode]:checked").value;
}

function showMode() {
  at("suffix-row").hidden = mode() !== "gap";
}

function headers() {
  const key = at("key").value.trim();
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

// What is served, and which policies it takes.
async function connect() {
  try {
    const answer = await fetch("v1/models", { headers: headers() });
    if (answer.status === 401) {
      at("key-row").hidden = false;
      at("model").textContent = "this server needs an API key";
      return;
    }
    const [card] = (await answer.json()).data;
    at("model").textContent = `${card.id}, ${card.attention.replace("_", "-")}, at most ${card.max_model_len} tokens`;
    at("max_tokens").max = card.max_model_len;
    blockLength = card.block_length ?? 32;
    for (const name of ["remasking", "cache"]) {
      const options = card[name].map((policy) => new Option(policy, policy));
      at(name).replaceChildren(new Option("default", ""), ...options);
    }
  } catch (error) {
    at("model").textContent = `no answer: ${error.message}`;
  }
}

function request() {
  const body = { stream: true, stream_options: { include_usage: true }, provisional: true };
  for (const name of ["max_tokens", "block_length", "temperature", "seed"]) {
    if (at(name).value !== "") body[name] = Number(at(name).value);
  }
  for (const name of ["remasking", "cache"]) {
    if (at(name).value !== "") body[name] = at(name).value;
  }
  const prompt = at("prompt").value;
  if (mode() === "chat") return ["v1/chat/completions", { ...body, messages: [{ role: "user", content: prompt }] }];
  if (mode() === "gap") return ["v1/completions", { ...body, prompt, suffix: at("suffix").value, gap: body.max_tokens }];
  return ["v1/completions", { ...body, prompt }];
}

async function generate() {
  const [address, body] = request();
  const isGap = mode() === "gap";
  running = new AbortController();
  setRunning(true);
  at("figures").replaceChildren();
  say("waiting");
  canvas.start(isGap ? body.prompt : "", isGap ? body.suffix : "", body.max_tokens, body.block_length ?? blockLength);
  const started = performance.now();
  try {
    const answer = await fetch(address, {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    await show(answer.body, started);
    canvas.end();
  } catch (error) {
    if (error.name === "AbortError") say("stopped");
    else say(error.message, true);
  } finally {
    running = null;
    setRunning(false);
  }
}

async function show(stream, started) {
  const pace = Number(at("pace").value);
  let ending = null;
  for await (const { name, data } of readEvents(stream)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    if (name === "provisional") {
      canvas.showBlock(chunk.tokens);
      say(`block ${chunk.block_index + 1}, step ${chunk.denoising_steps}`);
      await pause(pace);
    } else if (chunk.usage) {
      showFigures(chunk.usage, ending, (performance.now() - started) / 1000);
    } else {
      const [choice] = chunk.choices;
      if (choice.block_index !== undefined) canvas.commitBlock(choice.text ?? choice.delta.content ?? "");
      if (choice.finish_reason !== null) ending = choice;
    }
  }
}

function showFigures(usage, ending, seconds) {
  say(`ended: ${ending.finish_reason}`);
  const figures = [
    ["forwards (NFE)", usage.denoising_steps],
    ["tokens per forward", usage.tokens_per_forward.toFixed(2)],
    ["tokens", usage.completion_tokens],
    ["seconds, pace included", seconds.toFixed(2)],
    ["cache", ending.cache_label],
  ];
  at("figures").replaceChildren(...figures.map(([term, value]) => {
    const group = document.createElement("div");
    const [dt, dd] = ["dt", "dd"].map((tag) => document.createElement(tag));
    dt.textContent = term;
    dd.textContent = value;
    if (term === "cache") dd.className = "small";
    group.append(dt, dd);
    return group;
  }));
}

function say(text, isBad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", isBad);
}

function setRunning(isRunning) {
  at("run").disabled = isRunning;
  at("stop").disabled = !isRunning;
}

function pause(ms) {
  if (ms === 0) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const signal = running.signal;
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
