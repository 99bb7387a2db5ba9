// The driver in a page: Python calls `call`, and gets events through `emit`, which Playwright puts here.

"use strict";

globalThis.call = globalThis.makeDriver(
  (url, protobuf, options) => new globalThis.Centrifuge(url, options),
  (event) => globalThis.emit(event),
);
