// Elements without markup: whatever a library holds is text, and never becomes HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element. `props`: `class`, `text`, `on` (events), `data`, else attributes; null and false leave one out.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node | string | null)} children
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The parts of a path, with places between them where a line may end. @param {string} path */
export function breakable(path) {
  return path.split(/(?<=[/_-])/).flatMap((part) => [document.createElement("wbr"), part]).slice(1);
}

/** Make one of the icons that index.html defines. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Give an element these children, and touch none that is in its place: what is pressed or focused there stays so.
 * @param {Element} parent @param {Node[]} children */
export function setChildren(parent, children) {
  const { activeElement: focused } = document;
  const wanted = new Set(children);
  for (const old of [...parent.childNodes]) if (!wanted.has(old)) old.remove();
  children.forEach((child, at) => {
    if (parent.childNodes[at] !== child) parent.insertBefore(child, parent.childNodes[at] ?? null);
  });
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true }); // it was moved
}

/** Make a button that copies a text, and says that it did. @param {string} text @param {string} what */
export function copyButton(text, what) {
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${what}`, title: `Copy ${what}` }, icon("copy"));
  let timer = 0;
  button.addEventListener("click", async () => {
    const copied = await copy(text, button);
    button.replaceChildren(icon(copied ? "check" : "warning"));
    announce(copied ? `Copied ${what}` : `The browser refused to copy ${what}`);
    clearTimeout(timer);
    timer = setTimeout(() => button.replaceChildren(icon("copy")), 1600);
  });
  return button;
}

/** Make a button that has the server do something, and says what came of it. @param {string} text @param {string} name accessible
 * @param {() => Promise<void>} act @param {boolean} [asks] whether it wants a second press */
export function actionButton(text, name, act, asks = false, done = "Queued") {
  const button = h("button", { type: "button", class: "button action", "aria-label": name, text });
  let sure = !asks;
  button.addEventListener("click", async () => {
    if (!sure) {
      sure = true;
      button.textContent = `Really ${text.toLowerCase()}?`;
      button.setAttribute("aria-label", `Really: ${name}?`);
      return;
    }
    button.disabled = true;
    try {
      await act();
      button.textContent = done;
      announce(`${done}: ${name}`);
    } catch (error) {
      button.disabled = false;
      button.textContent = text;
      announce(error.message);
      button.after(h("span", { class: "why", text: error.message }));
    }
  });
  return button;
}

// `navigator.clipboard` exists on https and loopback only; elsewhere a selection is copied.
async function copy(text, beside) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = h("textarea", { class: "off-screen", readonly: true, "aria-hidden": "true" });
    field.value = text;
    beside.parentNode.append(field);
    field.select();
    try {
      return document.execCommand("copy");
    } finally {
      field.remove();
      beside.focus();
    }
  }
}

/** Say something to screen readers, wherever the focus is. @param {string} text */
export function announce(text) {
  const parent = document.querySelector(".pswp") ?? document.body;
  let place = parent.querySelector(":scope > .announcer");
  if (!place) {
    place = h("div", { class: "announcer off-screen", role: "status" });
    parent.append(place);
  }
  place.textContent = "";
  requestAnimationFrame(() => (place.textContent = text));
}
