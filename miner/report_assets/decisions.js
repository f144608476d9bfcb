
// What the reviewer says of pairs. It is kept in the browser as it is said, a record for each pair,
// so that it outlives a reload and two tabs do not overwrite each other.

const TEXTS = ["difference", "question", "option_1", "option_2"];
const STATEMENTS = ["statement_1", "statement_2"];
const SUGGESTED = ["pattern", ...TEXTS];
const REVIEWER = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const MAX_UNDO = 1000;

class Decisions {
  constructor(data) {
    Object.assign(this, { data, said: new Map(), past: [], listeners: [], unkept: new Set() });
    this.byId = new Map();
    for (const pair of data.pairs) this.byId.set(pair.pair_id, pair);
    const name = memory.get("blindpairs-reviewer") ?? "";
    this.reviewer = REVIEWER.test(name) ? name : "";
    this.recall();
    // What the browser does not keep is gone with the page, unless a server has it.
    addEventListener("beforeunload", (event) => {
      if (this.isForgetful && !isServed()) event.preventDefault();
    });
    // Another tab decided.
    addEventListener("storage", ({ key }) => {
      if (!key?.startsWith(this.place())) return;
      const pair = this.byId.get(key.slice(this.place().length));
      if (pair) this.take(pair, this.parse(memory.get(key)));
    });
  }

  place() {
    return `blindpairs-review:${this.data.fingerprint}:${this.reviewer}:`;
  }

  // What a browser remembers may have been changed by whoever else may write there.
  parse(text) {
    try {
      const found = JSON.parse(text);
      if (Number.isNaN(Date.parse(found?.decided_at))) return null;
      const said = { decided_at: found.decided_at };
      const isDecision = [null, "accept", "reject"].includes(found.decision);
      if (isDecision) said.decision = found.decision;
      const isPattern = found.pattern === null
        || Object.hasOwn(this.data.patterns, String(found.pattern));
      if ("pattern" in found && isPattern) said.pattern = found.pattern && Number(found.pattern);
      for (const name of [...TEXTS, ...STATEMENTS]) {
        if (typeof found[name] === "string") said[name] = found[name];
      }
      return said;
    } catch {
      return null;
    }
  }

  recall() {
    this.said.clear();
    this.past = [];
    this.unkept.clear();
    if (!this.reviewer) return;
    const place = this.place();
    for (const name of memory.names()) {
      if (!name.startsWith(place)) continue;
      const said = this.parse(memory.get(name));
      if (said) this.said.set(name.slice(place.length), said);
    }
  }

  call(name) {
    this.reviewer = name;
    memory.set("blindpairs-reviewer", name);
    this.recall();
    this.tell(null);
  }

  tell(pair) {
    for (const listener of this.listeners) listener(pair);
  }

  // What is shown of a pair: what was said, and where nothing was, what is suggested.
  see(pair) {
    const said = this.said.get(pair.pair_id) ?? {};
    const offer = this.data.suggestions[pair.pair_id] ?? {};
    const offered = said.decision === "reject"
      ? [] : SUGGESTED.filter((name) => !(name in said) && name in offer);
    const seen = { decision: said.decision ?? null, decided_at: said.decided_at, offered };
    for (const name of SUGGESTED) {
      seen[name] = (offered.includes(name) ? offer[name] : said[name])
        ?? (name === "pattern" ? null : "");
    }
    return seen;
  }

  // What is suggested becomes what was said when the pair is accepted.
  accept(pair) {
    const { offered, ...seen } = this.see(pair);
    const taken = Object.fromEntries(offered.map((name) => [name, seen[name]]));
    this.change(pair, { ...taken, decision: "accept" });
  }

  change(pair, changes, { goesOn = false } = {}) {
    const before = this.said.get(pair.pair_id);
    const last = this.past.at(-1);
    // Letters of one text are undone at once.
    const isSame = goesOn && last?.pair === pair && last.field === Object.keys(changes)[0];
    if (!isSame) this.past.push({ pair, before, field: goesOn ? Object.keys(changes)[0] : null });
    if (this.past.length > MAX_UNDO) this.past.shift();
    this.keep(pair, { ...before, ...changes });
  }

