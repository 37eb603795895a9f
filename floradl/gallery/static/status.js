// The work as it happens: what is paused and why, what is under way, what failed.

import { actionButton, h, icon, setChildren } from "./dom.js";
import { bytes, count, counted } from "./format.js";

const SHOWN = 6; // runs under way; the rest is counted
const NEXT = {
  credits: "Add credits at FLORA; downloads resume by themselves.",
  key_refused: "Renew the API key (floradl check says where it is read from); downloads resume by themselves.",
  disk_full: "Make room on the library's disk or in its bucket; downloads resume by themselves.",
  library_missing: "Mount the library's disk, or have its bucket answer again; downloads resume by themselves.",
  library_read_only: "Let floradl write the library's folder or bucket; downloads resume by themselves.",
};

export class Status {
  /** @param {HTMLElement} element @param {{resized: () => void, retry: (run: string) => Promise<void>}} acts `resized` is called where
   *   it became higher or lower; `retry` throws `ApiError` */
  constructor(element, acts) {
    this.element = element;
    this.acts = acts;
    this.paused = h("div", { class: "notice paused", role: "alert", hidden: true });
    this.lost = h("div", { class: "notice lost", role: "status", hidden: true });
    this.told = h("div", { class: "notice told", role: "status", hidden: true });
    this.trouble = h("div", { class: "notice trouble", role: "status", hidden: true });
    this.indexing = h("div", { class: "indexing", hidden: true }, h("span"), h("progress", { "aria-label": "Reading the library" }));
    this.running = h("ul", { class: "running", "aria-label": "Runs under way", hidden: true });
    this.failed = h("details", { class: "failed", hidden: true }, h("summary", {}, icon("warning"), h("span")), h("ul", { "aria-label": "Failed runs" }));
    this.more = h("p", { class: "more", hidden: true });
    element.append(this.lost, this.told, this.trouble, this.paused, this.indexing, this.running, h("div", { class: "footing" }, this.more, this.failed));
    new ResizeObserver(acts.resized).observe(element);
  }

  /** Say that the server is gone, or is back (null). @param {string | null} message */
  interrupted(message) {
    this.notice(this.lost, message);
    this.toggle();
  }

  /** Say something that stays until the next view (null: nothing). @param {string | null} message */
  tell(message) {
    this.notice(this.told, message);
    this.toggle();
  }

  notice(element, message) {
    element.hidden = !message;
    if (message && element.textContent !== message) element.replaceChildren(icon("warning"), h("p", { dir: "auto", text: message }));
  }

  showIndexing(indexing) {
    this.indexing.hidden = !indexing;
    if (!indexing) return;
    this.set(this.indexing.firstChild, `Reading the library: ${count(indexing.done)} of ${counted(indexing.total, "run")}`);
    this.indexing.lastChild.max = Math.max(1, indexing.total);
    this.indexing.lastChild.value = indexing.done;
  }

  /** @param {Record<string, any>} status as /api/status gives it */
  show(status) {
    this.notice(this.trouble, status.trouble ?? "");
    this.showIndexing(status.indexing);
    this.showPaused(status.paused);
    const running = status.running ?? [];
    this.showRunning(running.slice(0, SHOWN));
    const waiting = status.counts?.waiting ?? 0;
    const rest = [
      running.length > SHOWN ? `${count(running.length - SHOWN)} more under way` : "",
      waiting ? `${count(waiting)} waiting` : "",
      !alive(status) && (waiting || running.length) ? "no daemon is running: start one with floradl run" : "",
    ].filter(Boolean).join(" · ");
    this.set(this.more, rest);
    this.more.hidden = !rest;
    this.showFailed(status.failed ?? [], status.counts ?? {}, Boolean(status.may_change));
    this.toggle();
  }

  toggle() {
    const shown = [this.lost, this.told, this.trouble, this.paused, this.indexing, this.running, this.more, this.failed];
    this.element.hidden = shown.every((each) => each.hidden);
  }

