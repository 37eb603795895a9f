// The dialog that shows one output: PhotoSwipe with pictures, and with what it has no idea of: video, sound, PDF, text.

import { announce } from "./dom.js";
import { activate, content, isPicture } from "./content.js";
import { count, spoken } from "./format.js";
import { Panel } from "./panel.js";
import PhotoSwipe from "./vendor/photoswipe/photoswipe.esm.min.js";

const PANEL = 360; // CSS pixels; gallery.css has the same
const WIDE = 900; // from so wide a window on the panel stands beside the picture, else below it
const SHEET = 0.58; // of the window's height, there; in gallery.css, too
const REMEMBER = "floradl.panel";

const INFO = {
  isCustomSVG: true,
  inner: '<path d="M16 6.5a9.5 9.5 0 1 0 0 19 9.5 9.5 0 0 0 0-19m-1.2 4.2h2.4v2.4h-2.4zm0 4.3h2.4v6.6h-2.4z" id="pswp__icn-info"/>',
  outlineID: "pswp__icn-info",
};
const DOWNLOAD = {
  isCustomSVG: true,
  inner: '<path d="M20.5 14.3 17.1 18V10h-2.2v7.9l-3.4-3.6L10 15.6l6 6.4 6-6.4ZM23 23H9v2h14" id="pswp__icn-download"/>',
  outlineID: "pswp__icn-download",
};

export class Viewer {
  /**
   * @param {{thumbnail: (at: number) => HTMLElement | undefined, moved: (output: any) => void, closing: (at: number, output: any) => void,
   *   closed: (at: number, output: any) => void, failed: (error: Error) => void, link: (filters: any) => string,
   *   open: (output: any) => void, narrow: (filters: any) => void, actions: () => string[]}} acts
   */
  constructor(acts) {
    this.acts = acts;
    this.pswp = null;
    this.source = null;
    this.panel = new Panel(acts);
    // The panel scrolls by itself: what happens in it is none of the picture's business.
    for (const event of ["wheel", "touchmove"]) this.panel.element.addEventListener(event, (each) => each.stopPropagation(), { passive: true });
    this.panel.element.addEventListener("keydown", (event) => {
      if (!["Escape", "ArrowLeft", "ArrowRight", "Tab"].includes(event.key)) event.stopPropagation();
    });
    /** What a picture without a known size turned out to measure, by its address. @type {Map<string, {width: number, height: number} | null>} */
    this.measured = new Map();
  }

  /** Is it open, and not about to close? */
  get isOpen() {
    return this.pswp !== null && !this.pswp.isDestroying;
  }

  /** The output that is shown. */
  get output() {
    return this.pswp ? this.source.peek(this.pswp.currIndex) : undefined;
  }

  /** Open at a place. @param {{total: number, peek: (at: number) => any, item: (at: number) => Promise<any>}} source @param {number} at */
  open(source, at) {
    if (this.pswp) this.pswp.destroy();
    this.source = source;
    const pswp = new PhotoSwipe({
      dataSource: [], index: at, loop: false, preload: [1, 2], bgOpacity: 1,
      returnFocus: false, wheelToZoom: true, pinchToClose: true, closeOnVerticalDrag: true,
      imageClickAction: "zoom", bgClickAction: "close", tapAction: "toggle-controls",
      showAnimationDuration: 180, hideAnimationDuration: 160, maxZoomLevel: 8,
      getViewportSizeFn: () => this.room(), paddingFn: (room) => (room.x < 700 ? { top: 0, bottom: 0, left: 0, right: 0 } : { top: 60, bottom: 20, left: 20, right: 20 }),
      closeTitle: "Close (Esc)", zoomTitle: "Zoom (z)", arrowPrevTitle: "Previous (left arrow)", arrowNextTitle: "Next (right arrow)",
    });
    this.pswp = pswp;
    this.hasPanel = innerWidth >= WIDE && remembered() !== "closed";
    pswp.addFilter("numItems", () => source.total);
    pswp.addFilter("itemData", (_, index) => this.data(index));
    pswp.addFilter("thumbEl", (_, data, index) => (data.output && isPicture(data.output) ? this.acts.thumbnail(index) : undefined));
    pswp.addFilter("contentErrorElement", (_, slide) => content({ ...slide.data.output, broken: true }));
    this.listen(pswp);
    this.keepEarlyKeys(pswp);
    pswp.init();
    return pswp;
  }

