// The tiles: of a view of any size only those near the window are elements.

import { h, icon } from "./dom.js";
import { count, dayName, spoken, techniqueName } from "./format.js";
import { dayOf, justify, neighbour, rowAt } from "./layout.js";
import { Pictures } from "./pictures.js";

const ROWS = { small: 120, medium: 190, large: 300 };
const SETTLED = 90; // milliseconds without a scroll, after which what is seen is fetched
const RIGHT_TO_LEFT = /^\P{L}*[\u0590-\u08ff\ufb1d-\ufefc]/u; // by the first letter
const GAP = 4;
const HEADING = 44;
const BETWEEN = 18;

export class Grid {
  /**
   * @param {HTMLElement} element
   * @param {{open: (at: number, opener: HTMLElement) => void, link: (output: any) => string, failed: (error: Error) => void}} acts
   */
  constructor(element, acts) {
    this.element = element;
    this.acts = acts;
    this.size = "medium";
    /** @type {import("./view.js").View | null} */
    this.view = null;
    /** @type {import("./layout.js").Layout | null} */
    this.layout = null;
    /** @type {Map<number, HTMLElement>} */
    this.tiles = new Map();
    /** @type {Map<number, HTMLElement>} */
    this.days = new Map();
    this.pictures = new Pictures();
    /** Tiles of the view before, by output, and its days: to be used again where they stand. Their pictures are here, and one of
     *  them may be pressed or focused. @type {Map<string, HTMLElement>} */
    this.spare = new Map();
    /** @type {Map<string, HTMLElement>} */
    this.spareDays = new Map();
    this.wantsFocus = -1;
    this.frame = 0;
    this.lastScroll = { at: 0, y: 0 };
    addEventListener("scroll", () => this.scrolled(), { passive: true });
    new ResizeObserver(() => this.resized()).observe(element);
    // Whoever has gone elsewhere is not fetched back.
    document.addEventListener("focusin", (event) => element.contains(event.target) || (this.wantsFocus = -1));
    element.addEventListener("click", (event) => this.clicked(event));
    element.addEventListener("keydown", (event) => this.keyed(event));
  }

  /** Show a view: from its top, or keeping what is seen in its place. @param {import("./view.js").View} view
   * @param {{keep?: boolean, moved?: number}} [how] `moved`: by how many places the tiles moved on whose output is not found in the view */
  show(view, { keep = false, moved = 0 } = {}) {
    const anchor = keep ? this.anchor() : null;
    const focused = this.focused();
    const anchored = anchor ? this.placeIn(view, anchor.at, moved) : -1;
    const wanted = focused >= 0 ? this.placeIn(view, focused, moved) : -1;
    this.view = view;
    this.setAside();
    this.arrange();
    if (anchor) {
      anchor.at = anchored;
      this.restore(anchor);
    }
    if (focused >= 0) this.wantsFocus = wanted;
    this.render();
    this.discardSpare();
  }

  // Where the output of a tile of today is in another view: new ones may have come before it, or after it.
  placeIn(view, at, moved) {
    const place = view.placeOf(this.tiles.get(at)?.dataset.key);
    return place >= 0 ? place : Math.min(at + moved, view.total - 1);
  }

  /** @param {string} size small, medium or large */
  resize(size) {
    if (size === this.size) return;
    this.size = size;
    this.again();
  }

  /** Scroll a tile into the window, and focus it. @param {number} at */
  focus(at) {
    if (!this.layout || at < 0 || at >= this.view.total) return;
    this.wantsFocus = at;
    this.reveal(at);
  }

  /** Scroll a tile into the window, where it is not. @param {number} at */
  reveal(at) {
    if (!this.layout || at < 0 || at >= this.view.total) return;
    const row = this.layout.rows[this.layout.rowOf[at]];
    const top = this.top() + row.top;
    const edge = this.edge();
    if (top < edge + HEADING || top + row.height > innerHeight) {
      scrollTo({ top: scrollY + top - edge - HEADING - Math.max(0, (innerHeight - edge - HEADING - row.height) / 3), behavior: "instant" });
    }
    this.render();
  }

  /** The element of a tile, where there is one now. @param {number} at */
  tile(at) {
    return this.tiles.get(at);
  }

  // How far down the window the bar reaches that covers the grid.
  edge() {
    return document.querySelector(".bar")?.getBoundingClientRect().bottom ?? 0;
  }

  top() {
    return this.element.getBoundingClientRect().top;
  }

  arrange() {
    const width = this.element.clientWidth;
    const row = ROWS[this.size] * (width < 600 ? 0.68 : width > 2400 ? 1.3 : 1);
    this.arranged = width;
    this.layout = justify(this.view.days, { width, row, gap: GAP, heading: HEADING, between: BETWEEN });
    this.element.style.height = `${Math.ceil(this.layout.height)}px`;
  }

  resized() {
    if (this.view && this.element.clientWidth !== this.arranged) this.again();
  }

  again() {
    if (!this.view) return;
    const anchor = this.anchor();
    const focused = this.focused();
    this.setAside();
    this.arrange();
    this.restore(anchor);
    this.wantsFocus = focused;
    this.render();
    this.discardSpare();
  }

