// Who is in the open room, one line for each user however many tabs they have; and who is typing.
// Knows nothing of messages.

import { avatar, elsewhere, make } from "./log.js";
import { client, me } from "./network.js";

const LOOK = 10_000; // milliseconds between two looks: joins and leaves that got lost count no longer than this
const LOOK_AGAIN = 2000; // milliseconds, while the server cannot say
const TYPING_TTL = 4000; // milliseconds that a hint holds without another
const TYPING_PACE = 1500; // milliseconds between two hints of one who goes on typing

/** Who is here, from a channel of its own: coming into a room is subscribing to it. */
export class People {
  isInDoubt = false; // the server cannot say just now: what is shown is what was known, or oneself

  #subscription = null;
  #timer = 0;
  #tabs = new Map(); // by connection: who
  #rows = new Map(); // by user: their line

  constructor(list, onChange) {
    this.list = list;
    this.onChange = onChange;
  }

  get size() {
    return new Set(this.#present.map((who) => who.user)).size;
  }

  get #present() {
    return this.isInDoubt && !this.#tabs.size ? [{ ...me }] : [...this.#tabs.values()];
  }

  enter(room) {
    if (this.#subscription) {
      this.#subscription.unsubscribe();
      client.removeSubscription(this.#subscription);
    }
    this.#tabs.clear();
    this.isInDoubt = false;
    const subscription = this.#subscription = client.newSubscription(`here:${room}`);
    subscription.on("join", ({ info }) => this.#joined(info));
    subscription.on("leave", ({ info }) => this.#left(info));
    subscription.on("subscribed", () => this.#load(subscription));
    subscription.on("error", () => this.#doubt()); // it is tried again
    subscription.subscribe();
  }

  async #load(subscription) {
    clearTimeout(this.#timer);
    try {
      const { clients } = await subscription.presence();
      if (subscription !== this.#subscription) return;
      this.#tabs = new Map(Object.values(clients).map((info) => [info.client, who(info)]));
      this.isInDoubt = false;
      this.#draw();
    } catch {
      if (subscription !== this.#subscription || subscription.state !== "subscribed") return; // it is subscribed again
      this.#doubt();
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(subscription), this.isInDoubt ? LOOK_AGAIN : LOOK);
  }

  #doubt() {
    if (client.state !== "connected") return; // then the page says that, and nothing else is news
    this.isInDoubt = true;
    this.#draw();
  }

  #joined(info) {
    this.#tabs.set(info.client, who(info));
    this.#draw();
  }

  #left(info) {
    this.#tabs.delete(info.client);
    this.#draw();
  }

  #draw() {
    const users = Map.groupBy(this.#present, (one) => one.user);
    for (const [user, tabs] of users) this.#line(tabs[0]).querySelector("small").textContent = note(user, tabs.length);
    for (const [user, row] of this.#rows) if (!users.has(user)) this.#leave(user, row);
    this.onChange(this);
  }

  #line(one) {
    const known = this.#rows.get(one.user);
    if (known) return known;
    const row = make("li", {}, avatar(one), make("span", { dir: "auto", textContent: one.name }), make("small"), ...elsewhere(one));
    row.dataset.user = one.user;
    this.#rows.set(one.user, row);
    if (one.user === me.user) this.list.prepend(row);
    else this.list.append(row);
    return row;
  }

  #leave(user, row) {
    this.#rows.delete(user);
    row.classList.add("leaving");
    Promise.all(row.getAnimations().map((one) => one.finished)).finally(() => row.remove());
  }
}

function who({ user, connInfo }) {
  return { user, name: connInfo?.name || user, server: connInfo?.server || "" };
}

function note(user, tabs) {
  return [user === me.user ? "you" : "", tabs > 1 ? `${tabs} tabs` : ""].filter(Boolean).join(" · ");
}

/** Who is typing in one room. Hints come and go; one that is not renewed runs out. */
export class Typists {
  #timers = new Map(); // by user
  #names = new Map();

  constructor(onChange) {
    this.onChange = onChange;
  }

  heard({ user, name }, isTyping) {
    clearTimeout(this.#timers.get(user));
    this.#timers.delete(user);
    this.#names.delete(user);
    if (isTyping && user !== me.user) {
      this.#names.set(user, name);
      this.#timers.set(user, setTimeout(() => this.heard({ user }, false), TYPING_TTL));
    }
    this.onChange();
  }

  toString() {
    const names = [...this.#names.values()];
    if (names.length > 2) return `${names.length} people are typing …`;
    return names.length ? `${names.join(" and ")} ${names.length === 1 ? "is" : "are"} typing …` : "";
  }
}

/** Says that this tab's user is typing: at most every TYPING_PACE, and once when it is over. */
export class TypingHint {
  #saidAt = 0;

  update(channel, text) {
    const isTyping = text.trim() !== "";
    if (isTyping && Date.now() - this.#saidAt < TYPING_PACE) return;
    if (!isTyping && !this.#saidAt) return;
    this.#saidAt = isTyping ? Date.now() : 0;
    channel.type(isTyping);
  }

  /** A message went out, which says more than a hint that the typing is over. */
  forget() {
    this.#saidAt = 0;
  }
}