  /** Go to another place of what is open. @param {number} at */
  goTo(at) {
    this.pswp.goTo(at);
  }

  /** Close, as if by its button. */
  close() {
    const { pswp } = this;
    if (!pswp) return;
    if (pswp.opener.isOpen) pswp.close();
    else pswp.on("openingAnimationEnd", () => pswp.close());
  }

  listen(pswp) {
    const app = document.getElementById("app");
    pswp.on("uiRegister", () => this.addButtons(pswp));
    pswp.on("afterInit", () => {
      pswp.element.setAttribute("aria-modal", "true");
      pswp.element.focus({ preventScroll: true });
      app.inert = true;
      document.documentElement.classList.add("viewing");
      this.showPanel(this.hasPanel, false);
      this.changed();
    });
    pswp.on("openingAnimationEnd", () => {
      const { activeElement } = document; // PhotoSwipe takes the focus once more now, wherever in the dialog it is
      if (pswp.element.contains(activeElement)) queueMicrotask(() => activeElement.focus({ preventScroll: true }));
    });
    pswp.on("change", () => this.changed());
    pswp.on("contentLoad", (event) => {
      const { data } = event.content;
      if (event.content.type === "image") return;
      event.preventDefault();
      event.content.element = data.output ? content(data.output) : content(null);
    });
    pswp.on("contentAppend", () => this.quietNeighbours());
    pswp.on("contentDeactivate", ({ content: { element } }) => element?.querySelector?.("video, audio")?.pause());
    pswp.on("contentRemove", ({ content: { element } }) => element?.querySelector?.("video, audio")?.pause());
    pswp.on("pointerDown", (event) => {
      if (event.originalEvent.target.closest?.(".panel, .still")) event.preventDefault();
    });
    pswp.on("keydown", (event) => this.keyed(event));
    pswp.on("close", () => this.acts.closing(pswp.currIndex, this.output));
    pswp.on("destroy", () => {
      if (this.pswp !== pswp) return;
      const at = pswp.currIndex;
      const { output } = this;
      this.pswp = null;
      this.panel.shown = null;
      app.inert = false;
      document.documentElement.classList.remove("viewing");
      queueMicrotask(() => this.acts.closed(at, output)); // until then PhotoSwipe takes the focus back
    });
  }

  // PhotoSwipe hears no key until its opening has ended: what is pressed before is done then.
  keepEarlyKeys(pswp) {
    const pressed = [];
    const acts = { Escape: () => pswp.close(), ArrowRight: () => pswp.next(), ArrowLeft: () => pswp.prev(), z: () => pswp.toggleZoom(), i: () => this.showPanel(!this.hasPanel, true) };
    const heard = (event) => {
      if (!(event.key in acts) || event.metaKey || event.ctrlKey || event.altKey || event.shiftKey) return;
      event.preventDefault();
      pressed.push(event.key);
    };
    const end = () => document.removeEventListener("keydown", heard, true);
    document.addEventListener("keydown", heard, true);
    pswp.on("destroy", end);
    pswp.on("openingAnimationEnd", () => {
      end();
      for (const key of pressed) acts[key]();
    });
  }

  addButtons(pswp) {
    pswp.ui.registerElement({
      name: "download", order: 8, isButton: true, tagName: "a", title: "Download", html: DOWNLOAD,
      onInit: (link) => {
        this.download = link;
        link.setAttribute("aria-label", "Download");
      },
    });
    pswp.ui.registerElement({
      name: "info", order: 9, isButton: true, title: "The run (i)", html: INFO,
      onInit: (button) => {
        this.info = button;
        button.setAttribute("aria-controls", "panel");
      },
      onClick: () => this.showPanel(!this.hasPanel, true),
    });
  }