  showPaused(paused) {
    this.paused.hidden = !paused;
    if (!paused) return;
    const remedy = paused.remedy ?? NEXT[paused.reason] ?? "";
    const text = `${paused.message}\n${remedy}`;
    if (this.paused.dataset.text === text) return; // an alert is read aloud once
    this.paused.dataset.text = text;
    this.paused.replaceChildren(icon("pause"), h("p", {}, h("strong", { text: "Downloads are paused. " }), h("span", { dir: "auto", text: paused.message }),
      remedy ? h("span", { class: "remedy", text: remedy }) : null));
  }

  showRunning(runs) {
    const wanted = new Set(runs.map((run) => run.run_id));
    for (const old of [...this.running.children]) if (!wanted.has(old.dataset.run)) old.remove();
    for (const run of runs) {
      let item = [...this.running.children].find((each) => each.dataset.run === run.run_id);
      if (!item) {
        item = h("li", { data: { run: run.run_id } },
          h("span", { class: "of", dir: "auto", text: run.technique ?? "Unknown technique", title: run.technique ?? null }),
          h("code", { dir: "auto", text: run.run_id, title: run.label ?? run.run_id }),
          h("progress", { max: 100, "aria-label": `Progress of ${run.run_id}` }),
          h("span", { class: "state" }));
        this.running.append(item);
      }
      const { share, words } = progress(run);
      const bar = item.querySelector("progress");
      if (share === null) bar.removeAttribute("value");
      else bar.value = share;
      this.set(item.querySelector(".state"), words);
    }
    this.running.hidden = !runs.length;
  }

  showFailed(failed, counts, mayChange) {
    const partial = counts.partial ?? 0;
    const total = Math.max(failed.length, (counts.failed ?? 0) + partial);
    this.failed.hidden = !failed.length;
    const digest = JSON.stringify([failed, total, mayChange]);
    if (!failed.length || this.failed.dataset.digest === digest) return;
    this.failed.dataset.digest = digest;
    this.set(this.failed.querySelector("summary span"), `${counted(total, "run")} failed${partial ? ", in whole or in part" : ""}`);
    const list = this.failed.querySelector("ul");
    const known = new Map([...list.children].map((item) => [item.dataset.digest, item]));
    const items = failed.map((run) => {
      const itemDigest = JSON.stringify([run, mayChange]);
      return known.get(itemDigest) ?? this.failedItem(run, mayChange, itemDigest);
    });
    if (total > failed.length) items.push(h("li", { class: "rest", text: `The last ${count(failed.length)} are shown; floradl status --all lists the others.` }));
    setChildren(list, items);
  }

  failedItem(run, mayChange, digest) {
    return h("li", { data: { digest } },
      h("span", { class: "of", dir: "auto", text: run.technique ?? "Unknown technique" }),
      h("code", { text: run.run_id }),
      h("span", { class: "why", dir: "auto", text: described(run.error) }),
      mayChange ? actionButton("Retry", `Retry ${run.run_id}`, () => this.acts.retry(run.run_id)) : null);
  }

  // Text is only touched where it changed: screen readers and selections stay undisturbed.
  set(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }
}

/** Is a daemon alive? @param {Record<string, any>} status */
export const alive = (status) => (typeof status.daemon === "object" && status.daemon !== null ? Boolean(status.daemon.alive) : Boolean(status.daemon));

/** The words of an error, which comes as a text or as `{code, message}`. @param {any} error */
export function described(error) {
  if (!error) return "No reason was given.";
  if (typeof error === "string") return error;
  return [error.code, error.message].filter(Boolean).join(": ") || "No reason was given.";
}

function progress(run) {
  if (run.state === "downloading") {
    const outputs = (run.outputs ?? []).filter((output) => typeof output.bytes === "number");
    const got = outputs.reduce((sum, output) => sum + output.bytes, 0);
    const known = outputs.length > 0 && outputs.every((output) => output.total);
    const total = outputs.reduce((sum, output) => sum + (output.total ?? 0), 0);
    if (!outputs.length) return { share: null, words: "downloading" };
    return {
      share: known ? Math.min(100, (100 * got) / total) : null,
      words: known ? `downloading ${bytes(got)} of ${bytes(total)}` : `downloading ${bytes(got)}`,
    };
  }
  const share = typeof run.progress === "number" ? Math.min(100, Math.max(0, run.progress)) : null;
  return { share, words: share === null ? run.state : `${run.state} ${Math.round(share)} %` };
}
