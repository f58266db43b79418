// The address of a call, `#call-<path>-<index>`: it opens the call and all modules around it, and shows which one is meant.
{
  // The entry of a call in a long list that has not been filled in yet.
  const foldOf = (anchor) =>
    [...document.querySelectorAll(".entry")].find((entry) => unlisted(entry).some(([path, index]) => anchorOf(path, index) === anchor));
  const show = () => {
    for (const element of document.querySelectorAll(".here")) element.classList.remove("here");
    if (!location.hash.startsWith("#call-")) return;
    let anchor;
    try { anchor = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    let target = document.getElementById(anchor);
    const details = target?.closest("details.call") ?? foldOf(anchor)?.querySelector("details.call");
    if (!details) return;
    clearFilters();
    details.open = true;
    complete(details);
    for (let around = details.parentElement?.closest("details"); around; around = around.parentElement?.closest("details")) around.open = true;
    target = document.getElementById(anchor);
    details.classList.add("here");
    if (target !== details) target.classList.add("here");
    const summary = details.querySelector("summary");
    details.scrollIntoView({ block: "start" });
    if (target !== details) target.parentElement.scrollTop = target.offsetTop - target.parentElement.offsetTop;
    summary.focus({ preventScroll: true });
  };
  addEventListener("hashchange", show);
  // Not earlier: the browser itself goes to the address when it has loaded the page, and takes the focus away.
  addEventListener("load", show);
}
