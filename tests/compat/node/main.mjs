// The driver behind pipes: a line of JSON on stdin is a call, a line on stdout an answer or an event.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

import "./driver.js";

const require = createRequire(new URL("../../../web/package.json", import.meta.url));
const { Centrifuge } = require("centrifuge");
const { Centrifuge: ProtobufCentrifuge } = require("centrifuge/build/protobuf");
const websocket = require("ws");

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const makeClient = (url, protobuf, options) =>
  new (protobuf ? ProtobufCentrifuge : Centrifuge)(url, { ...options, websocket });

const call = globalThis.makeDriver(makeClient, (event) => say({ event }));

for await (const line of createInterface({ input: process.stdin })) {
  const { id, operation, args } = JSON.parse(line);
  call(operation, args).then((answer) => say({ id, ...answer }));
}
process.exit(0);
