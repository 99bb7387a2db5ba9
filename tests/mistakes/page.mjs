// A page with the official client: runs a piece of JavaScript, and prints what goes wrong, or "ok".
//
// Argument: JSON {url, code, origin, names}. `names` are what the code finds defined besides `url` and `Centrifuge`.

import { createRequire } from "node:module";

const { root, url, code, origin, names } = JSON.parse(process.argv[2]);
const load = createRequire(`${root}/web/package.json`);
const { Centrifuge: Official } = load("centrifuge");
const { WebSocket } = load("ws");

const end = (line) => { process.stdout.write(`${line}\n`, () => process.exit(0)); };
const told = ({ code, message, reason }) => end(`${code} ${message ?? reason}`);
const tasks = [];

class Page extends WebSocket {
  constructor(address, protocols) { super(address, protocols, origin ? { origin } : {}); }
}

class Centrifuge extends Official {
  constructor(address, options = {}) {
    super(address, { websocket: Page, minReconnectDelay: 50, maxReconnectDelay: 100, ...options });
    let errors = 0;
    this.on("disconnected", told);
    this.on("error", ({ error }) => { if (error.code !== 109 || ++errors === 3) told(error); });  // it fetches a token
    tasks.push(() => this.ready());
  }
  newSubscription(channel, options) {
    const subscription = super.newSubscription(channel, options);
    subscription.on("unsubscribed", told);
    subscription.on("error", ({ error }) => told(error));
    tasks.push(() => subscription.ready());
    return subscription;
  }
}

const Async = (async () => {}).constructor;
try {
  await new Async("url", "Centrifuge", ...Object.keys(names), code)(url, Centrifuge, ...Object.values(names));
  await Promise.all(tasks.map((task) => task()));
  end("ok");
} catch (error) {
  if (error.code === undefined) end(`${error.name}: ${error.message}`);
  else if (error.code >= 100) told(error);  // else it says that the client or the subscription ended, which was told
}
