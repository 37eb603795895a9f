// What the view is narrowed to: the URL holds it, chips change it.

import { h, icon, setChildren } from "./dom.js";
import { count } from "./format.js";

const LISTS = ["kind", "technique", "project", "label"];
const KINDS = ["image", "video", "audio", "document", "text", "other"];
const SINCE = [["", "Any time"], ["1d", "Last day"], ["7d", "Last 7 days"], ["30d", "Last 30 days"], ["365d", "Last year"]];
const SEARCHED = 12; // from so many values on a list has a field to find one

/** The view that a URL names. @param {string} search its query */
export function fromUrl(search) {
  const given = new URLSearchParams(search);
  const filters = { q: given.get("q") ?? "", since: given.get("since") ?? "" };
  for (const name of LISTS) filters[name] = given.getAll(name).filter(Boolean);
  return { filters, run: given.get("run"), output: given.get("output") };
}

/** The URL of a view, with or without an open output. @param {Record<string, any>} filters
 * @param {{run_id: string, output_id: string} | null} [open] */
export function toUrl(filters, open = null) {
  const search = new URLSearchParams();
  if (filters.q) search.set("q", filters.q);
  for (const name of LISTS) for (const value of filters[name]) search.append(name, value);
  if (filters.since) search.set("since", filters.since);
  if (open) {
    search.set("run", open.run_id);
    if (open.output_id) search.set("output", open.output_id);
  }
  return search.size ? `/?${search}` : "/";
}

/** Are all outputs shown? @param {Record<string, any>} filters */
export const isAll = (filters) => !filters.q && !filters.since && LISTS.every((name) => !filters[name].length);

export class Filters {
  /** @param {HTMLElement} element @param {(filters: Record<string, any>) => void} changed */
  constructor(element, changed) {
    this.element = element;
    this.changed = changed;
    /** @type {Record<string, any>} */
    this.filters = fromUrl("").filters;
    this.facets = {};
    this.kinds = h("div", { class: "kinds", role: "group", "aria-label": "Kind" });
    this.lists = new Map([["technique", "Technique"], ["project", "Project"], ["label", "Label"]]
      .map(([name, title]) => [name, new ListFilter(name, title, (values) => this.set(name, values))]));
    this.since = h("select", { class: "chip since", "aria-label": "Completed", on: { change: () => this.set("since", this.since.value) } });
    this.when = h("span", { class: "when" }, this.since, icon("chevron"));
    this.chosen = h("div", { class: "chosen", role: "group", "aria-label": "Chosen filters" });
    element.append(this.kinds, ...[...this.lists.values()].map((list) => list.element), this.when, this.chosen);
  }

  set(name, value) {
    this.changed({ ...this.filters, [name]: value });
  }

  /** Show what is chosen, and what there is to choose. @param {Record<string, any>} filters @param {Record<string, {value: string, count: number}[]>} [facets] */
  show(filters, facets = this.facets) {
    this.filters = filters;
    this.facets = facets;
    this.showKinds();
    for (const [name, list] of this.lists) list.show(filters[name], facets[name] ?? []);
    this.showSince();
    this.when.hidden = !filters.since && !(facets.kind ?? []).length;
    this.showChosen();
  }

  showKinds() {
    const found = new Map((this.facets.kind ?? []).map(({ value, count: outputs }) => [value, outputs]));
    for (const kind of this.filters.kind) if (!found.has(kind)) found.set(kind, 0);
    const order = [...found.keys()].sort((one, other) => (KINDS.indexOf(one) + 1 || 99) - (KINDS.indexOf(other) + 1 || 99));
    const known = new Map([...this.kinds.children].map((chip) => [chip.dataset.kind, chip]));
    setChildren(this.kinds, order.map((kind) => {
      const chip = known.get(kind) ?? h("button", { type: "button", class: "chip", data: { kind }, on: { click: () => this.set("kind", toggled(this.filters.kind, kind)) } },
        KINDS.includes(kind) ? icon(kind) : icon("other"), h("span", { text: kind }), h("span", { class: "count" }));
      chip.setAttribute("aria-pressed", String(this.filters.kind.includes(kind)));
      chip.querySelector(".count").textContent = count(found.get(kind));
      return chip;
    }));
  }

