// The run's panel: which run made this, with what, and where the file is.

import { ApiError, get, post } from "./api.js";
import { actionButton, breakable, copyButton, h, icon, setChildren } from "./dom.js";
import { bytes, money, spoken, techniqueName, time } from "./format.js";
import { described } from "./status.js";

const REMEMBERED = 50; // runs
// What the server may offer: the button, what a screen reader says besides, and whether it wants a second press.
const BUTTONS = {
  retry: { text: "Retry", does: ": download it anew", asks: false },
  forget: { text: "Forget", does: "", asks: true },
  prune: { text: "Remove files", does: ": only a retry brings them back", asks: true, done: "Removed" },
};
const FRESH = 20_000; // milliseconds that a run is remembered: its cost may come later, or it may be downloaded anew

export class Panel {
  /** @param {{link: (filters: Record<string, any>) => string, open: (output: any) => void, narrow: (filters: Record<string, any>) => void,
   *   actions: () => string[]}} acts */
  constructor(acts) {
    this.acts = acts;
    this.element = h("aside", { class: "panel", id: "panel", "aria-label": "The run", tabindex: "-1" });
    this.shown = null;
    /** What stands for the output that is shown: not made anew when its run comes, for it may be pressed or focused. @type {Map<string, HTMLElement>} */
    this.parts = new Map();
    /** @type {Map<string, {at: number, answer: Promise<any>}>} */
    this.runs = new Map();
  }

  /** Show what is known of an output at once, and of its run when it has come. @param {Record<string, any>} output */
  async show(output) {
    this.shown = output.key;
    this.output = output;
    this.parts.clear();
    this.fill(output, null);
    let run = null;
    let failed = null;
    try {
      run = await this.run(output.run_id);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      failed = error.message;
    }
    if (this.shown === output.key) this.fill(output, run, failed);
  }

  /** A run as /api/runs gives it. Throws `ApiError`. @param {string} id */
  run(id) {
    const known = this.runs.get(id);
    if (known && performance.now() - known.at < FRESH) return known.answer;
    const answer = get(`/api/runs/${encodeURIComponent(id)}`);
    answer.catch(() => this.runs.delete(id));
    this.runs.delete(id);
    this.runs.set(id, { at: performance.now(), answer });
    if (this.runs.size > REMEMBERED) this.runs.delete(this.runs.keys().next().value);
    return answer;
  }

  /** Offer what the server does now. */
  offer() {
    if (this.shown) this.actions(this.output);
  }

  // The part of that name for the output that is shown, made where there is none yet.
  part(name, make) {
    let part = this.parts.get(name);
    if (!part) this.parts.set(name, part = make());
    return part;
  }

  fill(output, answer, failed = null) {
    const scrolled = this.element.scrollTop;
    const focused = this.element.contains(document.activeElement) ? document.activeElement : null;
    const sidecar = answer?.run ?? null;
    const mine = sidecar?.outputs?.find((each) => each.path === output.path) ?? {};
    const file = answer?.files?.find((each) => each.path === output.path) ?? null;
    setChildren(this.element, [
      this.heading(output, sidecar),
      failed ? h("p", { class: "notice", text: failed }) : null,
      this.facts(this.runFacts(output, sidecar), "Run"),
      this.siblings(output, sidecar, answer),
      this.facts(this.fileFacts(output, mine, { file, isSought: !answer && !failed }), "File"),
      this.actions(output),
      sidecar ? sidecarBlock(sidecar) : null,
    ].filter(Boolean));
    this.element.scrollTop = scrolled;
    if (focused && !focused.isConnected) this.likeOf(focused)?.focus({ preventScroll: true });
  }

  // What stands now where an element stood that was replaced.
  likeOf(gone) {
    const name = (element) => element.getAttribute("aria-label") ?? element.textContent;
    return [...this.element.querySelectorAll("a, button")].find((each) => name(each) === name(gone));
  }

  actions(output) {
    const act = (action) => () => post(`/api/runs/${encodeURIComponent(output.run_id)}/${action}`);
    const actions = this.part("actions", () => h("p", { class: "actions" },
      h("a", { class: "button", href: output.url, download: output.name }, icon("download"), h("span", { text: "Download" }))));
    setChildren(actions, [actions.firstChild, ...this.acts.actions().filter((action) => BUTTONS[action]).map((action) => {
      const { text, does, asks, done } = BUTTONS[action];
      const name = action === "prune" ? `Remove the files of ${output.run_id}${does}` : `${text} ${output.run_id}${does}`;
      return this.part(`button ${action}`, () => actionButton(text, name, act(action), asks, done));
    })]);
    return actions;
  }

  heading(output, sidecar) {
    const heading = this.part("heading", () => {
      const named = techniqueName(output);
      const link = output.technique ? h("a", { href: this.acts.link({ technique: output.technique }), dir: "auto", text: named,
        title: "Show all outputs of this technique", on: { click: (event) => {
          if (event.metaKey || event.ctrlKey || event.shiftKey) return;
          event.preventDefault();
          this.acts.narrow({ technique: output.technique });
        } } }) : h("span", { text: named });
      return h("header", {}, h("h2", {}, link), output.label ? h("p", { class: "label", dir: "auto", text: output.label }) : null);
    });
    if (sidecar && sidecar.result !== "complete") {
      heading.append(this.part("result", () => h("p", { class: "result", dir: "auto", text: `${sidecar.result}: ${described(sidecar.error)}` })));
    }
    return heading;
  }

