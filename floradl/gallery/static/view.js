// One view of the library: how many outputs a filter finds, their shapes by day, and their data, a page at a time.

import { get, query } from "./api.js";

const PAGE = 100;
const KEPT = 60; // pages: 6,000 outputs, some megabytes

/** The filters that a URL can hold. */
export const LISTS = ["kind", "technique", "project", "label"];

export class View {
  /** @param {Record<string, any>} filters @param {{total: number, days: any[], facets: Record<string, any>}} answer of /api/view */
  constructor(filters, answer) {
    this.filters = filters;
    this.total = answer.total;
    this.days = answer.days;
    this.today = answer.today;
    this.facets = answer.facets ?? {};
    /** How many outputs the server has before the first of this view: they came later. */
    this.shift = 0;
    /** @type {Map<number, any[]>} */
    this.pages = new Map();
    /** @type {Map<number, Promise<any[]>>} */
    this.asked = new Map();
    this.generation = 0;
  }

  /** Ask for a view, and for its first outputs at the same time. Throws `ApiError`. @param {Record<string, any>} filters @param {AbortSignal} signal */
  static async open(filters, signal) {
    const [answer, first] = await Promise.all([
      get("/api/view", query(filters), signal),
      get("/api/outputs", query(filters, { limit: PAGE }), signal),
    ]);
    const view = new View(filters, answer);
    if (first.total === answer.total) view.pages.set(0, first.outputs);
    return view;
  }

  /** The output at a place of the view; undefined where its page is not here. @param {number} at */
  peek(at) {
    const number = Math.floor(at / PAGE);
    const page = this.pages.get(number);
    if (page) {
      this.pages.delete(number); // the last used come last
      this.pages.set(number, page);
    }
    return page?.[at % PAGE];
  }

  /** The output at a place of the view. Throws `ApiError`. @param {number} at */
  async item(at) {
    const page = await this.page(Math.floor(at / PAGE));
    return page[at % PAGE];
  }

  /** The place of an output whose page is here, by its key; -1 where it is not. @param {string | undefined} key */
  placeOf(key) {
    for (const [number, page] of this.pages) {
      const at = key === undefined ? -1 : page.findIndex((output) => output.key === key);
      if (at >= 0) return number * PAGE + at;
    }
    return -1;
  }

  /** Fetch what is missing between two places. @param {number} first @param {number} last */
  async load(first, last) {
    const wanted = [];
    for (let page = Math.floor(first / PAGE); page * PAGE < Math.min(last, this.total); page += 1) wanted.push(this.page(page));
    await Promise.all(wanted);
  }

  /** Are all outputs between two places here? @param {number} first @param {number} last */
  has(first, last) {
    for (let page = Math.floor(first / PAGE); page * PAGE < Math.min(last, this.total); page += 1) {
      if (!this.pages.has(page)) return false;
    }
    return true;
  }

  /** @param {number} number */
  page(number) {
    const here = this.pages.get(number);
    if (here) return Promise.resolve(here);
    let asked = this.asked.get(number);
    if (!asked) {
      const start = number * PAGE + this.shift;
      const { generation } = this;
      asked = get("/api/outputs", query(this.filters, { cursor: `@${start}`, limit: PAGE }))
        .then(({ outputs }) => {
          if (generation !== this.generation) return this.page(number); // outputs moved on meanwhile
          this.pages.set(number, outputs);
          for (const old of this.pages.keys()) {
            if (this.pages.size <= KEPT) break;
            this.pages.delete(old);
          }
          return outputs;
        })
        .finally(() => generation === this.generation && this.asked.delete(number));
      this.asked.set(number, asked);
    }
    return asked;
  }

  /** Does this view show an output? Null: only the server knows. @param {Record<string, any>} output */
  shows(output) {
    if (LISTS.some((name) => this.filters[name]?.length && !this.filters[name].includes(output[name] ?? ""))) return false;
    return this.filters.q || this.filters.since ? null : true;
  }

  /** The place of an output that is shown here; -1 where it is not found. Throws `ApiError`. @param {Record<string, any>} output */
  async find(output) {
    for (const [number, page] of this.pages) {
      const at = page.findIndex((each) => isSame(each, output));
      if (at >= 0) return number * PAGE + at;
    }
    if (!output.completed_at) return -1;
    let low = 0;
    let high = this.total;
    while (low < high) { // newest first: the first that is not newer
      const middle = (low + high) >> 1;
      const there = await this.item(middle);
      if (!there || (there.completed_at ?? "") <= output.completed_at) high = middle;
      else low = middle + 1;
    }
    for (let at = low; at < Math.min(this.total, low + 5 * PAGE); at += 1) {
      const there = await this.item(at);
      if (!there || there.completed_at !== output.completed_at) return -1;
      if (isSame(there, output)) return at;
    }
    return -1;
  }

  /** Put newer outputs before all others. False where they are not surely the newest: then ask again. @param {any[]} outputs newest first */
  prepend(outputs) {
    const newest = this.peek(0);
    if (this.total && !newest) return false;
    const fresh = outputs.filter((output) => !this.pages.get(0)?.some((each) => each.key === output.key));
    if (fresh.some((output) => this.shows(output) === null)) return false;
    const shown = fresh.filter((output) => this.shows(output));
    if (!shown.length) return true;
    const least = shown.at(-1);
    if (!least.completed_at || (newest && least.completed_at <= (newest.completed_at ?? ""))) return false;
    for (const output of [...shown].reverse()) {
      const { day } = output; // the server's, wherever this browser is
      if (this.days[0]?.day !== day) this.days.unshift({ day, count: 0, ratios: [], fresh: 0 });
      this.days[0].count += 1;
      this.days[0].fresh = (this.days[0].fresh ?? 0) + 1;
      this.days[0].ratios.unshift(ratio(output));
    }
    this.total += shown.length;
    this.place(shown);
    return true;
  }

  // Outputs moved on: pages are cut anew from what is here without a gap from the start; the rest is asked for again.
  place(shown) {
    const here = [...shown];
    for (let number = 0; this.pages.has(number); number += 1) here.push(...this.pages.get(number));
    this.pages.clear();
    this.asked.clear();
    this.generation += 1;
    for (let number = 0; (number + 1) * PAGE <= here.length || (here.length === this.total && number * PAGE < here.length); number += 1) {
      this.pages.set(number, here.slice(number * PAGE, (number + 1) * PAGE));
    }
  }
}

const isSame = (one, other) => one.run_id === other.run_id && one.output_id === other.output_id;

const ratio = (output) => (output.width && output.height ? Math.round((100 * output.width) / output.height) : 100);

