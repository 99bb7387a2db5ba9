// Who this tab is, its client, and a wire that can be cut as a bad network would cut it.
// Knows nothing of rooms.

// The tab's identity lives in the session: a reload is the same person, a new tab is somebody else.
const asked = new URLSearchParams(location.search).get("name");
export const me = JSON.parse(sessionStorage.me || "null") || { name: asked || "", user: "" };

async function getToken() {
  const answer = await fetch(`/token?${new URLSearchParams({ name: me.name, user: me.user })}`);
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  const { token, name, user, server } = await answer.json();
  Object.assign(me, { name, user, server }); // `server` is empty where there is only one
  sessionStorage.me = JSON.stringify(me);
  return token;
}

const sockets = new Set();
export const wire = { isCut: false, mendedAt: 0 };

/** What the client gets instead of a socket while the wire is cut: it ends before anybody has answered. */
class DeadSocket {
  constructor() {
    queueMicrotask(() => this.onclose?.({ code: 1006, reason: "the wire is cut" }));
  }
  close() {}
  send() {}
}

class CuttableSocket extends WebSocket {
  constructor(...args) {
    if (wire.isCut) return new DeadSocket();
    super(...args);
    sockets.add(this);
    this.addEventListener("close", () => sockets.delete(this));
  }
}

// Longer than a server takes to find out that it cannot reach its broker: its answer is better than none.
const TIMEOUT = 8000;

export const client = new Centrifuge(`${location.origin.replace("http", "ws")}/connection/websocket`, {
  timeout: TIMEOUT,
  websocket: CuttableSocket,
  minReconnectDelay: 200,
  maxReconnectDelay: 1000,
  getToken,
});

// A server that was started again believes no token of its former life: ask for a new one.
const INVALID_TOKEN = 3500;
client.on("disconnected", ({ code }) => {
  if (code !== INVALID_TOKEN) return;
  client.setToken("");
  setTimeout(() => client.connect(), 1000);
});

client.on("connecting", () => { wire.mendedAt = performance.now(); }); // a real loss ends as soon as it can

export function cut() {
  wire.isCut = true;
  for (const socket of sockets) socket.close();
}

export function mend() {
  wire.isCut = false;
  wire.mendedAt = performance.now();
  dispatchEvent(new Event("online")); // what a browser says when the network is back: the client tries at once
}
