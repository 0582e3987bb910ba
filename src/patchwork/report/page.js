/* The page works without this script; it adds two things.

   Theme: the button with [data-theme-button] switches between light and dark.

   Stepper: an element with [data-stepper] holds panels, elements with [data-panel="label"], all of which are shown
   without the script. With it, one is shown, chosen by tabs: one tab stop, arrow keys, Home and End.

   Scatter: an element with [data-scatter="text text …"] holds maps, <svg tabindex="0"> whose paths with [data-at="0 5 …"]
   mark points by `M x y h0`, and an <img data-sprite="14 32"> of thumbnails: pixels of a side, and how many are in a row.
   A point under the pointer, or reached by arrow keys, shows its thumbnail and its text; Escape hides them. */
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");

  const button = document.querySelector("[data-theme-button]");
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  label();

  const keys = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  document.querySelectorAll("[data-stepper]").forEach((stepper, number) => {
    const panels = [...stepper.querySelectorAll("[data-panel]")].filter(
      (panel) => panel.parentElement.closest("[data-stepper]") === stepper);
    const tabs = document.createElement("div");
    tabs.className = "tabs";
    tabs.setAttribute("role", "tablist");
    tabs.setAttribute("aria-label", stepper.dataset.stepper);
    const show = (index, focus) => panels.forEach((panel, other) => {
      const tab = tabs.children[other];
      panel.hidden = other !== index;
      tab.setAttribute("aria-selected", String(other === index));
      tab.tabIndex = other === index ? 0 : -1;
      if (focus && other === index) tab.focus();
    });
    panels.forEach((panel, index) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.textContent = panel.dataset.panel;
      tab.id = `tab-${number}-${index}`;
      panel.id ||= `panel-${number}-${index}`;
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      tab.addEventListener("click", () => show(index));
      tab.addEventListener("keydown", (event) => {
        const step = keys[event.key];
        const target = step ? (index + step + panels.length) % panels.length
          : event.key === "Home" ? 0 : event.key === "End" ? panels.length - 1 : undefined;
        if (target === undefined) return;
        event.preventDefault();
        show(target, true);
      });
      tabs.append(tab);
    });
    stepper.prepend(tabs);
    show(0);
  });

  const directions = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  document.querySelectorAll("[data-scatter]").forEach((scatter) => {
    const texts = scatter.dataset.scatter.split(" ");
    const sprite = scatter.querySelector("[data-sprite]");
    const [size, columns] = sprite.dataset.sprite.split(" ").map(Number);
    const scale = 4;
    const thumbnail = document.createElement("span");
    thumbnail.className = "thumbnail";
    Object.assign(thumbnail.style, {
      width: `${size * scale}px`, height: `${size * scale}px`, backgroundImage: `url(${sprite.src})`,
      backgroundSize: `${columns * size * scale}px auto` });
    const words = document.createElement("span");
    words.setAttribute("aria-live", "polite");
    const inspector = document.createElement("div");
    inspector.className = "inspector";
    inspector.append(thumbnail, words);
    scatter.append(inspector);
    scatter.querySelectorAll("svg[tabindex]").forEach((map) => {
      const points = [...map.querySelectorAll("path[data-at]")].flatMap((path) => {
        const places = [...path.getAttribute("d").matchAll(/M([\d.]+) ([\d.]+)/g)];
        return path.dataset.at.split(" ").map((at, index) => [Number(at), +places[index][1], +places[index][2]]);
      });
      const mark = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      mark.setAttribute("r", 8);
      mark.setAttribute("class", "mark");
      let chosen = null;
      const hide = () => { mark.remove(); chosen = null; inspector.classList.remove("shown"); };
      const choose = (point) => {
        chosen = point;
        const [at, x, y] = point;
        mark.setAttribute("cx", x);
        mark.setAttribute("cy", y);
        map.append(mark);
        thumbnail.style.backgroundPosition =
          `${-(at % columns) * size * scale}px ${-Math.floor(at / columns) * size * scale}px`;
        const [label, sample, cluster] = texts[at].split("|");
        words.textContent = `${decodeURIComponent(label)}, sample ${sample}, ` +
          (cluster === "-1" ? "in no cluster" : `cluster ${cluster}`);
        inspector.classList.add("shown");
      };
      const nearest = (cost) => {
        let best = null, lowest = Infinity;
        for (const point of points) {
          const value = cost(point);
          if (value < lowest) [best, lowest] = [point, value];
        }
        return best;
      };
      map.addEventListener("pointermove", (event) => {
        const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
        const point = nearest(([, x, y]) => Math.hypot(x - place.x, y - place.y));
        if (Math.hypot(point[1] - place.x, point[2] - place.y) < 15) choose(point); else hide();
      });
      map.addEventListener("pointerleave", hide);
      map.addEventListener("focus", () => choose(chosen ?? points[0]));
      map.addEventListener("blur", hide);
      map.addEventListener("keydown", (event) => {
        if (event.key === "Escape") return hide();
        const direction = directions[event.key];
        if (!direction) return;
        event.preventDefault();
        const [, x, y] = chosen ?? points[0];
        const next = nearest(([, otherX, otherY]) => {
          const along = (otherX - x) * direction[0] + (otherY - y) * direction[1];
          const across = Math.abs((otherX - x) * direction[1]) + Math.abs((otherY - y) * direction[0]);
          return along > 0.5 ? along + 3 * across : Infinity;
        });
        if (next) choose(next);
      });
    });
  });
})();
