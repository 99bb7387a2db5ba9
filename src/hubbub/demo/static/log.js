// How one room's messages look: rows with their offsets, the gap while the connection is away, and what is not sent yet.
// Knows nothing of connections. What people wrote gets into the page as text only.

import { author } from "./channel.js";
import { me } from "./network.js";

const MOST_ROWS = 500;
const NEAR_END = 60; // pixels
const SAME_BREATH = 5 * 60_000; // milliseconds between two messages of one person that stand under one name
const LONG_TEXT = 1000; // characters
const STAGGER = 45; // milliseconds between two recovered rows …
const LONGEST_STAGGER = 900; // … but never longer than this in all

/** A new element: `make("p", { className: "text" }, "words", another)`. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A colour for each user, the same in every tab. */
export function hue(user) {
  let hash = 2166136261;
  for (const character of user) hash = Math.imul(hash ^ character.codePointAt(0), 16777619);
  return (hash >>> 8) % 360;
}

/** The round letter in front of a name; the server's has no colour of its own. */
export function avatar({ user, name }) {
  const element = make("span", { className: user ? "avatar" : "avatar server", ariaHidden: "true" });
  element.textContent = ([...name][0] || "?").toUpperCase();
  element.style.setProperty("--hue", hue(user));
  return element;
}

const number = new Intl.NumberFormat("en");
export const count = (many, noun) => `${number.format(many)} ${noun}${many === 1 ? "" : "s"}`;

function clock(at) {
  const date = new Date(Number(at) || Date.now());
  const text = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  return make("time", { dateTime: date.toISOString(), textContent: text });
}

/** A word about somebody who is on another server than this page; nothing about others. */
export function elsewhere({ server }) {
  if (!server || server === me.server) return [];
  return [" ", make("span", { className: "elsewhere", textContent: `via ${server}`, title: "Through another server" })];
}

export class Log {
  #isPinned = true; // to the newest message, until somebody scrolls up
  #aim = 0; // where we scrolled to: a scroll event from there is ours
  #top = 0; // where a hidden log stood
  #isScrolling = false;
  #unseen = 0;
  #gap = null;
  #missed = 0;
  #before = {}; // who wrote the newest row, and when