  runFacts(output, sidecar) {
    const run = sidecar?.run ?? {};
    const times = sidecar?.times ?? {};
    const cost = run.charged_cost ?? run.chargedCost;
    const meta = Object.entries(sidecar?.meta ?? {}).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value), { meta: true }]);
    return [
      ["Run", output.run_id, { copy: sidecar?.reference ?? [output.technique, output.run_id].filter(Boolean).join("/"), what: "the run's reference", code: true }],
      ["Technique", output.technique !== techniqueName(output) ? output.technique : null, { code: true }],
      ["Model", sidecar?.model_id],
      ["Project", sidecar?.project_name ?? output.project ?? sidecar?.project_id],
      ["Cost", money(cost) ?? (sidecar ? "not known" : "…")],
      ["Created", time(times.created_at ?? run.created_at)],
      ["Completed", time(output.completed_at ?? times.completed_at)],
      ["Took", took(times.started_at ?? times.created_at, times.completed_at)],
      ...meta,
    ];
  }

  // The path is copied as one that can be opened: there is no button until the run has told it.
  fileFacts(output, mine, { file, isSought }) {
    const size = output.width && output.height ? `${output.width} × ${output.height}` : null;
    return [
      ["Path", file?.absolute ?? output.path, { copy: isSought ? null : file?.absolute ?? output.path, what: "the path", code: true }],
      ["Size", [size, bytes(output.bytes)].filter(Boolean).join(" · ")],
      ["Type", output.content_type],
      ["Output", output.output_id, { code: true }],
      ["Downloaded", time(mine.downloaded_at)],
      ["Integrity", mine.integrity ? `${mine.integrity.replace("_", " ")}${mine.checked?.length ? ` (${mine.checked.join(", ")})` : ""}` : null],
      ["SHA-256", output.sha256, { copy: output.sha256, what: "the SHA-256", code: true }],
    ];
  }

  facts(facts, title) {
    const section = this.part(title, () => h("section", { "aria-label": title }, h("dl", {})));
    const there = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
    setChildren(section.firstChild, there.map((fact) => this.part(JSON.stringify([title, ...fact]), () => {
      const [name, value, how = {}] = fact;
      return h("div", {}, h("dt", { dir: "auto", text: name }),
        h("dd", {}, how.code ? h("code", {}, ...breakable(value)) : h("span", { dir: "auto", text: value }), how.copy ? copyButton(how.copy, how.what) : null));
    })));
    return section;
  }

  siblings(output, sidecar, answer) {
    const others = siblingsOf(sidecar, answer, output);
    if (others.length < 2) return null;
    return h("section", { class: "siblings", "aria-label": "All outputs of this run" }, h("h3", { text: `${others.length} outputs of this run` }),
      h("ul", {}, ...others.map((other) => h("li", {}, this.sibling(other, other.path === output.path)))));
  }

  sibling(other, current) {
    const link = h("a", { href: other.url, "aria-label": spoken(other), "aria-current": current ? "true" : null,
      on: { click: (event) => {
        event.preventDefault();
        if (!current) this.acts.open(other);
      } } });
    if (other.thumbnail) {
      const image = h("img", { src: other.thumbnail, alt: "", decoding: "async" });
      image.addEventListener("error", () => image.replaceWith(icon(other.kind)));
      link.append(image);
    } else link.append(icon(other.kind));
    return link;
  }
}

/** A run's outputs as /api/outputs gives them. @param {any} sidecar @param {any} answer @param {Record<string, any>} [like] one of them */
export function siblingsOf(sidecar, answer, like = {}) {
  const files = new Map((answer?.files ?? []).map((file) => [file.path, file]));
  return (sidecar?.outputs ?? []).filter((each) => each.path && files.has(each.path)).map((each) => ({
    key: each.path === like.path ? like.key : `${sidecar.run_id}/${each.output_id}`,
    run_id: sidecar.run_id, output_id: each.output_id,
    technique: sidecar.technique, technique_name: sidecar.technique_name, label: sidecar.label,
    project: sidecar.project_name ?? sidecar.project_id ?? null, kind: each.kind,
    name: each.path.slice(each.path.lastIndexOf("/") + 1), path: each.path,
    url: files.get(each.path).url, thumbnail: files.get(each.path).thumbnail, bytes: each.bytes, sha256: each.sha256,
    content_type: each.content_type, width: each.path === like.path ? like.width : null,
    height: each.path === like.path ? like.height : null, completed_at: sidecar.times?.completed_at ?? null, text: each.text ?? null,
  }));
}

function sidecarBlock(sidecar) {
  const block = h("pre", { tabindex: "0", "aria-label": "The sidecar", dir: "ltr" });
  const details = h("details", { class: "sidecar" }, h("summary", { text: "Sidecar" }), block);
  details.addEventListener("toggle", () => {
    if (details.open && !block.firstChild) block.textContent = JSON.stringify(sidecar, null, 2);
  });
  return details;
}

function took(from, to) {
  const seconds = (Date.parse(to ?? "") - Date.parse(from ?? "")) / 1000;
  if (!(seconds >= 0)) return null;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
