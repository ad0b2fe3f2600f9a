// What all views of the explorer share: elements, colours of the page's theme, buttons, and word from the kernel.
//
// A view only knows a "model" with get, set, save_changes, on and send. In a notebook that is the widget's model; in a
// page without a kernel it is any object with these methods and `live` set to false.

const FRAME_STYLE = `
.ip-view { color: var(--jp-ui-font-color1, CanvasText); background: var(--jp-layout-color0, Canvas);
  font: 13px/1.45 var(--jp-ui-font-family, system-ui, sans-serif); container-type: inline-size; padding: 6px; }
.ip-view * { box-sizing: border-box; }
.ip-bar { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; margin: 0 0 8px; }
.ip-bar label, .ip-field { display: inline-flex; gap: 5px; align-items: center; }
.ip-view button, .ip-view select, .ip-view input[type=text], .ip-view input[type=number], .ip-view textarea {
  font: inherit; color: inherit; background: var(--jp-layout-color1, Field); padding: 2px 7px; min-height: 26px;
  border: 1px solid var(--jp-border-color1, GrayText); border-radius: 3px; }
.ip-view button { cursor: pointer; }
.ip-view button:hover:not(:disabled) { background: var(--jp-layout-color2, ButtonFace); }
.ip-view button:disabled { opacity: 0.5; cursor: default; }
.ip-view :is(button, select, input, textarea, canvas, tr, summary, a):focus-visible {
  outline: 2px solid var(--jp-brand-color1, Highlight); outline-offset: 1px; }
.ip-view textarea { width: 100%; font-family: var(--jp-code-font-family, monospace); font-size: 12px; }
.ip-view summary { cursor: pointer; }
.ip-quiet { color: var(--jp-ui-font-color2, GrayText); }
.ip-push { margin-left: auto; }
.ip-notice { border-left: 4px solid #D55E00; padding: 4px 8px; margin: 0 0 8px; background: var(--jp-layout-color2, Field); }
.ip-notice:empty { display: none; }
.ip-notice > * + * { margin-top: 4px; }
.ip-panels { display: flex; flex-wrap: wrap; gap: 12px; }
.ip-panels > * { flex: 1 1 300px; min-width: 0; }
.ip-title { font-weight: 600; margin: 0 0 3px; overflow-wrap: anywhere; }
.ip-line { min-height: 1.5em; margin: 6px 0 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
`;

/** Make an element: attributes are set, handlers (`onclick`) and properties (`value`, `checked`) too. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") made[name] = value;
    else if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Make the root of a view, with the notice that problems are written into. */
export function makeRoot(el, label) {
  const notice = element("div", { class: "ip-notice", role: "alert" });
  const root = element("section", { class: "ip-view", "aria-label": label }, element("style", {}, FRAME_STYLE), notice);
  el.append(root);
  return { root, notice };
}

/**
 * Say in the notice what is wrong, a line for each cause; an empty text takes the line back.
 *
 * A cause is the kind of answer that did not come ("tiles", "figure"), "kernel" or "work" (see `watchKernel`).
 */
export function sayProblem(notice, cause, text) {
  let line = [...notice.children].find((each) => each.dataset.cause === cause);
  if (!text) return void line?.remove();
  if (!line) notice.append((line = element("div", { "data-cause": cause })));
  if (line.textContent !== text) line.textContent = text;
}

/** Make a labelled choice; `options` are [value, text] pairs. */
export function makeChoice(label, options, value, onChange) {
  const select = element("select", { "aria-label": label, onchange: () => onChange(select.value) });
  for (const [key, text] of options) select.append(element("option", { value: key }, text));
  select.value = value;
  return { field: element("label", {}, label, select), select };
}

/** Read bytes of the model as a typed array; copies, because the bytes may start anywhere in their buffer. */
export function readArray(model, name, Type) {
  const view = model.get(name);
  if (!view || !view.byteLength) return new Type(0);
  return new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** Write a number with a true minus sign, without digits that say nothing. */
export function formatNumber(value, digits) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return value.toFixed(digits).replace("-", "−");
}

/** Write a share in percent with two digits that count. */
export function formatPercent(share) {
  if (share === null || Number.isNaN(share)) return "–";
  const percent = 100 * share;
  if (percent === 0) return "0 %";
  const digits = percent >= 10 ? 1 : Math.min(6, 1 - Math.floor(Math.log10(percent)));
  return `${percent.toFixed(digits)} %`;
}