  undo() {
    const last = this.past.pop();
    if (!last) return null;
    this.keep(last.pair, last.before ?? { decision: null });
    return last.pair;
  }

  keep(pair, said) {
    const before = Date.parse(this.said.get(pair.pair_id)?.decided_at ?? "") || 0;
    // The later of two stands, also when the clock was set back.
    const now = new Date(Math.max(Date.now(), before + 1)).toISOString();
    const kept = { ...said, decided_at: now };
    this.said.set(pair.pair_id, kept);
    this.remember(pair.pair_id);
    this.tell(pair);
  }

  // A browser that is full says no; whatever it did not keep is tried again each time.
  remember(id) {
    for (const each of new Set([...this.unkept, id])) {
      const isKept = memory.set(this.place() + each, JSON.stringify(this.said.get(each)));
      if (isKept) this.unkept.delete(each);
      else this.unkept.add(each);
    }
  }

  get isForgetful() {
    return this.unkept.size > 0;
  }

  // What was said elsewhere, unless something later was said here; whether it was taken.
  take(pair, said) {
    const here = this.said.get(pair.pair_id);
    if (!said || (here && here.decided_at >= said.decided_at)) return false;
    this.said.set(pair.pair_id, said);
    this.remember(pair.pair_id);
    this.tell(pair);
    return true;
  }

  // What the run has of a pair: all of it, or, of an older line, what was not said here.
  merge(pair, there) {
    if (this.take(pair, there)) return;
    const here = this.said.get(pair.pair_id);
    const missing = Object.entries(there).filter(([name, word]) => word && !(name in here));
    if (!missing.length) return;
    this.said.set(pair.pair_id, { ...here, ...Object.fromEntries(missing) });
    this.remember(pair.pair_id);
    this.tell(pair);
  }

  numDecided() {
    return this.data.pairs.filter((pair) => this.said.get(pair.pair_id)?.decision).length;
  }

  // ---- lines of a file; the names in their order, as the miner writes them

  lineOf(pair) {
    const said = this.said.get(pair.pair_id);
    const [one, two] = pair.images;
    const text = (name) => (said[name] ?? "").toWellFormed();
    return JSON.stringify({
      decided_at: said.decided_at,
      decision: said.decision ?? null,
      difference: text("difference"),
      image_1: one.image_id.slice(0, 2000).toWellFormed(),
      image_2: two.image_id.slice(0, 2000).toWellFormed(),
      option_1: text("option_1"),
      option_2: text("option_2"),
      pair_id: pair.pair_id,
      pattern: said.pattern ?? null,
      question: text("question"),
      reviewer: this.reviewer,
      sha256_1: one.sha256,
      sha256_2: two.sha256,
      statement_1: text("statement_1"),
      statement_2: text("statement_2"),
    });
  }

  linesOf(ids) {
    return ids.map((id) => `${this.lineOf(this.byId.get(id))}\n`).join("");
  }

  allLines() {
    const ids = [...this.said.keys()].filter((id) => this.byId.has(id)).sort();
    return this.linesOf(ids);
  }

  // A line of the run's file, seen from this page's image 1.
  readLine(text) {
    const line = JSON.parse(text);
    const pair = this.byId.get(line.pair_id);
    if (!pair) return null;
    const isTurned = line.sha256_1 !== pair.images[0].sha256;
    const said = this.parse(JSON.stringify({
      decision: line.decision ?? null, decided_at: line.decided_at,
    }));
    if (!said) throw new Error("decided_at is no time");
    for (const name of ["pattern", ...TEXTS, ...STATEMENTS]) {
      const there = isTurned ? name.replace(/_[12]$/, (end) => (end === "_1" ? "_2" : "_1")) : name;
      // What is empty was not said, unless the pair was accepted as it stands.
      if (line[there] || line.decision === "accept") said[name] = line[there];
    }
    return { pair, said };
  }
}
