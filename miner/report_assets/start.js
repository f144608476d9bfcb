
// The parts put together, and the keys.

function keysOf({ gallery, viewer, review, help }) {
  const go = (step) => () => review.go(gallery.cursor + step());
  const acts = {
    j: go(() => 1), ArrowRight: go(() => 1),
    k: go(() => -1), ArrowLeft: go(() => -1),
    ArrowDown: go(() => (viewer.isOpen ? 1 : gallery.columns)),
    ArrowUp: go(() => -(viewer.isOpen ? 1 : gallery.columns)),
    Enter: () => (viewer.isOpen ? viewer.leave() : viewer.open()),
    " ": () => (viewer.isOpen ? viewer.leave() : viewer.open()),
    a: () => review.decide("accept", false), A: () => review.decide("accept", true),
    r: () => review.decide("reject", false), R: () => review.decide("reject", true),
    u: () => review.undo(),
    d: () => viewer.isOpen && $("difference").focus(),
    q: () => viewer.isOpen && $("question").focus(),
    b: () => viewer.isOpen && viewer.blink(),
    "+": () => viewer.isOpen && viewer.zoom.by(ZOOM_STEP),
    "=": () => viewer.isOpen && viewer.zoom.by(ZOOM_STEP),
    "-": () => viewer.isOpen && viewer.zoom.by(1 / ZOOM_STEP),
    0: () => viewer.isOpen && viewer.zoom.reset(),
    t: switchTheme,
    "?": help,
    "/": () => { if (!viewer.isOpen) { $("search").focus(); $("search").select(); } },
  };
  for (let number = 1; number <= 9; number += 1) acts[number] = () => review.sort(number);
  return acts;
}

// Decisions are for the pair that one looks at: the open one, or the card that has the focus.
const SAYING = /^[arAR1-9]$/;
// A key that is held repeats, and nobody means to decide a hundred pairs so.
const ONCE = /^[arARu1-9]$/;

function listenToKeys(acts, { viewer, arrange, gallery }) {
  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if ($("keys").open || $("name-dialog").open) return;
    if (at.id === "search" && event.key === "Escape") at.value = "";
    if (at.id === "search" && ["Enter", "Escape"].includes(event.key)) {
      event.preventDefault();
      at.blur();
      arrange();
      gallery.moveTo(0);
      gallery.focus();
      return;
    }
    if (at.closest("input, select, textarea")) return;
    const isPress = event.key === "Enter" || event.key === " ";
    if (isPress && at.closest("a, button:not(.card)")) return;
    if (event.key.startsWith("Arrow") && at.closest(".scroll, .text")) return;
    if (SAYING.test(event.key) && !viewer.isOpen && !at.closest(".card")) return;
    const act = Object.hasOwn(acts, event.key) ? acts[event.key] : null;
    if (!act) return;
    event.preventDefault();
    if (!(event.repeat && ONCE.test(event.key))) act();
  });
}

// For whoever measures: the first pair is on the screen, with both of its images.
function markFirstPaint(grid) {
  const loaded = [...grid.querySelectorAll(".cell:first-child img")].map((image) => image.decode());
  Promise.allSettled(loaded).then(() => requestAnimationFrame(() =>
    requestAnimationFrame(() => performance.mark("first pair painted"))));
}

document.addEventListener("DOMContentLoaded", () => {
  const data = readData();
  const decisions = new Decisions(data);
  const gallery = new Gallery(data, decisions, {
    opened: () => viewer.open(),
    moved: () => { if (viewer.isOpen) { viewer.show(); review.paint(); } },
  });
  const viewer = new Viewer(data, gallery);
  const review = new Review(data, decisions, gallery, viewer);

  function arrange() {
    const order = filters.listed();
    const all = numeral(data.pairs.length);
    const isAll = order.length === data.pairs.length;
    $("found").textContent = isAll ? all : `${numeral(order.length)} of ${all}`;
    $("nothing").hidden = order.length > 0;
    $("nothing").textContent = data.pairs.length
      ? "No pair matches."
      : data.nothing ?? "No pair was selected: see the counts above for where they went.";
    gallery.list(order);
  }

  const filters = new Filters(data, columnsOf(data, decisions), decisions, arrange);
  const acts = keysOf({ gallery, viewer, review, help: () => $("keys").showModal() });
  listenToKeys(acts, { viewer, arrange, gallery });
  on("theme", "click", switchTheme);
  on("help", "click", acts["?"]);
  on("keys-close", "click", () => $("keys").close());
  on("previous", "click", acts.k);
  on("next", "click", acts.j);
  on("blink", "click", acts.b);
  on("zoom-in", "click", acts["+"]);
  on("zoom-out", "click", acts["-"]);
  on("zoom-reset", "click", acts["0"]);
  on("close", "click", () => viewer.leave());

  arrange();
  const wanted = data.pairs.find((pair) => pair.pair_id === location.hash.slice(1));
  if (wanted) { gallery.show(wanted); viewer.open(); }
  markFirstPaint(gallery.grid);
});
