// What test_demo.py asks of a page: each function answers with what breaks its law.

const isVisible = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const label = (element) => `${element.localName}#${element.id}.${element.className} ${element.textContent.slice(0, 30)}`;

/** Controls and texts that are wider than the window, or stand outside it; and a page that scrolls sideways. */
function outside() {
  const width = document.documentElement.clientWidth;
  const found = document.scrollingElement.scrollWidth > width ? ["the page scrolls sideways"] : [];
  for (const element of document.querySelectorAll("button, a:not(.skip), textarea, p, h1, h2, dd, li")) {
    const { left, right, width: own } = element.getBoundingClientRect();
    if (isVisible(element) && own > 1 && (left < -1 || right > width + 1)) found.push(label(element));
  }
  return found;
}

/** Controls and landmarks without a name, ids that stand twice, and controls that nothing but a mouse can reach. */
function nameless() {
  const found = [];
  for (const element of document.querySelectorAll("button, a, textarea, nav, aside, section, [role=log], [role=switch]")) {
    const by = element.getAttribute("aria-labelledby");
    const named = by ? document.getElementById(by)?.textContent : element.ariaLabel || element.labels?.[0]?.textContent;
    const isControl = element.matches("button, a");
    if (!(named || (isControl && element.textContent)).trim()) found.push(`no name: ${label(element)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  found.push(...ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => `twice: ${id}`));
  for (const landmark of ["main", "nav", "aside", "body > header", "h1"]) {
    if (document.querySelectorAll(landmark).length !== 1) found.push(`not one ${landmark}`);
  }
  return found;
}

/** Red, green, blue of any CSS colour over white or over what is given. */
function paint(...colours) {
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
  for (const colour of colours) {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
  }
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Texts with less contrast than WCAG 2.2 AA asks for: 4.5 to 1. What cannot be operated is exempt, as there. */
function pale() {
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const isExempt = element.closest("button:disabled, .unseen, .skip, .same .who, svg, script, [data-state=cut] #here");
    if (!hasText || isExempt || !isVisible(element)) continue;
    const grounds = [];
    for (let one = element; one; one = one.parentElement) grounds.unshift(getComputedStyle(one).backgroundColor);
    const ground = luminance(paint("white", ...grounds));
    const ink = luminance(paint("white", ...grounds, getComputedStyle(element).color));
    const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)}: ${label(element)}`);
  }
  return found;
}
