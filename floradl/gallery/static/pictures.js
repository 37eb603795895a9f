// The tiles' pictures: a few at a time, those that are seen first.

import { h, icon } from "./dom.js";

// A browser has six connections to a server: one is for the news, and one stays free for what somebody opens meanwhile.
const AT_ONCE = 4;
const TRIES = 6; // where the server is busy, over fifteen seconds

export class Pictures {
  constructor() {
    /** Tiles that wait for theirs. @type {HTMLElement[]} */
    this.waiting = [];
    /** @type {Set<HTMLImageElement>} */
    this.loading = new Set();
    /** Those that are unavailable. @type {Set<string>} */
    this.missing = new Set();
  }

  /** Fetch the pictures of these tiles, in this order, and no others any more. @param {HTMLElement[]} tiles */
  want(tiles) {
    this.waiting = tiles;
    this.next();
  }

  /** Take a tile away. A picture that is still on its way is not waited for: it would hold a connection. @param {HTMLElement} tile */
  discard(tile) {
    const image = tile.querySelector("img");
    tile.remove();
    if (!image || !this.loading.has(image)) return;
    image.removeAttribute("src");
    this.done(image);
  }

  next() {
    while (this.loading.size < AT_ONCE && this.waiting.length) {
      const tile = this.waiting.shift();
      const { picture } = tile.dataset;
      if (!picture || !tile.isConnected) continue;
      delete tile.dataset.picture;
      if (this.missing.has(picture)) instead(tile);
      else this.fetch(tile, picture);
    }
  }

  fetch(tile, picture) {
    const image = h("img", { alt: "", decoding: "async", fetchpriority: "low", draggable: "false" });
    image.addEventListener("load", () => {
      image.classList.add("here");
      this.done(image);
    }, { once: true });
    image.addEventListener("error", () => this.retry(image, tile, picture, 1), { once: true });
    this.loading.add(image);
    image.src = picture;
    tile.prepend(image);
  }

  // There is no picture of this file, or the server is busy with others: the answer says which.
  async retry(image, tile, picture, nth) {
    const answer = await fetch(picture, { credentials: "same-origin" }).catch(() => null);
    if (!this.loading.has(image)) return;
    const none = () => {
      image.remove();
      this.done(image);
      instead(tile);
    };
    if (answer?.ok) {
      image.addEventListener("error", none, { once: true });
      image.src = picture;
    } else if (answer?.status === 503 && nth < TRIES) {
      setTimeout(() => this.retry(image, tile, picture, nth + 1), 1000 * nth);
    } else {
      if (answer?.status === 404) this.missing.add(picture);
      none();
    }
  }

  done(image) {
    this.loading.delete(image);
    this.next();
  }
}

// The tile of an output whose picture is unavailable.
function instead(tile) {
  const kind = [...tile.classList].find((each) => each !== "tile");
  tile.querySelector(".badge")?.remove();
  const words = tile.querySelector(".caption");
  words?.remove();
  tile.prepend(h("span", { class: "plain" }, icon(kind), ...(words?.childNodes ?? [])));
}
