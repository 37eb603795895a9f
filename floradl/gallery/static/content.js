// What the dialog shows of an output that is not simply a picture.

import { h, icon } from "./dom.js";
import { bytes } from "./format.js";

const MOST_TEXT = 1 << 20; // bytes of a text that are shown; the rest is in the file

/** Does an image element show it? @param {Record<string, any>} output */
export const isPicture = (output) => output.kind === "image" && !output.broken && !/^text\//.test(output.content_type ?? "");

/** Make the element that shows an output; for null, that it is still awaited. @param {Record<string, any> | null} output */
export function content(output) {
  if (!output) return frame("pending", h("span", { class: "spinner", role: "status", "aria-label": "Loading" }));
  const type = output.content_type ?? "";
  if (output.broken) return card(output, "This browser cannot show this picture.");
  if (output.kind === "video") return video(output);
  if (output.kind === "audio") return audio(output);
  if (type.startsWith("application/pdf") || (output.kind === "document" && /\.pdf$/i.test(output.name))) return pdf(output);
  if (output.kind === "text" || type === "text/plain") return text(output);
  return card(output, "There is no preview of this kind of file.");
}

/** Fetch what is only fetched once it is looked at: players and frames have an address from then on. @param {Element | null} element */
export function activate(element) {
  for (const each of element?.querySelectorAll?.("[data-src]") ?? []) {
    each.src = each.dataset.src;
    delete each.dataset.src;
  }
}

function frame(kind, ...children) {
  return h("div", { class: `pswp__content content ${kind}` }, ...children);
}

function card(output, message) {
  return frame("card-frame", h("div", { class: "card still" },
    icon(output.kind), h("p", { class: "name", dir: "auto", text: output.name }), h("p", { text: [message, bytes(output.bytes)].filter(Boolean).join(" ") }),
    h("a", { class: "button", href: output.url, download: output.name }, icon("download"), h("span", { text: "Download" }))));
}

function video(output) {
  const player = h("video", { class: "still", controls: true, playsinline: true, preload: "metadata", poster: output.thumbnail, "aria-label": output.name });
  return media(player, output, "video");
}

function audio(output) {
  const player = h("audio", { controls: true, preload: "metadata", "aria-label": output.name });
  return media(player, output, "audio", h("p", { class: "name", dir: "auto", text: output.name }));
}

function media(player, output, kind, ...above) {
  player.dataset.src = output.url;
  // The player's own keys: it seeks with the arrows while it has the focus.
  player.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" && event.key !== "Tab") event.stopPropagation();
  });
  const made = frame(kind, kind === "audio" ? h("div", { class: "card still" }, icon("audio"), ...above, player) : player);
  player.addEventListener("error", () => made.replaceChildren(...card(output, "This browser cannot play this file.").children), { once: true });
  return made;
}

function pdf(output) {
  return frame("pdf", h("iframe", { class: "still", title: output.name, data: { src: `${output.url}#view=FitH` } }));
}

function text(output) {
  const sheet = h("div", { class: "sheet still", tabindex: "0", role: "document", "aria-label": output.name, dir: "auto", text: output.text ?? "" });
  for (const event of ["wheel", "touchmove"]) sheet.addEventListener(event, (each) => each.stopPropagation(), { passive: true });
  sheet.addEventListener("keydown", (event) => {
    if (["ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End", " "].includes(event.key)) event.stopPropagation();
  });
  read(output).then(
    ({ words, cut }) => {
      sheet.textContent = words;
      if (cut) sheet.append(h("p", { class: "cut" }, h("a", { href: output.url, download: output.name, text: `The whole text (${bytes(output.bytes)})` })));
    },
    () => sheet.append(h("p", { class: "cut", text: "The file could not be read." })),
  );
  return frame("text", sheet);
}

async function read(output) {
  const cut = (output.bytes ?? 0) > MOST_TEXT;
  const response = await fetch(output.url, { credentials: "same-origin", headers: cut ? { Range: `bytes=0-${MOST_TEXT - 1}` } : {} });
  if (!response.ok) throw new Error(String(response.status));
  return { words: new TextDecoder().decode(await response.arrayBuffer()), cut };
}
