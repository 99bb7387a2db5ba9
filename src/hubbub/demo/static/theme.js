// Light or dark: the system's choice until somebody presses the button, and from then on theirs.
// A classic script in the head, so that the page never shows in the wrong colours first.
"use strict";

{
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "")) === "dark";
  if (localStorage.theme) root.dataset.theme = localStorage.theme;

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const draw = () => button.setAttribute("aria-pressed", isDark());
    button.addEventListener("click", () => {
      root.dataset.theme = localStorage.theme = isDark() ? "light" : "dark";
      draw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
  });
}