  constructor(name, onPutBack) {
    this.onPutBack = onPutBack;
    this.list = make("ol");
    const hint = make("p", { className: "empty" }, make("b", {}, "It is quiet here"),
      "Write something. Then cut your connection, let others talk, and come back: not one message is missing.");
    this.scroller = make("div", { className: "scroller pinned", role: "log", tabIndex: 0, ariaLabel: `Messages in ${name}`,
      ariaBusy: "true" }, this.list, hint);
    this.newest = make("button", { type: "button", className: "newest", hidden: true });
    this.newest.addEventListener("click", () => { this.#isPinned = true; this.#toEnd(); });
    this.element = make("div", { className: "log", hidden: true }, this.scroller, this.newest);
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#toEnd()).observe(this.scroller);
  }

  show(isShown) {
    if (!isShown) this.#top = this.scroller.scrollTop;
    this.element.hidden = !isShown;
    if (isShown && !this.#isPinned) this.scroller.scrollTop = this.#top;
    if (isShown) this.#toEnd();
  }

  // rows --------------------------------------------------------------------------------------------------------------

  /** `kind`: "old" from history, "live", or "missed" while the connection was away. */
  add(publication, kind) {
    const { offset, data } = publication;
    const who = author(publication);
    const row = this.#row(`#${offset}`, who, data?.at, String(data?.text ?? ""));
    row.dataset.offset = offset;
    if (kind === "missed") {
      row.classList.add("missed");
      row.style.setProperty("--delay", `${Math.min(STAGGER * this.#missed++, LONGEST_STAGGER)}ms`);
    }
    if (kind !== "old") this.#arrive(row);
    this.#before = { ...who, at: Number(data?.at) || 0 };
    this.#place(row);
    if (!this.#isPinned && who.user !== me.user) this.#count(this.#unseen + 1);
  }

  /** A row for what is not sent yet; `discard` forgets it. */
  addPending({ text, at }, discard) {
    const row = this.#row("···", me, at, text);
    row.classList.add("pending");
    row.discard = () => { discard(); this.onPutBack(text); };
    this.#isPinned = true;
    this.list.append(row);
    this.#toEnd();
    return row;
  }

  /** The server cannot pass it on just now. It is sent again. */
  delay(row) {
    if (row.classList.contains("delayed")) return;
    row.classList.add("delayed");
    row.querySelector(".offset").textContent = "!";
    row.querySelector(".body").append(
      make("p", { className: "refusal", role: "status", textContent: "Not sent yet: the server cannot pass it on. Trying again." }));
    this.#toEnd();
  }

  /** It was refused: say why, and offer to put it back into the field. */
  fail(row, reason) {
    const button = make("button", { type: "button", className: "quiet", textContent: "Put it back" });
    button.addEventListener("click", row.discard);
    row.querySelector(".refusal")?.remove();
    row.classList.add("failed");
    row.querySelector(".offset").textContent = "!";
    row.querySelector(".body").append(make("p", { className: "refusal", role: "alert" }, `Not sent: ${reason}. `, button));
    this.#toEnd();
  }

  /** History comes all at once: not to be read out, and not to be counted as new. */
  whileBusy(work) {
    this.scroller.ariaBusy = "true";
    work();
    this.scroller.ariaBusy = "false";
    this.#toEnd();
  }

  #row(tag, who, at, text) {
    const before = this.#before;
    const isSame = who.user === before.user && who.name === before.name && at - before.at < SAME_BREATH;
    const name = make("b", { dir: "auto", textContent: who.name });
    const row = make("li", { className: isSame ? "message same" : "message" },
      make("span", { className: "offset", textContent: tag }), avatar(who),
      make("div", { className: "body" }, make("p", { className: "who" }, name, " ", clock(at), ...elsewhere(who)),
        make("p", { className: "text", dir: "auto", textContent: text })));
    row.classList.toggle("long", text.length > LONG_TEXT || text.split("\n").length > LONG_TEXT / 100);
    row.style.setProperty("--hue", hue(who.user));
    return row;
  }

  #place(row) {
    this.list.insertBefore(row, this.list.querySelector(".pending"));
    while (this.list.children.length > MOST_ROWS) this.list.firstChild.remove();
    this.#toEnd();
  }

  // Rows move once: a log that is hidden and shown again would begin its animations anew.
  #arrive(row) {
    row.classList.add("arriving");
    row.addEventListener("animationend", () => row.classList.remove("arriving"), { once: true });
  }

  // the gap -----------------------------------------------------------------------------------------------------------

  openGap(last, isCut) {
    const where = last ? `after #${last}` : "before the first message";
    this.#gap = make("li");
    this.#drawGap("open", "×", `Connection ${isCut ? "cut" : "lost"} ${where}.`, "From here on this page hears nothing.");
    this.#before = {};
    this.#place(this.#gap);
  }

  closeGap({ from, to, milliseconds }) {
    const many = to - from + 1;
    if (!many && this.element.hidden) this.#gap?.remove();
    this.#drawGap("closed", "✓", summary({ from, to, milliseconds }));
    this.#endGap();
  }

  /** What was missed cannot be had: it is not kept any more, or the room began a new life with a new count. */
  loseGap(isNewLife) {
    if (isNewLife) this.#drawGap("lost", "!", "The room began anew.", "What was missed is gone, and the count starts at #1.");
    else this.#drawGap("lost", "!", "Away too long.", "What was missed is no longer kept; this is what there is.");
    this.#endGap();
  }

  #drawGap(state, mark, sentence, more = "") {
    if (!this.#gap) return;
    this.#gap.className = `gap ${state}`;
    this.#gap.replaceChildren(make("span", { className: "offset", ariaHidden: "true", textContent: mark }),
      make("p", {}, make("b", {}, sentence), ` ${more}`));
  }

  #endGap() {
    this.#gap = null;
    this.#missed = 0;
    this.#before = {};
    this.#toEnd();
  }

  // scrolling ---------------------------------------------------------------------------------------------------------

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END;
    if (this.element.hidden || (!isAtEnd && Math.abs(scrollTop - this.#aim) < 2)) return;
    this.#isPinned = isAtEnd;
    this.scroller.classList.toggle("pinned", this.#isPinned);
    if (this.#isPinned) this.#count(0);
  }

  #toEnd() {
    if (!this.#isPinned || this.#isScrolling) return;
    this.#isScrolling = true;
    requestAnimationFrame(() => {
      this.#isScrolling = false;
      this.scroller.scrollTop = this.scroller.scrollHeight;
      this.#aim = this.scroller.scrollTop;
      this.#count(0);
    });
  }

  #count(unseen) {
    this.#unseen = unseen;
    this.newest.hidden = !unseen;
    this.newest.textContent = `${count(unseen, "new message")} ↓`;
  }
}

/** What came back, in one sentence. */
export function summary({ from, to, milliseconds }) {
  const many = to - from + 1;
  if (!many) return "Back again. Nothing was said meanwhile.";
  const range = many === 1 ? `#${from}` : `#${from} to #${to}`;
  return `Recovered ${count(many, "message")}, ${range}, nothing lost, in ${number.format(milliseconds)} ms`;
}
