
// Which pairs are listed, and in what order.

const TITLES = { rank: "by rank", clip_cos: "by CLIP cosine", dino_cos: "by DINO cosine", gap: "by gap" };
const HIGHEST_FIRST = ["clip_cos", "gap", "decided_at"];

const TESTS = {
  contains: (value, wanted) => String(value ?? "").toLowerCase().includes(wanted.toLowerCase()),
  "does not contain": (value, wanted) => !TESTS.contains(value, wanted),
  is: (value, wanted) => String(value ?? "").toLowerCase() === wanted.toLowerCase(),
  "is not": (value, wanted) => !TESTS.is(value, wanted),
  "is at least": (value, wanted) => value !== null && value >= Number(wanted),
  "is at most": (value, wanted) => value !== null && value <= Number(wanted),
  equals: (value, wanted) => value !== null && value === Number(wanted),
  "is empty": (value) => value === null || value === "",
  "is not empty": (value) => !TESTS["is empty"](value),
};
const TESTS_OF_NUMBERS = ["is at least", "is at most", "equals", "is empty", "is not empty"];
const TESTS_OF_TEXTS =
  ["contains", "does not contain", "is", "is not", "is empty", "is not empty"];

function columnOptions(columns, title) {
  const groups = new Map();
  for (const { group, name } of columns) {
    if (!groups.has(group)) {
      const made = element("optgroup");
      made.label = group;
      groups.set(group, made);
    }
    groups.get(group).append(option(name, title(name)));
  }
  return [...groups.values()];
}

class Filters {
  constructor(data, columns, decisions, changed) {
    Object.assign(this, { data, columns, decisions, changed, isTurned: false, haystacks: null });
    $("order").replaceChildren(...columnOptions(columns, (name) => TITLES[name] ?? `by ${name}`));
    on("search", "input", changed);
    on("borderline", "change", changed);
    on("show", "change", changed);
    on("order", "change", () => { this.isTurned = false; this.pointArrow(); changed(); });
    on("direction", "click", () => { this.isTurned = !this.isTurned; this.pointArrow(); changed(); });
    on("add-filter", "click", () => this.add());
    this.pointArrow();
  }

  columnOf(name) {
    return this.columns.find((column) => column.name === name);
  }

  // ---- conditions on columns, each a line of the page

  add() {
    const column = element("select"), test = element("select"), value = element("input");
    const remove = element("button", "", "×");
    column.append(...columnOptions(this.columns, (name) => name));
    column.setAttribute("aria-label", "Column");
    test.setAttribute("aria-label", "Condition");
    value.setAttribute("aria-label", "Value");
    remove.setAttribute("aria-label", "Remove this filter");
    remove.type = "button";
    const made = element("div", "condition", column, test, value, remove);
    const choose = () => {
      const { isNumber } = this.columnOf(column.value);
      test.replaceChildren(
        ...(isNumber ? TESTS_OF_NUMBERS : TESTS_OF_TEXTS).map((name) => option(name, name)));
      value.value = "";
      value.type = isNumber ? "number" : "text";
      value.step = "any";
      this.changed();
    };
    column.addEventListener("change", choose);
    test.addEventListener("change", this.changed);
    value.addEventListener("input", this.changed);
    remove.addEventListener("click", () => { made.remove(); this.changed(); });
    $("conditions").append(made);
    column.value = "caption_1";
    choose();
    column.focus();
  }

  conditions() {
    return [...$("conditions").children].flatMap((line) => {
      const [column, test, value] = [...line.children];
      const needsValue = !test.value.endsWith("empty");
      value.hidden = !needsValue;
      if (needsValue && !value.value) return [];
      const { valueOf } = this.columnOf(column.value);
      return [(pair) => TESTS[test.value](valueOf(pair), value.value)];
    });
  }

  // ---- all together

  haystackOf(pair) {
    const words = pair.images.flatMap((image) =>
      [image.caption, image.label, image.image_id, image.sha256, image.url]);
    return [pair.pair_id, ...words].filter(Boolean).join("\n").toLowerCase();
  }

  isShown(pair) {
    const seen = this.decisions.see(pair);
    return {
      all: true,
      undecided: !seen.decision,
      accepted: seen.decision === "accept",
      rejected: seen.decision === "reject",
      unsorted: seen.decision === "accept" && !seen.pattern,
      suggested: seen.offered.length > 0,
    }[$("show").value];
  }

  listed() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) this.haystacks ??= this.data.pairs.map((pair) => this.haystackOf(pair));
    const conditions = this.conditions(), onlyBorderline = $("borderline").checked;
    const showsAll = $("show").value === "all";
    const found = this.data.pairs.filter((pair) =>
      (!onlyBorderline || pair.borderline)
      && words.every((word) => this.haystacks[pair.index].includes(word))
      && (showsAll || this.isShown(pair))
      && conditions.every((holds) => holds(pair)));
    return this.sorted(found).map((pair) => pair.index);
  }

  sorted(found) {
    const { name, isNumber, valueOf } = this.columnOf($("order").value);
    const sign = HIGHEST_FIRST.includes(name) === this.isTurned ? 1 : -1;
    const compare = isNumber ? (a, b) => a - b : (a, b) => (a < b ? -1 : Number(a > b));
    const isEmpty = TESTS["is empty"];
    return found
      .map((pair) => ({ pair, value: valueOf(pair) }))
      .sort((a, b) =>
        // What is empty comes last, whichever way the order goes.
        isEmpty(a.value) - isEmpty(b.value)
        || (isEmpty(a.value) ? 0 : sign * compare(a.value, b.value))
        || a.pair.rank - b.pair.rank)
      .map(({ pair }) => pair);
  }

  pointArrow() {
    const isDown = HIGHEST_FIRST.includes($("order").value) !== this.isTurned;
    $("direction").textContent = isDown ? "↓" : "↑";
    $("direction").setAttribute(
      "aria-label", isDown ? "Highest first; turn the order" : "Lowest first; turn the order");
  }
}
