
// The reviewer's side: accept, reject, pattern, words; who says so, and how much is done.

class Review {
  constructor(data, decisions, gallery, viewer) {
    Object.assign(this, { data, decisions, gallery, viewer, waiting: null });
    this.saver = isServed() ? new Saver(decisions, () => this.paintProgress()) : null;
    decisions.listeners.push((pair) => {
      gallery.repaint(pair);
      this.paintProgress();
      if (viewer.isOpen) this.paint();
    });
    this.makePatterns();
    this.listenToTexts();
    this.listenToName();
    on("accept", "click", (event) => this.decide("accept", event.shiftKey));
    on("reject", "click", (event) => this.decide("reject", event.shiftKey));
    on("undo", "click", () => this.undo());
    on("download", "click", () => download(decisions));
    this.paintProgress();
  }

  makePatterns() {
    $("patterns").append(...Object.entries(this.data.patterns).map(([number, pattern]) => {
      const made = element("button", "", element("kbd", "", number), pattern.folder);
      made.type = "button";
      made.title = pattern.name;
      made.dataset.pattern = number;
      made.addEventListener("click", () => this.sort(Number(number)));
      return made;
    }));
  }

  // ---- who says so

  listenToName() {
    on("who", "click", () => this.ask(() => {}));
    on("name-form", "submit", (event) => {
      event.preventDefault();
      const name = $("name").value.trim(), { waiting } = this;
      $("name-fault").hidden = REVIEWER.test(name);
      if (!REVIEWER.test(name)) return;
      this.waiting = null;
      $("name-dialog").close();
      if (name !== this.decisions.reviewer) this.decisions.call(name);
      waiting?.();
    });
    on("name-dialog", "close", () => {
      this.waiting = null;
      if (!this.viewer.isOpen) this.gallery.focus();
    });
  }

  ask(then) {
    this.waiting = then;
    $("name").value = this.decisions.reviewer;
    $("name-fault").hidden = true;
    $("name-dialog").showModal();
  }

  // Nothing is said by nobody: whoever has no name yet is asked, and then it is done.
  byName(action) {
    if (!this.gallery.order.length) return;
    if (this.decisions.reviewer) action();
    else this.ask(action);
  }

  // ---- what is said

  decide(outcome, stays) {
    this.byName(() => {
      const { pair, cursor } = this.gallery;
      if (outcome === "accept") this.decisions.accept(pair);
      else this.decisions.change(pair, { decision: "reject" });
      if (!stays) this.go(cursor + 1);
    });
  }

  sort(number) {
    this.byName(() => {
      const { pair } = this.gallery;
      const seen = this.decisions.see(pair);
      const isAgain = seen.pattern === number && !seen.offered.includes("pattern");
      this.decisions.change(pair, { pattern: isAgain ? null : number });
    });
  }

  undo() {
    const pair = this.decisions.undo();
    if (!pair) return;
    this.gallery.show(pair);
    if (!this.viewer.isOpen) this.gallery.focus();
  }

  go(position) {
    this.gallery.moveTo(position);
    if (!this.viewer.isOpen) this.gallery.focus();
  }

  listenToTexts() {
    const stage = $("stage");
    TEXTS.forEach((name, at) => {
      const field = $(name);
      field.addEventListener("focus", () => {
        if (!this.decisions.reviewer) this.ask(() => field.focus());
      });
      field.addEventListener("input", () => {
        if (!this.decisions.reviewer) return;
        this.decisions.change(this.gallery.pair, { [name]: field.value }, { goesOn: true });
      });
      field.addEventListener("keydown", (event) => {
        if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
        event.preventDefault();
        event.stopPropagation();
        const next = TEXTS[at + 1];
        if (event.key === "Enter" && next) $(next).focus();
        else stage.focus();
      });
    });
  }

  // ---- what is seen of it

  paint() {
    const seen = this.decisions.see(this.gallery.pair);
    $("accept").setAttribute("aria-pressed", String(seen.decision === "accept"));
    $("reject").setAttribute("aria-pressed", String(seen.decision === "reject"));
    for (const button of $("patterns").children) {
      const isThis = Number(button.dataset.pattern) === seen.pattern;
      const isOffered = isThis && seen.offered.includes("pattern");
      button.setAttribute("aria-pressed", String(isThis && !isOffered));
      button.classList.toggle("offered", isOffered);
    }
    for (const name of TEXTS) {
      const field = $(name);
      // Writing the same value would move the caret.
      if (field.value !== seen[name]) field.value = seen[name];
      field.classList.toggle("offered", seen.offered.includes(name));
    }
    $("offer").hidden = seen.offered.length === 0;
  }

  paintProgress() {
    const { decisions, saver } = this;
    const all = this.data.pairs.length, done = decisions.numDecided();
    $("progress").max = Math.max(1, all);
    $("progress").value = done;
    $("decided").textContent = `${numeral(done)} of ${numeral(all)} decided`;
    $("who").textContent = decisions.reviewer ? `Reviewer: ${decisions.reviewer}` : "Your name";
    $("download").disabled = decisions.said.size === 0;
    let status = decisions.said.size && decisions.reviewer ? "kept in this browser" : "";
    if (decisions.isForgetful) status = "this browser keeps nothing: download before you leave";
    if (saver && decisions.reviewer) status = saver.status();
    $("saved").textContent = status;
    $("saved").classList.toggle("warning", Boolean(saver?.fault) || decisions.isForgetful);
    $("undo").disabled = decisions.past.length === 0;
  }
}
