// What equal calls share is written once. Where another call is opened, a copy takes the place of the link to it; long lists of calls are filled in.
{
  const encoded = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
  let report;
  globalThis.reportData = () => (report ??= JSON.parse(document.getElementById("report").textContent));
  globalThis.anchorOf = (call) => `call-${encoded(call.path)}-${call.index ?? 0}`;
  const written = new Map([...document.querySelectorAll(".desc")].map((element) => [element.dataset.d, element]));
  globalThis.descriptionOf = (number) => written.get(number);

  globalThis.complete = (details) => {
    const body = details.querySelector(":scope > .body");
    for (const link of body.querySelectorAll(":scope > .same")) link.replaceWith(written.get(link.dataset.d).cloneNode(true));
    const numbers = details.parentElement.dataset.calls;
    const label = body.querySelector("p.calls");
    if (!numbers || !label) return;
    const list = document.createElement("ul");
    list.className = "calls";
    for (const [place, number] of numbers.split(" ").entries()) {
      const call = reportData().calls[number];
      const item = list.appendChild(document.createElement("li"));
      if (place) item.id = anchorOf(call);
      const link = item.appendChild(document.createElement("a"));
      link.href = `#${encodeURIComponent(anchorOf(call))}`;
      link.textContent = `${call.path}#${call.index ?? 0}`;
      const node = call.decisions.at(-1).node;
      if (node) item.append(" ", Object.assign(document.createElement("span"), { textContent: node }));
    }
    label.replaceWith(list);
  };
  // `toggle` does not bubble, but it is captured.
  document.addEventListener("toggle", (event) => { if (event.target.matches?.("details.call[open]")) complete(event.target); }, true);

  const download = document.getElementById("download");
  download.hidden = false;
  download.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(reportData(), null, 1)], { type: "application/json" }));
    link.download = "report.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