/** Give the colours that the page's theme wants of something that is drawn; `root` may not be on the page yet. */
export function readTheme(root) {
  const probe = element("div", { style: "display: none; color: var(--jp-ui-font-color1, CanvasText); background: var(--jp-layout-color0, Canvas)" });
  (root.isConnected ? root : document.body).append(probe);
  const style = getComputedStyle(probe);
  const background = readColour(style.backgroundColor);
  const text = readColour(style.color);
  probe.remove();
  const dark = 0.2126 * background[0] + 0.7152 * background[1] + 0.0722 * background[2] < 110;
  return { dark, background, text };
}

function readColour(css) {
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
  context.fillStyle = css;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

/** Call back when the theme of JupyterLab or of the system changes; returns how to stop. */
export function onThemeChange(callback) {
  const observer = new MutationObserver(callback);
  for (const target of [document.body, document.documentElement]) {
    observer.observe(target, { attributes: true, attributeFilter: ["data-jp-theme-name", "class", "style", "data-theme"] });
  }
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", callback);
  return () => {
    observer.disconnect();
    scheme.removeEventListener("change", callback);
  };
}

const ANSWER_WITHIN_MS = 6000;
const ASK_AGAIN_MS = 5000;
const GONE =
  "The kernel does not answer: it was restarted, has ended, or is busy. Looking around still works here; figures, " +
  "pictures and the next cell need the kernel. If it was restarted, run the cell again.";

/**
 * Say in the notice what is wrong in the kernel, and take each line back when its cause has gone.
 *
 * "kernel": it does not answer. It is asked when the connection changes, and while the view is in use (pointer over it,
 * or focus in it), so that an idle notebook stays idle; any word from it takes the line back. "work": what it computes
 * in the background failed, as the trait `problem` says. Else: an answer was refused; the next one of its kind came.
 */
export function watchKernel(model, root, notice) {
  if (!model.get("live")) return () => {};
  let waiting = 0;
  let askedAt = -Infinity;
  const gone = () => sayProblem(notice, "kernel", GONE);
  const ask = (event) => {
    const now = performance.now();
    if (waiting || (event && now - askedAt < ASK_AGAIN_MS)) return;
    askedAt = now;
    waiting = setTimeout(() => {
      waiting = 0;
      gone();
    }, ANSWER_WITHIN_MS);
    try {
      model.send({ type: "ping" });
    } catch {
      gone();
    }
  };
  const answered = (message) => {
    clearTimeout(waiting);
    waiting = 0;
    sayProblem(notice, "kernel", "");
    if (message.type === "problem") sayProblem(notice, message.about, message.text);
    else sayProblem(notice, message.type, "");
  };
  const work = () => sayProblem(notice, "work", model.get("problem"));
  work();
  model.on("change:problem", work);
  model.on("msg:custom", answered);
  model.on("comm_live_update", () => ask());
  model.on("comm:close", gone);
  root.addEventListener("pointermove", ask);
  root.addEventListener("keydown", ask);
  return () => clearTimeout(waiting);
}

/** Make the buttons that save the static figure and show the code that draws it. */
export function makeFigureButtons(model, notice) {
  const said = element("span", { class: "ip-quiet", role: "status" });
  const code = element("textarea", { readonly: "", hidden: "", "aria-label": "Code of the static figure", rows: 8 });
  const showCode = async () => {
    code.hidden = !code.hidden;
    if (code.hidden) return void (said.textContent = "");
    code.value = model.get("code");
    code.rows = code.value.split("\n").length + 1;
    code.select();
    try {
      await navigator.clipboard.writeText(code.value);
      said.textContent = "Copied.";
    } catch {
      said.textContent = "Select the code below and copy it.";
    }
  };
  const save = (format) => {
    said.textContent = "Drawing …";
    sayProblem(notice, "figure", "");
    model.send({ type: "save_figure", format });
  };
  model.on("change:code", () => (code.value = model.get("code")));
  model.on("msg:custom", (message, buffers) => {
    if (message.type === "problem" && message.about === "figure") said.textContent = "";
    if (message.type !== "figure") return;
    said.textContent = `Saved as ${message.name}.`;
    download(message.name, buffers[0]);
  });
  const buttons = element("span", { class: "ip-field ip-push" }, said);
  if (model.get("live")) {
    for (const format of ["svg", "png"]) {
      buttons.append(element("button", { type: "button", onclick: () => save(format) }, `Save figure (${format.toUpperCase()})`));
    }
  }
  buttons.append(element("button", { type: "button", onclick: showCode }, "Copy code"));
  return { buttons, code };
}

function download(name, buffer) {
  const type = name.endsWith(".svg") ? "image/svg+xml" : "image/png";
  const address = URL.createObjectURL(new Blob([buffer], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
