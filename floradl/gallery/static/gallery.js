// The page: joins the URL, the view, the tiles, the dialog and what the server tells.

import { ApiError, get, listen, post, query } from "./api.js";
import { announce, copyButton, h } from "./dom.js";
import { Filters, fromUrl, isAll, toUrl } from "./filters.js";
import { counted } from "./format.js";
import { Grid } from "./grid.js";
import { Status, alive } from "./status.js";
import { View } from "./view.js";

const TYPING = 80; // milliseconds without a key, after which a search starts
const SIZE = "floradl.size";
const MANY = 50; // outputs in one event
const COMPARED = 4000; // milliseconds after outputs came, their number is compared with the server's

const search = document.getElementById("search");
const main = document.getElementById("main");
const summary = document.getElementById("summary");
const empty = document.getElementById("empty");

let filters = fromUrl(location.search).filters;
/** @type {View | null} */
let view = null;
let daemon = null;
let actions = [];
let opening = new AbortController();
let viewer = null;
let stale = 0; // a timer: the view is asked for again
let cost = 50; // milliseconds that the last view took
let missed = false; // outputs came while the dialog was open
let wasLost = false; // the last view did not come
let behind = false; // the server was reading the library, when it was last heard
let news = 0; // how often the server told of outputs

const grid = new Grid(document.getElementById("grid"), {
  open: (at) => openAt(view, at, { push: true }),
  link: (output) => toUrl(filters, output),
  failed,
});
const chips = new Filters(document.getElementById("filters"), (changed) => go(changed));
const status = new Status(document.getElementById("status"), {
  resized: () => grid.scrolled(),
  retry: (run) => post(`/api/runs/${encodeURIComponent(run)}/retry`),
});

// ---- the view

/** Go to another view: its URL is a new step in the browser's history. */
function go(changed, { replace = false } = {}) {
  filters = changed;
  if (search.value.trim() !== filters.q) search.value = filters.q;
  const url = toUrl(filters);
  if (url !== location.pathname + location.search) history[replace ? "replaceState" : "pushState"]({}, "", url);
  chips.show(filters);
  return load();
}

async function load({ keep = false } = {}) {
  opening.abort();
  opening = new AbortController();
  const { signal } = opening;
  clearTimeout(stale);
  stale = 0;
  main.setAttribute("aria-busy", "true");
  const start = performance.now();
  const heard = news;
  try {
    const [next, told] = await Promise.all([View.open(filters, signal), view ? null : firstStatus()]);
    if (signal.aborted) return;
    cost = performance.now() - start;
    const moved = view && keep ? next.total - view.total : 0;
    if (keep) { // what is seen is there before it is replaced
      const { first, last } = grid.range();
      await Promise.all([next.load(first, last), next.load(Math.max(0, first + moved), last + moved)]);
      if (signal.aborted) return;
    }
    if (told) heardStatus(told);
    if (keep && viewer?.isOpen) missed = true; // a dialog was opened meanwhile: what lies below it stays in its place
    else show(next, { keep, moved });
    if (!keep || wasLost) status.tell(null);
    wasLost = false;
    if (news !== heard) again(); // it may not have what came meanwhile
  } catch (error) {
    if (error.name === "AbortError") return;
    wasLost = true;
    failed(error);
  }
  main.setAttribute("aria-busy", "false");
}

// What stands above the tiles comes before them, so that they do not move; but not much is waited for it.
function firstStatus() {
  const late = new Promise((done) => setTimeout(done, 500, null));
  return Promise.race([get("/api/status").catch(() => null), late]);
}

function show(next, how) {
  const searched = view && !how.keep;
  view = next;
  chips.show(filters, view.facets);
  if (!how.keep && scrollY > main.offsetTop) scrollTo({ top: 0, behavior: "instant" });
  grid.show(view, how);
  tell();
  if (searched) announce(summary.textContent || "No output matches");
}

function tell() {
  document.title = filters.q ? `${filters.q} · floradl gallery` : "floradl gallery";
  const text = view.total ? counted(view.total, "output") : "";
  if (summary.textContent !== text) summary.textContent = text;
  empty.hidden = view.total > 0;
  if (!view.total) empty.replaceChildren(...(isAll(filters) ? nothingYet() : nothingFound()));
}

function nothingFound() {
  return [h("h2", { text: "No output matches" }), h("p", { text: "Nothing in the library has all of these words and filters." }),
    h("button", { type: "button", class: "button", text: "Clear search and filters", on: { click: () => chips.clear() } })];
}

