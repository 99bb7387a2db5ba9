// The room: the official client, one subscription, and a socket that can be cut as a bad network would cut it.
"use strict";

const ROOM = "demo:room";
const $ = (id) => document.getElementById(id);

// Names live in the session, so that two tabs are two people and a reload is the same one.
const names = ["Wren", "Otter", "Lark", "Badger", "Heron", "Vole", "Finch", "Marten", "Swift", "Hare"];
const me = {
  name: sessionStorage.name || (sessionStorage.name = names[Math.floor(Math.random() * names.length)]),
  user: sessionStorage.user || "",
};

// A WebSocket whose wire can be cut: while it is, every attempt goes where nobody answers.
let isCut = false;
const sockets = new Set();
class CuttableSocket extends WebSocket {
  constructor(url, ...rest) {
    super(isCut ? `${url}/cut` : url, ...rest);
    sockets.add(this);
    this.addEventListener("close", () => sockets.delete(this));
  }
}

const scheme = location.protocol === "https:" ? "wss" : "ws";
const client = new Centrifuge(`${scheme}://${location.host}/connection/websocket`, {
  websocket: CuttableSocket,
  minReconnectDelay: 200,
  maxReconnectDelay: 1000,
  getToken: async () => {
    const answer = await fetch(`/token?name=${encodeURIComponent(me.name)}&user=${encodeURIComponent(me.user)}`);
    const { token, user } = await answer.json();
    me.user = sessionStorage.user = user;
    return token;
  },
});
const room = client.newSubscription(ROOM);

// Messages --------------------------------------------------------------------------------------------------------

let last = 0; // the offset of the newest message on this page
let returning = null; // while what was missed is handed out: the line above it, and how many it were

function line(parts, className) {
  const list = $("messages");
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  const item = document.createElement("li");
  if (className) item.className = className;
  for (const [name, text] of parts) {
    const span = document.createElement("span");
    span.className = name;
    span.textContent = text;
    item.append(span);
  }
  list.append(item);
  while (list.children.length > 500) list.firstChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
  return item;
}

function show(publication) {
  if (publication.offset <= last) return; // history and live overlap by design
  last = publication.offset;
  const { name = "?", text = "" } = publication.data || {};
  const item = line([["offset", `#${publication.offset}`], ["name", String(name)], ["text", String(text)]],
    returning ? "missed" : "");
  item.dataset.offset = publication.offset;
  if (returning) returning.count += 1;
  $("offset").textContent = `#${last}`;
}

room.on("publication", show);

room.on("subscribed", async (context) => {
  if (context.wasRecovering && context.recovered) {
    // The client hands out what was missed right behind this event, before it does anything else.
    returning = { mark: line([["text", "back again"]], "mark"), count: 0 };
    await new Promise((resolve) => setTimeout(resolve, 0));
    const { mark, count } = returning;
    returning = null;
    mark.textContent = count ? `back again: ${count} missed, and here they are` : "back again: nothing missed";
    $("recovered").textContent = count ? `all ${count}` : "nothing missed";
  } else {
    if (context.wasRecovering) {
      $("recovered").textContent = "no";
      line([["text", "away too long: what was missed is gone"]], "mark lost");
    }
    const page = await room.history({ limit: 100, reverse: true });
    page.publications.reverse().forEach(show);
  }
  await refreshHere();
});

$("write").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  try {
    await room.publish({ name: me.name, text });
    $("text").value = "";
  } catch (error) {
    line([["text", `not sent: ${error.message}`]], "mark lost");
  }
});

// Who is here -----------------------------------------------------------------------------------------------------

const here = new Map();

function drawHere() {
  $("count").textContent = here.size;
  $("here").replaceChildren(...[...here.values()].map((info) => {
    const item = document.createElement("li");
    item.textContent = (info.connInfo && info.connInfo.name) || info.user;
    if (info.client === me.client) item.className = "me";
    return item;
  }));
}

async function refreshHere() {
  const { clients } = await room.presence();
  here.clear();
  for (const info of Object.values(clients)) here.set(info.client, info);
  drawHere();
}

room.on("join", ({ info }) => { here.set(info.client, info); drawHere(); });
room.on("leave", ({ info }) => { here.delete(info.client); drawHere(); });

// The connection --------------------------------------------------------------------------------------------------

function state(name, text) {
  $("state").dataset.state = name;
  $("state").textContent = text;
  const isConnected = name === "connected";
  $("cut").disabled = !isConnected;
  $("write").querySelector("button").disabled = !isConnected;
}

client.on("connecting", () => { if (!isCut) state("connecting", "connecting"); });
client.on("connected", (context) => { me.client = context.client; state("connected", `connected as ${me.name}`); });
client.on("disconnected", (context) => state("disconnected", `disconnected: ${context.reason}`));

$("cut").addEventListener("click", async () => {
  const answer = await fetch("/tell", { method: "POST" });
  const { lines, pace } = await answer.json();
  isCut = true;
  for (const socket of sockets) socket.close();
  let left = Math.ceil((lines + 1) * pace);
  state("cut", `cut; back in ${left} s`);
  const timer = setInterval(() => {
    left -= 1;
    if (left > 0) return state("cut", `cut; back in ${left} s`);
    clearInterval(timer);
    isCut = false;
    state("connecting", "connecting");
  }, 1000);
});

room.subscribe();
client.connect();
