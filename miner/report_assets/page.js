"use strict";

// Parts of a page. Text from the data reaches it through textContent alone.

const root = document.documentElement;
const $ = (id) => document.getElementById(id);
const on = (id, type, action) => $(id).addEventListener(type, action);
const numeral = (number) => number.toLocaleString("en");

// A browser may refuse to remember anything, as in a private window; then nothing is remembered.
const memory = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); return true; } catch { return false; } },
  names() { try { return Object.keys(localStorage); } catch { return []; } },
};

const chosenTheme = memory.get("blindpairs-theme");
if (["light", "dark"].includes(chosenTheme)) root.dataset.theme = chosenTheme;

function switchTheme() {
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (systemIsDark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  memory.set("blindpairs-theme", root.dataset.theme);
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function option(value, text) {
  const made = element("option", "", text);
  made.value = value;
  return made;
}

// Control characters are named, and so are those that would turn the text around them.
function visible(text) {
  return text.replace(
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (one) => `⟨U+${one.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
  );
}

function textOf(className, text, otherwise) {
  const made = element("div", className);
  made.dir = "auto";
  made.textContent = text ? visible(text) : otherwise;
  if (!text) made.classList.add("none");
  return made;
}
