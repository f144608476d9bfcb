
// The reviewer's side: accept, reject, pattern, words; who says so, and how much is done.

class Review {
  constructor(data, decisions, gallery, viewer) {
    Object.assign(this, { data, decisions, gallery, viewer, waiting: null });
    this.saver = isServed() ? new Saver(decisions, () => this.goOn()) : null;
    decisions.listeners.push((pair) => {
      gallery.repaint(pair);
      this.paintProgress();
      this.paintOpen();
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
    on("who", "click", () => this.ask(null));
    on("name-form", "submit", (event) => {
      event.preventDefault();
      const name = $("name").value.trim();
      $("name-fault").hidden = REVIEWER.test(name);
      if (!REVIEWER.test(name)) return;
      $("name-dialog").close("named");
      if (name !== this.decisions.reviewer) (this.saver ?? this.decisions).call(name);
      this.goOn();
    });
    on("name-dialog", "close", () => {
      if ($("name-dialog").returnValue !== "named") this.waiting = null;
      this.paintOpen();
      if (!this.viewer.isOpen) this.gallery.focus();
    });
  }

  ask(then) {
    this.waiting = then;
    $("name").value = this.decisions.reviewer;
    $("name-fault").hidden = true;
    $("name-dialog").returnValue = "";
    $("name-dialog").showModal();
  }

  // Whether the reviewer has a name, and the page knows what that reviewer said before.
  get isReady() {
    return this.decisions.reviewer !== "" && (this.saver?.isLoaded ?? true);
  }

  // Nothing is said by nobody: whoever has no name yet is asked, and then it is done. One thing
  // waits at a time: a second one could be meant for a pair that is not shown yet.
  byName(action) {
    if (!this.gallery.order.length) return;
    if (this.isReady) action(this.gallery.pair);
    else if (!this.waiting) {
      const { pair } = this.gallery;
      const then = () => action(pair);
      if (this.decisions.reviewer) this.waiting = then;
      else this.ask(then);
    }
  }

  goOn() {
    this.paintProgress();
    this.paintOpen();
    const { waiting } = this;
    if (!waiting || !this.isReady || $("name-dialog").open) return;
    this.waiting = null;
    waiting();
  }

  // ---- what is said

  decide(outcome, stays) {
    this.byName((pair) => {
      if (outcome === "accept") this.decisions.accept(pair);
      else this.decisions.change(pair, { decision: "reject" });
      // Whoever went elsewhere while it waited stays there.
      if (!stays && pair === this.gallery.pair) this.go(this.gallery.cursor + 1);
    });
  }

  sort(number) {
    this.byName((pair) => {
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
      field.addEventListener("input", () => {
        const { value } = field, hadToWait = !this.isReady;
        this.byName((pair) => {
          // What was said before is longer than what was typed before it was known.
          const isSaid = Boolean(this.decisions.said.get(pair.pair_id)?.[name]);
          if (hadToWait && isSaid) this.paintOpen();
          else this.decisions.change(pair, { [name]: value }, { goesOn: true });
        });
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

  paintOpen() {
    if (this.viewer.isOpen) this.paint();
  }

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
      // Nothing is typed over what is not known yet.
      field.readOnly = this.decisions.reviewer !== "" && !this.isReady;
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
    if (decisions.isForgetful) {
      const num = numeral(decisions.unkept.size);
      status = `this browser did not keep what you said of ${num}: download before you close this tab`;
    }
    if (saver && decisions.reviewer) status = saver.status();
    $("saved").textContent = status;
    $("saved").classList.toggle("warning", Boolean(saver?.fault || saver?.note) || decisions.isForgetful);
    $("undo").disabled = decisions.past.length === 0;
  }
}