function nothingYet() {
  const step = (text, command) => h("li", {}, h("p", { text }), h("div", { class: "command" }, h("code", { text: command }), copyButton(command, "the command")));
  return [h("h2", { text: "The library is empty" }), h("p", { text: "Outputs appear here as soon as they are downloaded; this page need not be reloaded." }),
    h("ol", {},
      ...(daemon ? [] : [step("Start the daemon, which downloads finished runs:", "floradl run")]),
      step("Queue a run by its reference:", "floradl add TECHNIQUE/RUN_ID"),
      step("Or queue all that your account's history lists:", "floradl sync"))];
}

function failed(error) {
  if (!(error instanceof ApiError)) console.error(error);
  status.tell(error instanceof ApiError ? error.message : `Something went wrong in this page: ${error.message}`);
}

// ---- what the server tells

// New outputs go before all others where that is their place; else the view is asked for again, soon but not always.
function arrived(outputs) {
  news += 1;
  if (!view) return;
  if (viewer?.isOpen) {
    missed = true; // they are shown when it is closed: what lies below it stays in its place
    view.shift += outputs.filter((output) => view.shows(output)).length;
    return;
  }
  const before = view.total;
  // In the view's order: of what was completed at the same time the last comes first.
  const sorted = [...outputs].reverse().sort((one, other) => ((one.completed_at ?? "") < (other.completed_at ?? "") ? 1 : (one.completed_at ?? "") > (other.completed_at ?? "") ? -1 : 0));
  compareSoon();
  // With none something else changed; of many the server may not have told all.
  if (!outputs.length || outputs.length > MANY || !view.prepend(sorted)) {
    again();
    return;
  }
  for (const output of sorted) count(output);
  chips.show(filters);
  if (view.total !== before) {
    grid.show(view, { keep: true, moved: view.total - before });
    tell();
  }
}

function again(least = 300) {
  if (viewer?.isOpen) missed = true;
  else stale ||= setTimeout(() => load({ keep: true }), Math.max(least, Math.min(10_000, cost * 6)));
}

// What the page put together from events is the server's view, or is asked for again.
let comparing = 0;
function compareSoon() {
  comparing ||= setTimeout(async () => {
    comparing = 0;
    const shown = view;
    try {
      const { total } = await get("/api/outputs", query(shown.filters, { limit: 1 }));
      if (shown === view && total !== shown.total && !viewer?.isOpen) again();
    } catch {
      // Its loss is told elsewhere.
    }
  }, COMPARED);
}

function count(output) {
  for (const [name, values] of Object.entries(view.facets)) {
    const value = output[name];
    if (!value) continue;
    const facet = values.find((each) => each.value === value);
    if (facet) facet.count += 1;
    else values.push({ value, count: 1 });
  }
}

function heardStatus(told) {
  status.show(told);
  const offered = told.actions ?? [];
  const isNew = String(offered) !== String(actions);
  actions = offered;
  if (isNew) viewer?.panel.offer();
  if (view && told.today && told.today !== view.today) {
    view.today = told.today; // midnight, where the server is
    grid.show(view, { keep: true, moved: 0 });
  }
  // While the server reads the library for the first time it tells of no output by itself.
  if (told.indexing || behind) again(told.indexing ? 1500 : 0);
  behind = Boolean(told.indexing);
  if (daemon !== alive(told)) {
    daemon = alive(told);
    if (view && !view.total) tell();
  }
}

listen({
  status: (told) => {
    status.interrupted(null);
    heardStatus(told);
  },
  outputs: arrived,
  back: () => {
    status.interrupted(null);
    if (viewer?.isOpen) missed = true;
    else load({ keep: true });
  },
  lost: () => status.interrupted("The gallery's server does not answer. This page goes on by itself once it does."),
});

// ---- the dialog

async function openAt(source, at, { push = false } = {}) {
  try {
    const output = source.peek(at) ?? await source.item(at);
    viewer ??= newViewer(await import("./viewer.js"));
    const isThere = !output || source.peek(at) === output;
    const place = isThere ? at : await source.find(output); // others came before it meanwhile
    if (!output || (push && viewer.isOpen)) return; // pressed twice
    if (push) history.pushState({ pushed: true }, "", toUrl(filters, output));
    viewer.open(source, Math.max(0, place));
  } catch (error) {
    failed(error);
  }
}

