// Light and dark: the system's choice, until the button is used.
"use strict";
{
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = (value) => {
    // A page in a notebook's frame, or opened from a disk, may not be allowed to remember anything.
    try { return value === undefined ? localStorage.getItem("fxkernels-theme") : localStorage.setItem("fxkernels-theme", value); } catch { return null; }
  };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  const kept = remembered();
  if (kept) root.dataset.theme = kept;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; remembered(root.dataset.theme); show(); });
  system.addEventListener("change", show);
  button.hidden = false;
  show();
}