  // The tile that keeps its place, and how far below the bar it is: the focused one, else the first that is seen; null at the top of the page.
  anchor() {
    if (!this.layout?.rows.length || scrollY < 8) return null;
    const y = this.edge() - this.top();
    const focused = this.focused();
    const row = this.layout.rows[focused < 0 ? -1 : this.layout.rowOf[focused]];
    if (row && row.top + row.height > y && row.top < y + innerHeight) return { at: focused, below: row.top - y };
    const first = this.layout.rows[Math.min(rowAt(this.layout, y), this.layout.rows.length - 1)];
    return { at: first.first, below: first.top - y };
  }

  restore(anchor) {
    if (!anchor || !this.layout.rows.length) return;
    const row = this.layout.rows[this.layout.rowOf[Math.max(0, anchor.at)]];
    scrollTo({ top: scrollY + this.top() + row.top - this.edge() - anchor.below, behavior: "instant" });
  }

  focused() {
    const active = document.activeElement;
    return active instanceof HTMLElement && this.element.contains(active) && active.dataset.at ? Number(active.dataset.at) : -1;
  }

  setAside() {
    for (const tile of this.tiles.values()) {
      if (tile.dataset.key) this.spare.set(tile.dataset.key, tile);
      else tile.remove();
    }
    for (const day of this.days.values()) this.spareDays.set(day.dataset.name, day);
    this.tiles.clear();
    this.days.clear();
  }

  // What is not used again goes before the rest is placed: who stands right is not moved, which would take its press and its focus.
  discardUnused(first, last) {
    const outputs = new Set();
    const days = new Set();
    for (let at = first; at < last; at += 1) {
      outputs.add(this.view.peek(at)?.key);
      days.add(nameOf(this.layout.days[dayOf(this.layout, this.layout.rowOf[at])]));
    }
    for (const [key, tile] of this.spare) {
      if (outputs.has(key)) continue;
      this.pictures.discard(tile);
      this.spare.delete(key);
    }
    for (const [name, day] of this.spareDays) {
      if (days.has(name)) continue;
      day.remove();
      this.spareDays.delete(name);
    }
  }

  discardSpare() {
    for (const tile of this.spare.values()) this.pictures.discard(tile);
    for (const day of this.spareDays.values()) day.remove();
    this.spare.clear();
    this.spareDays.clear();
  }

  /** The places of the first and after the last tile that are elements now. */
  range() {
    const places = [...this.tiles.keys()];
    return places.length ? { first: Math.min(...places), last: Math.max(...places) + 1 } : { first: 0, last: 0 };
  }

