// Writes src/hubbub/demo/static/centrifuge.js: the official client as one classic script, global `Centrifuge`.
//
// The package ships that file already built and minified, as its authors test and publish it, so nothing is
// bundled again here. Two things change: the licences that the minifier dropped go back on top (`events` is
// compiled into the script), and the pointer to a source map that we do not serve goes.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

const target = new URL("../src/hubbub/demo/static/centrifuge.js", import.meta.url);
const read = (path) => readFileSync(new URL(`node_modules/${path}`, import.meta.url), "utf8");

const notices = ["centrifuge", "events"].map((name) => {
  const { version } = JSON.parse(read(`${name}/package.json`));
  return `${name} ${version}\n\n${read(`${name}/LICENSE`).trim()}`;
});
const script = read("centrifuge/dist/centrifuge.js").replace(/^\/\/# sourceMappingURL=.*$/m, "").trim();

mkdirSync(new URL(".", target), { recursive: true });
writeFileSync(target, `/*!\n${notices.join("\n\n")}\n*/\n${script}\n`);