  /** Show or hide the panel. @param {boolean} shown @param {boolean} chosen by a person: remembered */
  showPanel(shown, chosen) {
    const { pswp } = this;
    this.hasPanel = shown;
    if (chosen) remember(shown ? "open" : "closed");
    if (this.panel.element.parentNode !== pswp.element) pswp.element.append(this.panel.element);
    this.panel.element.hidden = !shown;
    pswp.element.classList.toggle("with-panel", shown);
    document.documentElement.classList.toggle("dark-edge", !shown);
    this.info?.setAttribute("aria-expanded", String(shown));
    if (shown && this.output && this.panel.shown !== this.output.key) this.panel.show(this.output).catch(this.acts.failed);
    if (chosen) pswp.updateSize(true);
  }

  // What the panel leaves of the window: it stands beside the picture, or below it.
  room() {
    const { clientWidth } = document.body; // without the place of a scrollbar
    if (!this.hasPanel) return { x: clientWidth, y: innerHeight };
    return innerWidth >= WIDE ? { x: clientWidth - PANEL, y: innerHeight } : { x: clientWidth, y: innerHeight * (1 - SHEET) };
  }

  data(index) {
    const output = this.source.peek(index);
    if (!output) {
      this.await(index);
      return { type: "pending" };
    }
    if (!isPicture(output)) return { type: output.kind, output };
    const size = output.width && output.height ? output : this.measured.get(output.url);
    if (size) {
      return { type: "image", src: output.url, width: size.width, height: size.height, msrc: output.thumbnail ?? undefined, alt: spoken(output), output, thumbCropped: true };
    }
    if (size === undefined) this.measure(index, output);
    return { type: size === null ? "broken" : "pending", output: size === null ? { ...output, broken: true } : null };
  }

  await(index) {
    const { pswp } = this;
    this.source.item(index).then(() => this.again(pswp, index), this.acts.failed);
  }

  measure(index, output) {
    const { pswp } = this;
    const image = new Image();
    const known = (size) => {
      this.measured.set(output.url, size);
      this.again(pswp, index);
    };
    image.addEventListener("load", () => known(image.naturalWidth ? { width: image.naturalWidth, height: image.naturalHeight } : { width: 1000, height: 1000 }));
    image.addEventListener("error", () => known(null));
    image.src = output.url;
  }

  again(pswp, index) {
    if (this.pswp !== pswp || pswp.isDestroying || !pswp.element) return;
    pswp.refreshSlideContent(index);
    if (pswp.currIndex === index) this.changed();
  }

  changed() {
    const { pswp, output } = this;
    this.quietNeighbours();
    if (!output || !pswp.element) return;
    pswp.element.setAttribute("aria-label", spoken(output));
    this.download?.setAttribute("href", output.url);
    this.download?.setAttribute("download", output.name);
    if (this.hasPanel && this.panel.shown !== output.key) this.panel.show(output).catch(this.acts.failed);
    else if (!this.hasPanel) this.panel.shown = null;
    if (this.told !== output.key) {
      this.told = output.key;
      this.acts.moved(output);
      announce(`${count(pswp.currIndex + 1)} of ${count(this.source.total)}: ${spoken(output)}`);
    }
  }

  // What is beside the picture is neither fetched, focused nor read.
  quietNeighbours() {
    activate(this.pswp?.currSlide?.content.element);
    for (const holder of this.pswp?.mainScroll.itemHolders ?? []) {
      holder.el.inert = holder.slide !== this.pswp.currSlide;
    }
  }

  keyed(event) {
    const { key, target, metaKey, ctrlKey, altKey } = event.originalEvent;
    if (metaKey || ctrlKey || altKey) return;
    if (key === "i") this.showPanel(!this.hasPanel, true);
    const media = this.pswp.currSlide?.content.element?.querySelector?.("video, audio");
    if (key === " " && media && target === this.pswp.element) {
      event.originalEvent.preventDefault();
      if (media.paused) media.play().catch(() => {});
      else media.pause();
    }
  }
}

function remembered() {
  try {
    return localStorage.getItem(REMEMBER);
  } catch {
    return null; // a browser may refuse to store anything
  }
}

function remember(value) {
  try {
    localStorage.setItem(REMEMBER, value);
  } catch {
    // Then it is as wide as ever, the next time.
  }
}
