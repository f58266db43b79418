// What equal calls share is written once. Where another call is opened, a copy replaces the link to it; long lists of calls are filled in.
{
  const encoded = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
  globalThis.anchorOf = (path, index) => `call-${encoded(path)}-${index}`;
  // Path, index and node of the calls of an entry that are too many to be listed one by one in the page.
  globalThis.unlisted = (entry) => JSON.parse(entry.querySelector(":scope > details > .body > .where > script")?.textContent ?? "[]");
  const written = new Map([...document.querySelectorAll(".desc")].map((element) => [element.dataset.d, element]));
  globalThis.descriptionOf = (number) => written.get(number);

  globalThis.complete = (details) => {
    const body = details.querySelector(":scope > .body");
    for (const link of body.querySelectorAll(":scope > .same")) link.replaceWith(written.get(link.dataset.d).cloneNode(true));
    const label = body.querySelector("p.calls");
    if (!label) return;
    const list = document.createElement("ul");
    list.className = "calls";
    for (const [place, [path, index, node]] of unlisted(details.parentElement).entries()) {
      const item = list.appendChild(document.createElement("li"));
      if (place) item.id = anchorOf(path, index);
      const link = item.appendChild(document.createElement("a"));
      link.href = `#${encodeURIComponent(anchorOf(path, index))}`;
      link.textContent = `${path}#${index}`;
      if (node) item.append(" ", Object.assign(document.createElement("span"), { textContent: node }));
    }
    label.replaceWith(list);
  };
  // `toggle` does not bubble, but it is captured.
  document.addEventListener("toggle", (event) => { if (event.target.matches?.("details.call[open]")) complete(event.target); }, true);

  const unpacked = () => {
    const bytes = Uint8Array.from(atob(document.getElementById("report").textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
  };
  const download = document.getElementById("download");
  download.hidden = false;
  download.addEventListener("click", async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await unpacked());
    link.download = "report.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