function newViewer({ Viewer }) {
  return new Viewer({
    thumbnail: (at) => (viewer.source === view ? grid.tile(at)?.querySelector("img") ?? undefined : undefined),
    moved: (output) => history.replaceState(history.state, "", toUrl(filters, output)),
    closing: (at) => viewer.source === view && grid.reveal(at),
    closed: (at, output) => {
      if (fromUrl(location.search).run) {
        if (history.state?.pushed) history.back();
        else history.replaceState({}, "", toUrl(filters));
      }
      if (viewer.source === view) grid.focus(at);
      else focusOn(output);
      if (missed) load({ keep: true });
      missed = false;
    },
    failed,
    actions: () => actions,
    link: (by) => toUrl(only(by)),
    narrow: (by) => {
      viewer.close();
      go(only(by));
    },
    open: (output) => openRun(output.run_id, output.output_id),
  });
}

// The tile of an output of another view than this one; where this one does not show it, the search.
async function focusOn(output) {
  const place = output ? await view.find(output).catch(() => -1) : -1;
  if (viewer.isOpen) return;
  if (place >= 0) grid.focus(place);
  else search.focus();
}

/** The view of all outputs with these values. @param {Record<string, string>} by */
function only(by) {
  return { ...fromUrl("").filters, ...Object.fromEntries(Object.entries(by).map(([name, value]) => [name, [value]])) };
}

/** Open an output of a run: in its place of the view, or, where the view does not show it, among those of its run. */
async function openRun(run, output) {
  try {
    const { siblingsOf } = await import("./panel.js");
    const answer = await get(`/api/runs/${encodeURIComponent(run)}`);
    const outputs = siblingsOf(answer.run, answer);
    const at = Math.max(0, outputs.findIndex((each) => each.output_id === output));
    if (!outputs.length) {
      status.tell(`${run} has no file to show.`);
      history.replaceState({}, "", toUrl(filters));
      return;
    }
    const place = view ? await view.find(outputs[at]) : -1;
    if (place >= 0 && viewer?.isOpen && viewer.source === view) viewer.goTo(place);
    else if (place >= 0) await openAt(view, place);
    else await openAt({ total: outputs.length, peek: (index) => outputs[index], item: async (index) => outputs[index] }, at);
  } catch (error) {
    failed(error);
    history.replaceState({}, "", toUrl(filters));
  }
}

addEventListener("popstate", () => {
  const wanted = fromUrl(location.search);
  const same = toUrl(wanted.filters) === toUrl(filters);
  filters = wanted.filters;
  search.value = filters.q;
  chips.show(filters);
  if (!wanted.run && viewer?.isOpen) viewer.close();
  const loaded = same ? Promise.resolve() : load();
  if (wanted.run && !viewer?.isOpen) loaded.then(() => openRun(wanted.run, wanted.output));
});

// ---- search, keys, sizes

let typing = 0;
search.value = filters.q;
search.addEventListener("input", () => {
  clearTimeout(typing);
  const first = !filters.q; // one step of the browser's history for a search, not one for each letter
  typing = setTimeout(() => go({ ...filters, q: search.value.trim() }, { replace: !first }), TYPING);
});
search.form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  go({ ...filters, q: search.value.trim() }, { replace: Boolean(filters.q) });
});
search.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" && view?.total) {
    event.preventDefault();
    grid.focus(0);
  }
});
document.addEventListener("keydown", (event) => {
  const typed = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || typed || viewer?.isOpen || event.metaKey || event.ctrlKey || event.altKey) return;
  event.preventDefault();
  search.focus();
  search.select();
});

const sizes = [...document.querySelectorAll(".sizes button")];
function sized(size) {
  for (const button of sizes) button.setAttribute("aria-pressed", String(button.dataset.size === size));
  grid.resize(size);
  try {
    localStorage.setItem(SIZE, size);
  } catch {
    // Not remembered, where a browser stores nothing.
  }
}
for (const button of sizes) button.addEventListener("click", () => sized(button.dataset.size));
try {
  const size = localStorage.getItem(SIZE);
  if (sizes.some((button) => button.dataset.size === size)) sized(size);
} catch {
  // Medium it is.
}

document.querySelector(".brand a").addEventListener("click", (event) => {
  if (event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  search.value = "";
  go(fromUrl("").filters);
});

chips.show(filters);
const first = fromUrl(location.search);
load().then(() => {
  if (view) compareSoon();
  if (first.run) openRun(first.run, first.output);
  else setTimeout(() => import("./viewer.js").catch(() => {}), 500); // so that the first dialog opens at once
});
