// The page: builds the rooms, and joins what people do to what the other files can.

import { author, Channel } from "./channel.js";
import { avatar, count, Log, make, summary } from "./log.js";
import { client, cut, me, mend, wire } from "./network.js";
import { People, TypingHint, Typists } from "./people.js";
import { Rate } from "./rate.js";

const ROOMS = {
  lobby: ["Lobby", "Everybody comes in here"],
  kitchen: ["Kitchen", "Bread, soup and gossip"],
  music: ["Music", "What are you listening to?"],
  workshop: ["Workshop", "Things taken apart"],
};
const MOST_CHARACTERS = 4000;
const NARROW = matchMedia("(max-width: 45rem)");

const $ = (id) => document.getElementById(id);
const rooms = new Map();
const hint = new TypingHint();
const rate = new Rate($("rate").querySelector("b"), $("spark"));
const people = new People($("here"), drawPeople);
let open = null;

// rooms ---------------------------------------------------------------------------------------------------------------

function addRoom(id, [name, topic]) {
  const log = new Log(name, putBack);
  $("logs").append(log.element);
  const button = make("button", { type: "button", tabIndex: -1 }, make("i", { className: "dot", ariaHidden: "true" }),
    make("span", { className: "name", textContent: name }), make("span", { className: "snippet", dir: "auto" }),
    make("span", { className: "badge", hidden: true }));
  button.addEventListener("click", () => enter(id, !matchMedia("(hover: none)").matches));
  $("rooms").querySelector("ul").append(make("li", {}, button));
  const room = { id, name, topic, log, button };
  room.typists = new Typists(() => drawRoom(room));
  room.channel = new Channel(id, log, {
    change: (outcome) => heard(room, outcome),
    message: (publication, kind) => counted(room, publication, kind),
    typing: (publication) => room.typists.heard(author(publication), publication.data?.typing === true),
  });
  rooms.set(id, room);
}

function enter(id, withFocus) {
  if (open) hint.update(open.channel, "");
  open = rooms.get(id);
  history.replaceState(null, "", `#${id}`);
  for (const room of rooms.values()) {
    const isOpen = room === open;
    room.log.show(isOpen);
    room.channel.isOpen = isOpen;
    room.button.tabIndex = isOpen ? 0 : -1;
    room.button.ariaCurrent = isOpen ? "true" : "false";
  }
  $("title").textContent = open.name;
  $("topic").textContent = open.topic;
  open.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  for (const link of [$("other"), $("again")]) link.href = `/#${id}`;
  people.enter(id);
  drawState();
  drawFacts();
  if (withFocus) $("text").focus();
}

// The list is one stop of the Tab key; arrows move inside it.
function moveInRooms(event) {
  const buttons = [...rooms.values()].map((room) => room.button);
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  buttons.at(to % buttons.length).focus();
}

function drawRoom({ button, channel, typists }) {
  const [dot, , snippet, badge] = button.children;
  dot.dataset.isLive = client.state === "connected";
  const typing = String(typists);
  const last = channel.newest && `${author(channel.newest).name}: ${channel.newest.data?.text ?? ""}`;
  snippet.textContent = typing || last || (channel.epoch ? "Nothing yet" : "");
  badge.hidden = !channel.unread;
  badge.replaceChildren(channel.unread > 99 ? "99+" : String(channel.unread), make("span", { className: "unseen" }, " unread"));
  if (open?.channel === channel) $("typing").textContent = typing;
  const unread = [...rooms.values()].reduce((sum, room) => sum + (room.channel?.unread || 0), 0);
  document.title = `${unread ? `(${unread}) ` : ""}${open?.name || ""} · hubbub`;
}

function heard(room, outcome) {
  if (outcome && room === open) $("outcome").textContent = summary(outcome);
  drawRoom(room);
  drawFacts();
}

function counted(room, publication, kind) {
  rate.add(kind);
  room.typists.heard(author(publication), false);
}

// writing -------------------------------------------------------------------------------------------------------------

function judge() {
  const length = $("text").value.length;
  const isTooLong = length > MOST_CHARACTERS;
  $("problem").textContent = isTooLong ? `${count(length, "character")}: at most ${MOST_CHARACTERS.toLocaleString("en")}` : "";
  $("text").ariaInvalid = String(isTooLong);
  $("write").querySelector("button").disabled = isTooLong || !$("text").value.trim() || !me.user;
}

function send(event) {
  event.preventDefault();
  judge();
  if ($("write").querySelector("button").disabled) return;
  open.channel.write($("text").value.trim());
  $("text").value = "";
  hint.forget();
  judge();
}

function putBack(text) {
  $("text").value = [$("text").value, text].filter(Boolean).join("\n");
  $("text").focus();
  judge();
}

// the connection ------------------------------------------------------------------------------------------------------

const STATES = { connected: "Connected", connecting: "Connecting", disconnected: "Disconnected", cut: "Cut" };

function drawState() {
  const state = wire.isCut ? "cut" : client.state;
  document.body.dataset.state = $("state").dataset.state = state;
  const where = state === "connected" && me.server ? [make("span", { className: "to", textContent: ` to ${me.server}` })] : [];
  $("state").replaceChildren(STATES[state], ...where);
  $("place").textContent = me.server || "–";
  $("place").parentElement.hidden = !me.server;
  $("cut").ariaChecked = String(wire.isCut);
  $("cut").disabled = !me.user;
  $("crowd").disabled = state !== "connected";
  $("text").placeholder = state === "connected" ? `Message to ${open.name}` : "Sent when you are back";
  for (const room of rooms.values()) drawRoom(room);
  judge();
}

function drawFacts() {
  const all = [...rooms.values()].map((room) => room.channel);
  $("position").textContent = open.channel.epoch ? `#${open.channel.last}` : "–";
  $("epoch").textContent = open.channel.epoch || "–";
  $("recovered").textContent = all.reduce((sum, channel) => sum + channel.recovered, 0);
  $("holes").textContent = all.reduce((sum, channel) => sum + channel.holes, 0);
}

function drawPeople() {
  $("count").textContent = people.isInDoubt ? "" : people.size;
  $("doubt").hidden = !people.isInDoubt;
}

function drawMe() {
  $("me").querySelector("b").textContent = me.name;
  $("me").querySelector(".avatar").replaceWith(avatar(me));
  $("me").hidden = false;
}

/** Somebody has to talk while this tab does not hear it: the server does. */
const ask = (what) => client.rpc(what, { room: open.id }).catch(() => {}); // then it is quiet, and no harm done

async function flip() {
  if (wire.isCut) {
    mend();
  } else {
    await ask("tell");
    cut();
    $("outcome").textContent = "This page hears nothing now. The server talks to the others: wait a little, and switch back.";
  }
  drawState();
}

client.on("state", ({ oldState }) => {
  if (oldState === "connected") for (const room of rooms.values()) room.channel.lose();
  drawState();
});
client.on("connected", drawMe);

// begin ---------------------------------------------------------------------------------------------------------------

for (const [id, words] of Object.entries(ROOMS)) addRoom(id, words);
enter(rooms.has(location.hash.slice(1)) ? location.hash.slice(1) : "lobby", !NARROW.matches);

$("rooms").addEventListener("keydown", moveInRooms);
$("cut").addEventListener("click", flip);
$("crowd").addEventListener("click", () => ask("crowd"));
$("more").addEventListener("click", () => { $("more").ariaExpanded = String($("more").ariaExpanded !== "true"); });
$("write").addEventListener("submit", send);
$("text").addEventListener("input", () => { judge(); hint.update(open.channel, $("text").value); });
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
});
client.connect();
