/* The page works without this script; it adds two things.

   Theme: the button with [data-theme-button] switches between light and dark.

   Stepper: an element with [data-stepper] holds panels, elements with [data-panel="label"], all of which are shown
   without the script. With it, one is shown, chosen by tabs: one tab stop, arrow keys, Home and End. */
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
})();
