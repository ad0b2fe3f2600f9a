// The page's own script: contents, and live views without a kernel: what a widget's script needs of Jupyter, answered from what the page holds.

/** Contents stand open where they stand beside the text; above it they would hide it. */
function openContents() {
  const beside = matchMedia("(min-width: 70rem)");
  const follow = () => (document.getElementById("contents").open = beside.matches);
  beside.addEventListener("change", follow);
  follow();
}

/** Turn {"base64": text} into a DataView, as a widget's model gives bytes; anything else stays. */
function unpack(value) {
  if (value === null || typeof value !== "object" || typeof value.base64 !== "string") return value;
  const text = atob(value.base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new DataView(bytes.buffer);
}

/** Stands where a widget's model stands in a notebook: get, set, save_changes, on, off and send. */
class PageModel {
  constructor(state, answer) {
    this.state = new Map(Object.entries(state).map(([name, value]) => [name, unpack(value)]));
    this.state.set("live", false);
    this.answer = answer;
    this.callbacks = new Map();
  }

  get(name) {
    return this.state.get(name);
  }

  set(name, value) {
    if (typeof name === "object") return void Object.entries(name).forEach(([key, one]) => this.set(key, one));
    if (this.state.get(name) === value) return;
    this.state.set(name, value);
    this.tell(`change:${name}`, this, value);
    this.tell("change", this);
  }

  save_changes() {}

  on(names, callback) {
    for (const name of names.split(" ")) this.callbacks.set(name, [...(this.callbacks.get(name) ?? []), callback]);
  }

  off(name, callback) {
    const rest = (this.callbacks.get(name) ?? []).filter((one) => callback && one !== callback);
    this.callbacks.set(name, rest);
  }

  tell(name, ...what) {
    for (const callback of this.callbacks.get(name) ?? []) callback(...what);
  }

  /** A message to the kernel: answered later, as a kernel would. */
  send(message) {
    const reply = (content, buffers = []) => this.tell("msg:custom", content, buffers);
    setTimeout(() => this.answer(this, message, reply), 0);
  }
}

/** Who answers the messages of a view and makes its inputs, by the name that its answers have under `kind`. */
const kernels = {};

/** Show a view in its place; called by the script behind it. */
function showView(anchor, widget) {
  const place = document.getElementById(`${anchor}-place`);
  try {
    const { state, answers } = JSON.parse(document.getElementById(`${anchor}-state`).textContent);
    const known = Object.fromEntries(Object.entries(answers).map(([name, value]) => [name, unpack(value)]));
    const kernel = known.kind ? kernels[known.kind](known) : { answer: () => {} };
    const model = new PageModel(state, kernel.answer);
    kernel.begin?.(model);
    if (kernel.controls) place.append(kernel.controls(model));
    widget.initialize?.({ model });
    widget.render({ model, el: place });
    place.model = model; // for tests and measurements
    place.dataset.shown = "yes";
  } catch (error) {
    place.textContent = `This view could not be shown: ${error.message}`;
    throw error;
  }
}
