// Messages a second, as a number and as one bar for each of the last seconds.

const SECONDS = 40;
const WINDOW = 3; // seconds that the number is the mean of
const SVG = "http://www.w3.org/2000/svg";

export class Rate {
  #seconds = Array.from({ length: SECONDS }, () => ({ live: 0, missed: 0 }));

  constructor(label, drawing) {
    this.label = label;
    this.bars = this.#seconds.map((_, index) => {
      const bar = document.createElementNS(SVG, "rect");
      bar.setAttribute("x", index * 3);
      bar.setAttribute("width", 2);
      drawing.append(bar);
      return bar;
    });
    this.#draw();
    setInterval(() => this.#tick(), 1000);
  }

  add(kind) {
    this.#seconds.at(-1)[kind] += 1;
  }

  #tick() {
    const isStill = this.#seconds.every(({ live, missed }) => live + missed === 0);
    if (!isStill) this.#draw();
    this.#seconds.shift();
    this.#seconds.push({ live: 0, missed: 0 });
  }

  #draw() {
    const sums = this.#seconds.map(({ live, missed }) => live + missed);
    const most = Math.max(4, ...sums);
    sums.forEach((sum, index) => {
      const height = Math.max(1.5, (28 * sum) / most);
      this.bars[index].setAttribute("y", 28 - height);
      this.bars[index].setAttribute("height", height);
      this.bars[index].setAttribute("class", this.#seconds[index].missed ? "missed" : sum ? "live" : "");
    });
    const mean = sums.slice(-WINDOW).reduce((a, b) => a + b, 0) / WINDOW;
    this.label.textContent = mean < 10 ? mean.toFixed(1).replace(".0", "") : Math.round(mean);
  }
}
