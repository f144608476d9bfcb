"use strict";

// Text from the data reaches the page through textContent alone.

const root = document.documentElement;
const GAP = 18;
const CARD_WIDTH = 380;
const TEXT_HEIGHT = 124;
const BLINK_MS = 600;

const remembered = {
  get() { try { return localStorage.getItem("blindpairs-theme"); } catch { return null; } },
  set(theme) { try { localStorage.setItem("blindpairs-theme", theme); } catch { /* not here */ } },
};
if (["light", "dark"].includes(remembered.get())) root.dataset.theme = remembered.get();

function switchTheme() {
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (systemIsDark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  remembered.set(root.dataset.theme);
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
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

function rowsOf({ columns, rows }) {
  return rows.map((row) => {
    const made = {};
    columns.forEach((name, at) => { made[name] = row[at]; });
    return made;
  });
}

const originalOf = (image) => `images/${image.sha256}.${image.extension}`;
const viewOf = (image) =>
  image.has_view ? `images/${image.sha256}.view.png` : originalOf(image);
const thumbOf = (image) =>
  image.has_thumb ? `thumbs/${image.sha256}.jpg` : originalOf(image);

document.addEventListener("DOMContentLoaded", () => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const images = rowsOf(data.images);
  const pairs = rowsOf(data.pairs);
  const grid = $("grid"), viewer = $("viewer"), stage = $("stage");
  let order = pairs.map((_, index) => index);
  let cursor = 0;
  let columns = 1, cardWidth = 0, rowHeight = 0;
  let blinking = 0;
  const cells = new Map();

  // ---- one pair

  function meter(kind, name, cosine, threshold) {
    const fill = element("i"), mark = element("u"), value = element("b");
    fill.style.width = `${Math.max(0, cosine) * 100}%`;
    mark.style.left = `calc(${Math.max(0, threshold) * 100}% - 1px)`;
    value.textContent = cosine.toFixed(3);
    const made = element("div", `meter meter-${kind}`, name, element("span", "rail", fill, mark), value);
    made.title = `${name} cosine ${cosine}, threshold ${threshold}`;
    return made;
  }

  function meters(pair) {
    return [
      meter("clip", "CLIP", pair.clip_cos, data.clip_above),
      meter("dino", "DINO", pair.dino_cos, data.dino_below),
    ];
  }

  function imagesOf(pair) {
    return [images[pair.image_1], images[pair.image_2]];
  }

  function frame(image, which, { whole = false, eager = false }) {
    const made = element("span", "frame");
    if (!image.extension) {
      made.append(element("span", "missing", whole ? visible(image.note) : "image not at hand"));
      return made;
    }
    const picture = element("img");
    picture.decoding = "async";
    picture.loading = eager ? "eager" : "lazy";
    const said = image.caption || image.label;
    picture.alt = `Image ${which}: ${said ? visible(said).slice(0, 300) : "no caption"}`;
    picture.src = whole ? viewOf(image) : thumbOf(image);
    made.append(picture);
    return made;
  }

  function nameOf(pair) {
    const said = imagesOf(pair).map((image) => image.caption || image.label || "no caption");
    return `Pair ${pair.rank}, CLIP ${pair.clip_cos.toFixed(3)}, DINO ${pair.dino_cos.toFixed(3)}: `
      + said.map((text) => visible(text).slice(0, 120)).join(" and ");
  }

  function rankLine(pair) {
    const made = element("div", "rank", `#${pair.rank}`, element("span", "", `gap ${pair.gap.toFixed(3)}`));
    if (pair.borderline) made.append(element("span", "chip", "borderline"));
    return made;
  }

  function cardOf(position) {
    const pair = pairs[order[position]];
    const [one, two] = imagesOf(pair);
    const eager = position < columns;
    const card = element("button", "card");
    card.type = "button";
    card.tabIndex = position === cursor ? 0 : -1;
    card.setAttribute("aria-label", nameOf(pair));
    card.append(
      element("span", "images", frame(one, 1, { eager }), frame(two, 2, { eager })),
      element(
        "span", "below",
        ...[one, two].map((image) => textOf("caption", image.caption || image.label, "no caption")),
        ...meters(pair),
        rankLine(pair),
      ),
    );
    card.addEventListener("click", () => { moveTo(position); open(); });
    const cell = element("div", "cell", card);
    cell.role = "listitem";
    cell.ariaPosInSet = position + 1;
    cell.ariaSetSize = order.length;
    return cell;
  }

  // ---- the list: only the cards near the window are in the page

  function measure() {
    const width = grid.clientWidth;
    columns = Math.max(1, Math.floor((width + GAP) / (CARD_WIDTH + GAP)));
    cardWidth = Math.floor((width - GAP * (columns - 1)) / columns);
    rowHeight = Math.round(cardWidth / 2) + TEXT_HEIGHT + GAP;
    grid.style.height = `${Math.ceil(order.length / columns) * rowHeight}px`;
    clear();
  }

  function clear() {
    for (const cell of cells.values()) cell.remove();
    cells.clear();
  }

  function paint() {
    const top = -grid.getBoundingClientRect().top, spare = innerHeight;
    const first = Math.max(0, Math.floor((top - spare) / rowHeight)) * columns;
    const last = Math.min(order.length, Math.ceil((top + innerHeight + spare) / rowHeight) * columns);
    for (const [position, cell] of cells) {
      if (position >= first && position < last) continue;
      cell.remove();
      cells.delete(position);
    }
    for (let position = first; position < last; position += 1) {
      if (cells.has(position)) continue;
      const cell = cardOf(position);
      const column = position % columns, row = Math.floor(position / columns);
      cell.style.width = `${cardWidth}px`;
      cell.style.height = `${rowHeight - GAP}px`;
      cell.style.transform = `translate(${column * (cardWidth + GAP)}px, ${row * rowHeight}px)`;
      cells.set(position, cell);
      grid.append(cell);
    }
  }

  function moveTo(position) {
    if (!order.length) return;
    cells.get(cursor)?.firstChild.setAttribute("tabindex", "-1");
    cursor = Math.min(order.length - 1, Math.max(0, position));
    const top = grid.getBoundingClientRect().top + Math.floor(cursor / columns) * rowHeight;
    const room = $("pairs").querySelector(".bar").offsetHeight + 10;
    if (top < room) scrollBy(0, top - room);
    else if (top + rowHeight > innerHeight) scrollBy(0, top + rowHeight - innerHeight);
    paint();
    const card = cells.get(cursor).firstChild;
    card.tabIndex = 0;
    if (viewer.open) show();
    else card.focus({ preventScroll: true, focusVisible: true });
  }

  // ---- search and order

  let haystacks = null;

  function haystackOf(pair) {
    const words = imagesOf(pair).flatMap((image) =>
      [image.caption, image.label, image.image_id, image.sha256, image.url]);
    return [pair.pair_id, ...words].filter(Boolean).join("\n").toLowerCase();
  }

  function arrange() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) haystacks ??= pairs.map(haystackOf);
    order = pairs.map((_, index) => index).filter((index) =>
      (!$("borderline").checked || pairs[index].borderline)
      && words.every((word) => haystacks[index].includes(word)));
    const by = $("order").value, sign = ["rank", "dino_cos"].includes(by) ? 1 : -1;
    order.sort((a, b) => sign * (pairs[a][by] - pairs[b][by]) || pairs[a].rank - pairs[b].rank);
    cursor = 0;
    const all = pairs.length.toLocaleString("en");
    $("found").textContent = order.length === pairs.length
      ? all : `${order.length.toLocaleString("en")} of ${all}`;
    $("nothing").hidden = order.length > 0;
    $("nothing").textContent = pairs.length
      ? "No pair matches." : "No pair was selected: see the counts above for where they went.";
    measure();
    paint();
  }

  // ---- the viewer

  function row(name, ...said) {
    return element("div", "", element("dt", "", name), element("dd", "", ...said));
  }

  function linkTo(address, text) {
    const link = element("a", "", text);
    link.href = address;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    return link;
  }

  function factsOf(image, copies) {
    const list = element("dl", "");
    if (image.label && image.caption) list.append(row("label", visible(image.label)));
    if (image.url) {
      const text = visible(image.url);
      list.append(row("source", image.is_link ? linkTo(image.url, text) : text));
    }
    const size = `${image.width} × ${image.height} ${image.format}, `
      + `${image.num_bytes.toLocaleString("en")} bytes`;
    list.append(row("original", ...(image.extension ? [linkTo(originalOf(image), size)] : [size])));
    list.append(
      row("image_id", visible(image.image_id)),
      row("shard", visible(data.shards[image.shard])),
      row("place", `${visible(image.member)}, ${image.num_bytes} bytes from ${image.offset}`),
      row("sha256", element("code", "", image.sha256)),
      row("copies", copies ? `stands for ${copies} more` : "none"),
    );
    const made = element("section", "", textOf("text", image.caption || image.label, "no caption"));
    if (image.note) made.append(element("p", "warning", visible(image.note)));
    made.append(list);
    return made;
  }

  function show() {
    const pair = pairs[order[cursor]];
    const both = imagesOf(pair);
    stage.replaceChildren(...both.map((image, side) => {
      const made = frame(image, side + 1, { whole: true, eager: true });
      made.append(element("span", "which", `${side + 1}`));
      return made;
    }));
    turn(0);
    const identity = element("code", "", pair.pair_id);
    const line = element("p", "pair", `rank ${pair.rank} · gap ${pair.gap.toFixed(3)} · `, identity);
    if (pair.borderline) line.append(" · ", element("span", "chip", "borderline"));
    $("facts").replaceChildren(
      element("div", "meters", ...meters(pair)),
      line,
      ...both.map((image, side) => factsOf(image, pair[`duplicates_${side + 1}`])),
    );
    const [now, all] = [cursor + 1, order.length].map((number) => number.toLocaleString("en"));
    $("place").textContent = `${now} of ${all}`;
    $("previous").disabled = cursor === 0;
    $("next").disabled = cursor === order.length - 1;
    history.replaceState(null, "", `#${pair.pair_id}`);
  }

  function open() {
    if (!order.length) return;
    show();
    if (!viewer.open) viewer.showModal();
    viewer.scrollTop = 0;
  }

  // Blinking puts both images in one place, by turns, so that a difference leaps to the eye.
  function turn(side) {
    [...stage.children].forEach((made, at) => made.classList.toggle("behind", at !== side));
  }

  function blink() {
    const on = !blinking;
    clearInterval(blinking);
    let side = 0;
    blinking = on ? setInterval(() => turn((side = 1 - side)), BLINK_MS) : 0;
    stage.classList.toggle("blinking", on);
    $("blink").setAttribute("aria-pressed", String(on));
    turn(0);
  }

  // The event comes late, so whoever presses a key meanwhile is at the card already.
  function leave() {
    viewer.close();
    cells.get(cursor)?.firstChild.focus({ preventScroll: true });
  }

  viewer.addEventListener("close", () => {
    if (blinking) blink();
    history.replaceState(null, "", "#");
    cells.get(cursor)?.firstChild.focus({ preventScroll: true });
  });

  // ---- keys and buttons

  const actions = {
    j: () => moveTo(cursor + 1), ArrowRight: () => moveTo(cursor + 1),
    k: () => moveTo(cursor - 1), ArrowLeft: () => moveTo(cursor - 1),
    ArrowDown: () => moveTo(cursor + (viewer.open ? 1 : columns)),
    ArrowUp: () => moveTo(cursor - (viewer.open ? 1 : columns)),
    Enter: () => (viewer.open ? leave() : open()),
    " ": () => (viewer.open ? leave() : open()),
    b: () => viewer.open && blink(),
    t: switchTheme,
    "?": () => $("keys").showModal(),
    "/": () => { if (!viewer.open) { $("search").focus(); $("search").select(); } },
  };

  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (at.id === "search" && event.key === "Escape") at.value = "";
    if (at.id === "search" && ["Enter", "Escape"].includes(event.key)) {
      event.preventDefault();
      at.blur();
      arrange();
      moveTo(0);
      return;
    }
    if (at.closest("input, select, textarea")) return;
    const isPress = event.key === "Enter" || event.key === " ";
    if (isPress && at.closest("a, button:not(.card)")) return;
    if (event.key.startsWith("Arrow") && at.closest(".scroll, .text")) return;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  const on = (id, type, action) => $(id).addEventListener(type, action);
  on("theme", "click", switchTheme);
  on("help", "click", actions["?"]);
  on("keys-close", "click", () => $("keys").close());
  on("previous", "click", actions.k);
  on("next", "click", actions.j);
  on("blink", "click", blink);
  on("close", "click", leave);
  on("search", "input", arrange);
  on("borderline", "change", arrange);
  on("order", "change", arrange);
  addEventListener("scroll", paint, { passive: true });
  new ResizeObserver(() => { measure(); paint(); }).observe(grid.parentElement);

  arrange();
  const wanted = pairs.findIndex((pair) => pair.pair_id === location.hash.slice(1));
  if (wanted >= 0) { moveTo(order.indexOf(wanted)); open(); }

  // For whoever measures: the first pair is on the screen, with both of its images.
  const loaded = [...grid.querySelectorAll(".cell:first-child img")].map((image) => image.decode());
  Promise.allSettled(loaded).then(() => requestAnimationFrame(() =>
    requestAnimationFrame(() => performance.mark("first pair painted"))));
});