  showSince() {
    const { since } = this.filters;
    const choices = SINCE.some(([value]) => value === since) ? SINCE : [...SINCE, [since, `Since ${since}`]];
    if (this.since.children.length !== choices.length || this.since.lastChild?.value !== choices.at(-1)[0]) {
      this.since.replaceChildren(...choices.map(([value, text]) => h("option", { value, text })));
    }
    this.since.value = since;
    this.since.classList.toggle("active", Boolean(since));
  }

  showChosen() {
    const known = new Map([...this.chosen.children].map((chip) => [chip.dataset.chip, chip]));
    const chips = [...this.lists.keys()].flatMap((name) => this.filters[name].map((value) => known.get(`${name} ${value}`) ?? h("button", {
      type: "button", class: "chip active", "aria-label": `Remove ${name} ${value}`, title: value, data: { chip: `${name} ${value}` },
      on: { click: () => this.remove(name, value) },
    }, h("span", { class: "value", dir: "auto", text: value }), icon("close"))));
    if (!isAll(this.filters)) {
      chips.push(known.get("all") ?? h("button", { type: "button", class: "clear", text: "Clear all", data: { chip: "all" }, on: { click: () => this.clear() } }));
    }
    setChildren(this.chosen, chips);
    this.chosen.hidden = !chips.length;
  }

  remove(name, value) {
    this.set(name, toggled(this.filters[name], value));
    this.lists.get(name).button.focus();
  }

  clear() {
    this.changed(fromUrl("").filters);
    document.querySelector("#search").focus();
  }
}

const toggled = (list, value) => (list.includes(value) ? list.filter((each) => each !== value) : [...list, value]);

// A chip that opens a list of values with their counts, of which any number are ticked.
class ListFilter {
  constructor(name, title, changed) {
    this.name = name;
    this.title = title;
    this.changed = changed;
    this.chosen = [];
    this.shown = "";
    this.button = h("button", { type: "button", class: "chip", popovertarget: `${name}-list`, "aria-expanded": "false", "aria-controls": `${name}-list` },
      h("span", { text: title }), h("span", { class: "count" }), icon("chevron"));
    this.find = h("input", { type: "text", class: "find", "aria-label": `Find a ${name}`, placeholder: `Find a ${name}`, autocomplete: "off", dir: "auto",
      on: { input: () => this.narrow() } });
    this.options = h("div", { class: "options" });
    this.list = h("div", { class: "list", id: `${name}-list`, popover: "auto", role: "group", "aria-label": title }, this.find, this.options);
    this.list.addEventListener("toggle", (event) => this.toggled(event.newState === "open"));
    this.element = h("div", { class: "list-filter" }, this.button, this.list);
  }

  show(chosen, values) {
    this.chosen = chosen;
    this.button.classList.toggle("active", chosen.length > 0);
    this.button.querySelector(".count").textContent = chosen.length ? count(chosen.length) : "";
    const all = [...values, ...chosen.filter((each) => !values.some(({ value }) => value === each)).map((value) => ({ value, count: 0 }))];
    this.element.hidden = !all.length;
    this.find.hidden = all.length < SEARCHED;
    const digest = JSON.stringify(all);
    if (digest !== this.shown) {
      this.shown = digest;
      const known = new Map([...this.options.children].map((option) => [option.dataset.value, option]));
      setChildren(this.options, all.map(({ value, count: outputs }) => {
        const option = known.get(value) ?? h("label", { class: "option", title: value, data: { value } },
          h("input", { type: "checkbox", on: { change: () => this.changed(toggled(this.chosen, value)) } }),
          h("span", { class: "value", dir: "auto", text: value }), h("span", { class: "count" }));
        option.querySelector(".count").textContent = count(outputs);
        return option;
      }));
      this.narrow();
    }
    for (const option of this.options.children) option.firstChild.checked = chosen.includes(option.dataset.value);
  }

  narrow() {
    const words = this.find.value.trim().toLowerCase();
    for (const option of this.options.children) option.hidden = !option.dataset.value.toLowerCase().includes(words);
  }

  toggled(open) {
    this.button.setAttribute("aria-expanded", String(open));
    if (!open) return;
    const chip = this.button.getBoundingClientRect();
    const width = this.list.offsetWidth;
    this.list.style.top = `${chip.bottom + 6}px`;
    this.list.style.left = `${Math.max(8, Math.min(chip.left, innerWidth - width - 8))}px`;
    this.list.style.maxHeight = `${Math.max(180, innerHeight - chip.bottom - 24)}px`;
    (this.find.hidden ? this.options.querySelector("input") : this.find)?.focus();
  }
}
