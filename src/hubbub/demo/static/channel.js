// One room: its subscription, where it stands in the stream, what it missed, and what this tab still has to send.
// Knows nothing of how any of it looks: `view` draws, and `ears` hear what happens.

import { client, wire } from "./network.js";

const PAGE = 200; // messages of history on coming in
const FOREVER = Infinity;
const TROUBLE = new Set([1, 100]); // no answer in time, and that the server cannot pass it on: nobody's mistake
const RETRY = 1000; // milliseconds
const LOST_ITS_PLACE = 2500; // and above: the server ended the subscription, and the client subscribes again by itself

/** Who wrote it, and on which server. Servers vouch for `info`; what they publish themselves has none and says it. */
export function author({ info, data }) {
  if (info) return { user: info.user, name: info.connInfo?.name || info.user, server: info.connInfo?.server || "" };
  return { user: "", name: String(data?.name || "server"), server: String(data?.server || "") };
}

export class Channel {
  last = 0; // offset of the newest message on this page
  epoch = "";
  holes = 0; // messages after which the numbers did not go on by one: none, ever
  recovered = 0;
  unread = 0;
  newest = null;
  outbox = new Map(); // by key: what was written here and has not come back yet

  #isOpen = false;
  #early = null; // while history is fetched: what came meanwhile
  #gapFrom = 0; // the first offset that was not heard, while something may be missing
  #until = 0; // while what was missed comes in: the last offset of it
  #heardAt = 0;
  #retry = 0; // the timer, while the server cannot pass on what is written
  #isSending = false;