  scrolled() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.render();
    });
  }

  /** Make what is near the window elements, and what is far from it none. */
  render() {
    if (!this.layout || !this.view.total) return;
    const now = performance.now();
    // Flung past: nobody sees these tiles long enough for their pictures to be worth fetching.
    const flung = now - this.lastScroll.at < SETTLED && Math.abs(scrollY - this.lastScroll.y) > innerHeight;
    this.lastScroll = { at: now, y: scrollY };
    const top = -this.top();
    const spare = Math.max(400, innerHeight * 0.6);
    const { rows } = this.layout;
    const firstRow = rowAt(this.layout, top - spare);
    let lastRow = firstRow;
    while (lastRow < rows.length && rows[lastRow].top < top + innerHeight + spare) lastRow += 1;
    const first = rows[firstRow]?.first ?? this.view.total;
    const last = lastRow > firstRow ? rows[lastRow - 1].last : first;
    this.prune(first, last);
    if (last > first) this.fill(first, last);
    if (!flung) this.fetchPictures(first, last);
    if (!this.view.has(first, last)) this.fetch(first, last, flung);
    if (flung) this.settleSoon();
    this.refocus();
  }

  prune(first, last) {
    const focused = this.focused();
    for (const [at, tile] of this.tiles) {
      if ((at < first || at >= last) && at !== focused) {
        this.pictures.discard(tile);
        this.tiles.delete(at);
      }
    }
    for (const [number, day] of this.days) {
      if (!day.querySelector(".tile")) {
        day.remove();
        this.days.delete(number);
      }
    }
  }

  fill(first, last) {
    if (this.spareDays.size) this.discardUnused(first, last);
    let next = null;
    let day = null;
    for (let at = last - 1; at >= first; at -= 1) {
      const number = dayOf(this.layout, this.layout.rowOf[at]);
      const section = this.days.get(number) ?? this.addDay(number);
      if (section !== day) {
        day = section;
        next = [...section.querySelectorAll(".tile")].find((tile) => Number(tile.dataset.at) > at && this.tiles.get(Number(tile.dataset.at)) === tile) ?? null;
      }
      let tile = this.tiles.get(at);
      const output = this.view.peek(at);
      if (!tile || (output && tile.classList.contains("empty"))) {
        const made = this.makeTile(at, output, this.layout.days[number]);
        if (tile) tile.replaceWith(made);
        else if (made.parentNode !== section || made.nextSibling !== next) section.insertBefore(made, next);
        this.tiles.set(at, made);
        tile = made;
      }
      next = tile;
    }
  }

  // In the order of reading, and what is seen before what is near.
  fetchPictures(first, last) {
    const seen = [];
    const near = [];
    for (let at = first; at < last; at += 1) {
      const tile = this.tiles.get(at);
      if (!tile?.dataset.picture) continue;
      const { top, bottom } = tile.getBoundingClientRect();
      (bottom > 0 && top < innerHeight ? seen : near).push(tile);
    }
    this.pictures.want([...seen, ...near]);
  }

  addDay(number) {
    const { day, count: outputs, top, height } = this.layout.days[number];
    const name = nameOf(this.layout.days[number]);
    const section = this.spareDays.get(name)
      ?? h("section", { class: "day", data: { name } }, h("h2", { class: "day-name" }, h("span"), h("span", { class: "count" })));
    this.spareDays.delete(name);
    const heading = section.firstChild;
    heading.id = `day-${number}`;
    heading.firstChild.textContent = dayName(day, this.view.today);
    heading.lastChild.textContent = count(outputs);
    section.setAttribute("aria-labelledby", heading.id);
    section.dataset.day = String(number);
    section.style.top = `${top}px`;
    section.style.height = `${height}px`;
    const after = [...this.element.children].find((each) => Number(each.dataset.day) > number && this.days.get(Number(each.dataset.day)) === each) ?? null;
    if (section.parentNode !== this.element || section.nextSibling !== after) this.element.insertBefore(section, after);
    this.days.set(number, section);
    return section;
  }

  makeTile(at, output, day) {
    const row = this.layout.rows[this.layout.rowOf[at]];
    const tile = output ? this.link(output) : h("div", { class: "tile empty", "aria-hidden": "true" });
    tile.dataset.at = String(at);
    tile.style.transform = `translate(${this.layout.x[at]}px, ${row.top - day.top}px)`;
    tile.style.width = `${this.layout.width[at]}px`;
    tile.style.height = `${row.height}px`;
    return tile;
  }

  link(output) {
    const href = this.acts.link(output);
    const shown = [output.thumbnail, output.kind, techniqueName(output), output.label, output.text].join("\n");
    const known = this.spare.get(output.key);
    this.spare.delete(output.key);
    if (known?.shown === shown) {
      known.href = href;
      return known;
    }
    if (known) this.pictures.discard(known);
    return Object.assign(linkTo(output, href), { shown });
  }

  // At once where nothing was fetched lately, so that a jump shows its tiles soon; else when the scrolling ends.
  fetch(first, last, flung) {
    if (flung) return;
    const { view } = this;
    view.load(first, last).then(
      () => view === this.view && this.scrolled(),
      (error) => view === this.view && this.acts.failed(error),
    );
  }

  settleSoon() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.render(), SETTLED + 10);
  }

  refocus() {
    if (this.wantsFocus < 0) return;
    const tile = this.tiles.get(this.wantsFocus);
    if (!tile || tile.classList.contains("empty")) return;
    this.wantsFocus = -1;
    tile.focus({ preventScroll: true });
  }

  clicked(event) {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const tile = event.target.closest("a.tile");
    if (!tile) return;
    event.preventDefault();
    this.acts.open(Number(tile.dataset.at), tile);
  }

  keyed(event) {
    if (event.metaKey || event.ctrlKey || event.altKey || event.shiftKey) return;
    const at = this.focused();
    if (at < 0) return;
    const to = this.step(event.key, at);
    if (to === null) return;
    event.preventDefault();
    this.focus(Math.max(0, Math.min(this.view.total - 1, to)));
  }

  step(key, at) {
    switch (key) {
      case "ArrowRight": return at + 1;
      case "ArrowLeft": return at - 1;
      case "ArrowDown": return neighbour(this.layout, at, 1);
      case "ArrowUp": return neighbour(this.layout, at, -1);
      case "Home": return 0;
      case "End": return this.view.total - 1;
      default: return null;
    }
  }
}

const nameOf = ({ day }) => day ?? "";

function linkTo(output, href) {
  const tile = h("a", { class: `tile ${output.kind}`, href, "aria-label": spoken(output), data: { key: output.key } });
  if (output.thumbnail) tile.dataset.picture = output.thumbnail;
  if (output.thumbnail && output.kind !== "image") tile.append(h("span", { class: "badge" }, icon(output.kind)));
  if (!output.thumbnail && !output.text) tile.append(h("span", { class: "plain" }, icon(output.kind), ...about(output)));
  else {
    if (output.text) tile.append(written("excerpt", output.text));
    tile.append(h("span", { class: "caption" }, ...about(output)));
  }
  return tile;
}

// What a person sees of an output but its picture. The style sheet writes it: what is read aloud is the link's name, which says the same.
function about(output) {
  return [written("of", techniqueName(output)), output.label ? written("label", output.label) : null].filter(Boolean);
}

function written(name, text) {
  return h("span", { class: `written ${name}`, dir: RIGHT_TO_LEFT.test(text) ? "rtl" : "ltr", data: { text } });
}