  /** `ears`: change(outcome), message(publication, kind), typing(publication). */
  constructor(id, view, ears) {
    this.id = id;
    this.view = view;
    this.ears = ears;
    this.subscription = client.newSubscription(`demo:${id}`);
    this.subscription.on("publication", (publication) => this.#hear(publication));
    this.subscription.on("subscribed", (context) => this.#enter(context));
    this.subscription.on("subscribing", ({ code }) => {
      if (code < LOST_ITS_PLACE) return;
      wire.mendedAt = performance.now();
      this.lose();
    });
    this.subscription.subscribe();
  }

  get isReady() {
    return this.subscription.state === "subscribed" && !this.#early && !this.#until;
  }

  set isOpen(isOpen) {
    this.#isOpen = isOpen;
    if (isOpen) this.#markRead();
  }

  /** The connection has gone. */
  lose() {
    if (!this.epoch || this.#gapFrom) return;
    this.#gapFrom = this.last + 1;
    this.view.openGap(this.last, wire.isCut);
  }

  #enter({ wasRecovering, recovered, streamPosition }) {
    const isNewLife = this.epoch && streamPosition && streamPosition.epoch !== this.epoch;
    if (streamPosition) this.epoch = streamPosition.epoch;
    for (const entry of this.outbox.values()) entry.isAnswered = false; // it did not come back: ask again
    if (wasRecovering && recovered) return this.#catchUp();
    if (wasRecovering) this.view.loseGap(isNewLife);
    if (isNewLife) this.last = 0;
    this.#gapFrom = 0;
    return this.#load();
  }

  // What came while history was fetched waits for it, so that everything is shown in order.
  async #load() {
    this.#early = [];
    try {
      const { publications } = await this.subscription.history({ limit: PAGE, reverse: true });
      const early = this.#early;
      this.#early = null;
      this.view.whileBusy(() => [...publications.reverse(), ...early].forEach((one) => this.#show(one, "old")));
    } catch {
      this.#early = null; // gone again: the next time it is subscribed it recovers from where it stood
    }
    this.#countUnread();
    this.#flush();
    this.ears.change();
  }

  // The server sends what was missed right behind its answer; the head tells which publication is the last of it.
  async #catchUp() {
    this.#gapFrom ||= this.last + 1;
    this.#until = FOREVER;
    this.#heardAt = performance.now();
    try {
      const head = await this.subscription.history({ limit: 0 });
      this.#until = head.offset;
      if (this.last >= this.#until) this.#settle();
    } catch {
      this.#until = 0; // gone again: the gap stays open
    }
  }

  #settle() {
    const [from, to] = [this.#gapFrom, this.last];
    this.#gapFrom = this.#until = 0;
    const outcome = { from, to, milliseconds: Math.max(1, Math.round(this.#heardAt - wire.mendedAt)) };
    this.recovered += to - from + 1;
    this.view.closeGap(outcome);
    this.#flush();
    this.ears.change(outcome);
  }

  #hear(publication) {
    if (!publication.offset) return this.ears.typing(publication);
    if (this.#early) return this.#early.push(publication);
    this.#show(publication, this.#until ? "missed" : "live");
    if (this.#until && this.last >= this.#until) this.#settle();
    return this.ears.change();
  }

  #show(publication, kind) {
    const { offset, data } = publication;
    if (offset <= this.last) return; // history and live overlap by design
    if (this.last && offset !== this.last + 1 && kind !== "old") this.holes += 1;
    this.last = offset;
    this.#heardAt = performance.now();
    this.newest = publication;
    this.view.add(publication, kind);
    if (kind !== "old") this.ears.message(publication, kind);
    this.#sent(data?.key);
    if (this.#isOpen) this.#markRead();
    else if (kind !== "old") this.unread += 1;
  }

  // unread ------------------------------------------------------------------------------------------------------------

  #markRead() {
    this.unread = 0;
    if (this.epoch) sessionStorage[`read:${this.id}`] = `${this.epoch} ${this.last}`;
  }

  #countUnread() {
    const [epoch, offset] = (sessionStorage[`read:${this.id}`] || "").split(" ");
    if (this.#isOpen || epoch !== this.epoch) this.#markRead();
    else this.unread = this.last - Number(offset);
  }

  // writing -----------------------------------------------------------------------------------------------------------

  /** It is shown at once, goes out now or when the connection is back, and is done when it comes back as a message. */
  write(text) {
    const key = Math.random().toString(36).slice(2);
    const entry = { key, text, at: Date.now(), isAnswered: false, hasFailed: false };
    entry.row = this.view.addPending(entry, () => this.#sent(key));
    this.outbox.set(key, entry);
    this.#flush();
  }

  // One after the other: what is refused for now and sent again would come behind what was sent after it.
  async #flush() {
    if (this.#isSending) return;
    this.#isSending = true;
    for (let next; (next = this.#next()); ) await this.#post(next);
    this.#isSending = false;
  }

  #next() {
    if (!this.isReady || this.#retry) return undefined;
    return [...this.outbox.values()].find((entry) => !entry.isAnswered && !entry.hasFailed);
  }

  // By the key the server knows a message again: it is there once, however often it was sent.
  async #post(entry) {
    const { key, text } = entry;
    try {
      await client.rpc("publish", { channel: this.subscription.channel, data: { text, key }, idempotency_key: key });
      entry.isAnswered = true;
    } catch ({ code, message }) {
      if (TROUBLE.has(code)) this.#delay(entry);
      else if (code > Math.max(...TROUBLE)) this.#fail(entry, message);
      // else the connection went while it was underway: it may have arrived, and goes out again when it has not
    }
  }

  #fail(entry, reason) {
    entry.hasFailed = true;
    this.view.fail(entry.row, reason);
  }

  // What is written meanwhile waits, too: everything goes out in the order in which it was written.
  #delay(entry) {
    this.view.delay(entry.row);
    this.#retry ||= setTimeout(() => {
      this.#retry = 0;
      this.#flush();
    }, RETRY);
  }

  #sent(key) {
    this.outbox.get(key)?.row.remove();
    this.outbox.delete(key);
  }

  /** Tell the others that this tab's user is typing, or has stopped: the server passes it on and keeps it nowhere. */
  type(isTyping) {
    if (this.isReady) this.subscription.publish({ typing: isTyping }).catch(() => {}); // the next key says it again
  }
}
